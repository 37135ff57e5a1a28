"""Metrics against the definitions of other software: scikit-learn, ranx, recommenders, RecTools.

scikit-learn is called; ranx's numbers were computed with ranx 0.3.21; the definitions of the others, which do not fit
beside our libraries, are written out.
"""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    label_ranking_average_precision_score,
    mean_absolute_error,
    ndcg_score,
    r2_score,
    root_mean_squared_error,
)

from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.lists import ListMetrics
from recsys_assets.recommender.evaluation.metrics import RankingMetrics, RatingMetrics
from recsys_assets.recommender.evaluation.rows import ScoredRows, distribution

INDEX = {"user": pl.Int32, "item": pl.Int32}
# Ranks of each user's relevant items in lists of 15.
RANKS = {0: [2, 5, 11], 1: [12], 2: [1], 3: [3, 4, 10, 14]}


def _rows(pairs: list[tuple[int, int, float]]) -> ScoredRows:
    return ScoredRows.of(pl.DataFrame(pairs, schema={**INDEX, "rating": pl.Float32}, orient="row"), seed=0)


def _values(metrics: list[UserMetric]) -> dict[str, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {metric.name: float(metric.formula(*(part.sum() for part in metric.parts))) for metric in metrics}


def _ranked(ranks: dict[int, list[int]], k: int) -> dict[str, float]:
    """Our metrics where the item's number is its rank."""
    rows = _rows([(user, rank, 5.0) for user, of_user in ranks.items() for rank in of_user])
    return _values(RankingMetrics(rows, k).of_ranks(rows.frame["item"].to_numpy().astype(float)))


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (5, [0.46023531619259656, 0.5416666666666666, 0.25, 0.3770833333333333, 0.4583333333333333, 0.75]),
        (10, [0.4884466015298303, 0.6041666666666666, 0.15, 0.39583333333333337, 0.4583333333333333, 0.75]),
    ],
)
def test_rankings_agree_with_ranx(k, expected):
    """Our top-N table could not be put beside those that were made with ranx."""
    names = [f"{name}_{k}" for name in ("ndcg", "recall", "precision", "map", "mrr", "hit_rate")]
    assert _ranked(RANKS, k) == pytest.approx(dict(zip(names, expected, strict=True)))


ranked_users = st.lists(
    st.lists(st.integers(1, 15), min_size=1, max_size=8, unique=True).map(sorted), min_size=1, max_size=5
).map(lambda users: dict(enumerate(users)))


@settings(max_examples=60)
@given(ranked_users, st.integers(1, 12))
def test_rankings_agree_with_recommenders_and_rectools(ranks, k):
    """A score here and one from a paper that used these packages would be different things under one name."""
    ours = _ranked(ranks, k)
    users = range(len(ranks))
    hits = [[rank for rank in ranks[user] if rank <= k] for user in users]
    relevant = [len(ranks[user]) for user in users]
    gain = [sum(1 / np.log2(rank + 1) for rank in of_user) for of_user in hits]
    ideal = [sum(1 / np.log2(place + 2) for place in range(n)) for n in range(k + 1)]
    average_precision = [
        sum(place / rank for place, rank in enumerate(of_user, 1)) / n
        for of_user, n in zip(hits, relevant, strict=True)
    ]
    # recommenders: precision_at_k, recall_at_k, map, and ndcg_at_k with binary relevance. RecTools: Precision, Recall,
    # MAP(divide_by_k=False), MRR and HitRate are the same.
    assert ours[f"precision_{k}"] == pytest.approx(np.mean([len(of_user) / k for of_user in hits]))
    assert ours[f"recall_{k}"] == pytest.approx(np.mean([len(h) / n for h, n in zip(hits, relevant, strict=True)]))
    assert ours[f"map_{k}"] == pytest.approx(np.mean(average_precision))
    assert ours[f"mrr_{k}"] == pytest.approx(np.mean([1 / h[0] if h else 0 for h in hits]))
    assert ours[f"hit_rate_{k}"] == pytest.approx(np.mean([bool(h) for h in hits]))
    assert ours[f"ndcg_{k}"] == pytest.approx(
        np.mean([g / ideal[min(k, n)] for g, n in zip(gain, relevant, strict=True)])
    )
    # RecTools' NDCG divides by the ideal of k relevant items, however few there are: never above ours.
    assert np.mean([g / ideal[k] for g in gain]) <= ours[f"ndcg_{k}"] + 1e-12


@settings(max_examples=40)
@given(ranked_users)
def test_rankings_agree_with_scikit_learn(ranks):
    """Average precision and NDCG would mean something else here than everywhere else."""
    truth = np.array([[place in of_user for place in range(1, 16)] for of_user in ranks.values()])
    scores = np.tile(np.arange(15.0, 0, -1), (len(ranks), 1))
    ours = _ranked(ranks, 15)
    assert ours["map_15"] == pytest.approx(label_ranking_average_precision_score(truth, scores))
    assert ours["ndcg_15"] == pytest.approx(ndcg_score(truth, scores))


ratings = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 10), st.floats(0, 6)), min_size=3, max_size=40).map(
    lambda rows: [(user, place, stars / 2, guess) for place, (user, stars, guess) in enumerate(rows)]
)


@settings(max_examples=60)
@given(ratings)
def test_errors_agree_with_scikit_learn(rows):
    """RMSE, MAE or R² would be averaged over users instead of pooled over rows, as papers do."""
    scored = _rows([row[:3] for row in rows])
    guesses = {(user, item): guess for user, item, _, guess in rows}
    guess = np.array([guesses[pair] for pair in scored.frame.select("user", "item").iter_rows()])
    ours = _values(RatingMetrics(scored).errors(guess))
    assert ours["rmse"] == pytest.approx(root_mean_squared_error(scored.rating, guess))
    assert ours["mae"] == pytest.approx(mean_absolute_error(scored.rating, guess))
    if np.ptp(scored.rating):
        assert ours["r2"] == pytest.approx(r2_score(scored.rating, guess))


@settings(max_examples=60)
@given(ratings, st.lists(st.integers(1, 10), min_size=1, max_size=12))
def test_the_random_rater_is_the_mean_over_all_draws(rows, train):
    """The lower bound of RMSE would be off, and with it every gain over it."""
    scored = _rows([row[:3] for row in rows])
    known = lazy(pl.DataFrame({"rating": pl.Series([stars / 2 for stars in train], dtype=pl.Float32)}))
    ours = _values(RatingMetrics(scored).random_ratings(*distribution(known)))
    errors = np.subtract.outer(np.array(train) / 2, scored.rating)
    assert ours["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert ours["mae"] == pytest.approx(np.abs(errors).mean())


# Lists


def _lists(rows: list[tuple[int, int, int]]):
    return lazy(pl.DataFrame(rows, schema={**INDEX, "rank": pl.Int32}, orient="row"))


@pytest.fixture
def described() -> tuple[ListMetrics, dict[str, np.ndarray]]:
    """Three users; item 0 rated by all four training users, 1 by two, 2 by one, 3 and 4 by nobody."""
    train = [(10, 0), (11, 0), (12, 0), (13, 0), (10, 1), (11, 1), (12, 2)]
    known = lazy(pl.DataFrame(train, schema=INDEX, orient="row"))
    genres = [["Drama"], ["Drama", "War"], ["War"], None, ["Comedy"]]
    items = lazy(pl.DataFrame({"item": range(5), "genres": genres}, schema_overrides={"item": pl.Int32}))
    rows = _rows([(0, 1, 5.0), (1, 0, 4.0), (1, 2, 4.0), (2, 4, 5.0)])
    masks = {"all": np.ones(3, bool), "seen": np.array([True, True, False])}
    return ListMetrics(rows, known, items, masks, k=3), masks


def test_lists_are_described_by_hand(described):
    """Novelty, popularity and diversity would not be those of RecTools and recommenders."""
    metrics, _ = described
    found = metrics.of_lists(_lists([(0, 0, 1), (0, 1, 2), (0, 4, 4), (1, 1, 1), (1, 2, 2), (1, 3, 3), (9, 4, 1)]))
    of_users = {m.name: m.parts[0] / np.maximum(m.parts[1], 1) for m in found if m.name != "catalog_coverage"}
    # -log2 of the shares 4/4, 2/4, 1/4; an item that nobody rated counts as rated by one.
    assert of_users["novelty_3"] == pytest.approx([(0 + 1) / 2, (1 + 2 + 2) / 3, 0])
    assert of_users["popularity_3"] == pytest.approx([(1 + 0.5) / 2, (0.5 + 0.25 + 0) / 3, 0])
    assert of_users["popularity_bias_3"] == pytest.approx([0.75 - 0.5, 0.25 - (1 + 0.25) / 2, 0])
    # Drama and {Drama, War} share one of two genres; nothing is known of item 3.
    assert of_users["genre_diversity_3"] == pytest.approx([0.5, (0.5 + 1 + 1) / 3, 0])
    assert _values(found)["novelty_3"] == pytest.approx((0.5 + 5 / 3) / 2)


def test_coverage_is_of_all_lists_together(described):
    """A recommender that shows everybody the same ten items would not be told from one that does not."""
    metrics, masks = described
    lists = _lists([(0, 0, 1), (0, 1, 2), (1, 1, 1), (1, 2, 2), (2, 3, 1)])
    coverage = {
        name: _values([metric])["catalog_coverage"]
        for metric in metrics.of_lists(lists)
        for name in metric.populations or ()
    }
    assert coverage == pytest.approx({"all": 4 / 5, "seen": 3 / 5})
    [of_all] = [m for m in metrics.of_lists(lists) if m.populations == {"all"}]
    left_out = [
        len({item for user, item in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 3)] if user != out}) / 5 for out in range(3)
    ]
    spread = np.sqrt(2 / 3 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    assert of_all.parts[0].std(ddof=1) / np.sqrt(3) == pytest.approx(spread)
    assert masks.keys() == coverage.keys()


def test_diversity_is_the_mean_over_pairs():
    """A list of one genre would look as varied as one of many."""
    names = ["Drama", "War", "Comedy", "Crime"]
    generator = np.random.default_rng(0)
    genres = [sorted(generator.choice(names, generator.integers(1, 4), replace=False)) for _ in range(8)]
    items = lazy(pl.DataFrame({"item": range(8), "genres": genres}, schema_overrides={"item": pl.Int32}))
    train = lazy(pl.DataFrame({"user": [0], "item": [0]}, schema=INDEX))
    metrics = ListMetrics(_rows([(0, 0, 5.0)]), train, items, {}, k=6)
    found = {m.name: m for m in metrics.of_lists(_lists([(0, item, item + 1) for item in range(6)]))}
    distances = [1 - len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in itertools.combinations(genres[:6], 2)]
    assert found["genre_diversity_6"].parts[0][0] == pytest.approx(np.mean(distances))
