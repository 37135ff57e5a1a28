"""Paired tests: against SciPy, under the null hypothesis, and for many models at once."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.metrics import mean, root_mean
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.significance import holm, paired_tests

FEW = {"n_resamples": 100, "n_swaps": 4999}


def _ndcg(values: np.ndarray) -> UserMetric:
    return UserMetric("ndcg_10", mean, (values, np.ones(len(values))))


def _rmse(errors: np.ndarray) -> UserMetric:
    """From errors of shape (users, rows)."""
    rows = np.full(len(errors), float(errors.shape[1]))
    return UserMetric("rmse", root_mean, ((errors**2).sum(axis=1), rows))


def _measured(
    models: dict[str, list[UserMetric]], populations: dict[str, np.ndarray] | None = None
) -> EvaluationResult:
    n_users = len(next(iter(models.values()))[0].parts[0])
    masks = populations or {"all": np.ones(n_users, bool)}
    return EvaluationResult("top_n", np.arange(n_users, dtype=np.int32), models, masks)


@pytest.mark.parametrize("seed", range(4))
def test_p_values_agree_with_scipy(seed):
    """A difference would be called certain, or chance, by another yardstick than the textbook's."""
    generator = np.random.default_rng(seed)
    ours, theirs = generator.random(9) + 0.1 * seed, generator.random(9)
    tests = paired_tests(_measured({"new": [_ndcg(ours)], "popularity": [_ndcg(theirs)]}), **FEW)
    exact = permutation_test(
        (ours, theirs), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    )
    assert tests["p"].item() == pytest.approx(exact.pvalue, abs=0.03)
    assert tests["improvement"].item() == pytest.approx(exact.statistic)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_equal_models_are_not_told_apart(seed):
    """Rounding would make a model better than itself."""
    values = np.random.default_rng(seed).random(30)
    tests = paired_tests(_measured({"new": [_ndcg(values.copy())], "popularity": [_ndcg(values)]}), **FEW)
    assert tests.select("improvement", "low", "high", "p", "p_holm").row(0) == (0, 0, 0, 1, 1)


def test_chance_is_called_significant_as_often_as_it_may_be():
    """One in twenty worthless changes is the price; more would be found."""
    generator = np.random.default_rng(0)
    models = {f"m{i}": [_ndcg(generator.random(40))] for i in range(200)}
    tests = paired_tests(_measured({**models, "popularity": [_ndcg(generator.random(40) * 0 + 0.5)]}), **FEW)
    assert 0.01 < (tests["p"] < 0.05).mean() < 0.1
    assert (tests["p_holm"] < 0.05).sum() == 0


def test_lower_errors_are_an_improvement():
    """A model with larger errors would win."""
    generator = np.random.default_rng(1)
    base = generator.normal(0, 1, (60, 5))
    models = {"good": [_rmse(base * 0.8)], "item_mean": [_rmse(base)], "bad": [_rmse(base * 1.3)]}
    found = {row["model"]: row for row in paired_tests(_measured(models), **FEW).to_dicts()}
    assert found.keys() == {"good", "bad"}
    assert found["good"]["low"] > 0 > found["bad"]["high"]
    assert max(row["p_holm"] for row in found.values()) < 0.01
    rmse = np.sqrt((base**2).mean())
    assert found["good"]["improvement"] == pytest.approx(0.2 * rmse)


def test_each_pair_is_tested_once_in_each_population():
    """Tests that say the same twice would cost others their significance."""
    generator = np.random.default_rng(2)
    models = {name: [_ndcg(generator.random(20))] for name in ("popularity", "item_mean", "als_adjusted", "new")}
    models |= {"random": models["new"], "upper_bound": models["new"], "selected": models["new"]}
    half = np.arange(20) < 10
    tests = paired_tests(_measured(models, {"all": np.ones(20, bool), "seen": half, "unseen": ~half}), **FEW)
    assert tests.columns == list(TABLES["paired_tests"].columns)
    own = tests.filter(pl.col("model") != "selected")
    pairs = {frozenset(pair) for pair in own.select("model", "baseline").iter_rows()}
    assert len(own) == 3 * len(pairs) == 3 * 6
    assert dict(tests.select("population", "n_users").iter_rows()) == {"all": 20, "seen": 10, "unseen": 10}
    chosen = tests.filter(model="selected").drop("model")
    assert chosen.equals(tests.filter(model="new").drop("model"))
    assert own["p_holm"].to_numpy() == pytest.approx(holm(own["p"]).to_numpy())


def test_what_has_no_score_has_no_test():
    """A study would end in an error about types, because nobody had liked an item that is scored."""
    models = {name: [_ndcg(np.full(3, np.nan))] for name in ("popularity", "new", "selected")}
    tests = paired_tests(_measured(models), **FEW)
    assert tests.is_empty() and tests.columns == list(TABLES["paired_tests"].columns)


def test_holm_by_hand():
    """Among many models one would seem better by chance."""
    assert holm(pl.Series("p", [0.01, 0.04, 0.03, 0.005])).to_list() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(pl.Series("p", [0.9, 0.8])).to_list() == [1, 1]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values):
    """Correcting would make something significant that was not."""
    corrected = holm(pl.Series("p", p_values)).to_numpy()
    assert (corrected >= np.array(p_values) - 1e-12).all()
    assert (corrected <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p_values, kind="stable")]) >= 0).all()
