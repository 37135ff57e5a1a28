"""Paired tests: whether one model is better than another on the same users, with Holm's correction.

Confidence intervals of single scores belong in `bootstrap`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import conform, empty, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates
from recsys_assets.recommender.evaluation.result import EvaluationResult, improvement, is_leading
from recsys_assets.recommender.evaluation.score_table import BASELINE, POPULARITY, RANDOM, SELECTED, UPPER_BOUND

# Baselines: two models that learn nothing about users, and case study A's adjusted ALS.
TESTED_AGAINST = (POPULARITY, BASELINE, "als_adjusted")
_TABLE = TABLES["paired_tests"]
# Swaps in memory at a time: 64 MiB as float64.
_CELLS = 2**23
# Rounding error of sums of the same numbers in another order is smaller.
_ROUNDING = 1e-12


class _Pair(NamedTuple):
    """A model and a baseline, with the same metric of each."""

    model: str
    baseline: str
    own: UserMetric
    other: UserMetric

    @property
    def improvement(self) -> UserMetric:
        """Improvement of the model over the baseline; positive is better, also for errors."""
        return improvement(self.own, self.other, self.own.name)


def paired_tests(
    measured: EvaluationResult,
    *,
    baselines: Sequence[str] = TESTED_AGAINST,
    seed: int = 0,
    n_resamples: int = 1000,
    n_swaps: int = 9999,
) -> pl.DataFrame:
    """Tests every model against every baseline by the leading metrics, in each population: table `paired_tests`.

    The p-value comes from a two-sided paired randomization test (Fisher; for rankings Smucker et al. 2007): the share
    of random swaps, in which model and baseline swap places for each user with probability 1/2, whose difference is at
    least as large. All tests of one metric, over models, baselines and populations, are one family of Holm's correction
    (Holm 1979). `selected` repeats the rows of the selected model and does not count in the family.

    Args:
        measured: the result of a protocol.
        baselines: models to compare with. Baselines without a score are skipped; each baseline is also tested against
            the baselines before it.
        seed: random seed of the resamples and of the swaps.
        n_resamples: number of bootstrap resamples per interval.
        n_swaps: number of random swaps per p-value.
    """
    pairs = list(_pairs(measured.metrics, baselines))
    drawn = {"seed": seed, "n_resamples": n_resamples}
    rows = [
        (measured.protocol, pair.model, pair.baseline, population, pair.own.name, *found, int(users.sum()))
        for population, users in measured.populations.items()
        for pair, found in _tested([p for p in pairs if _is_given(p, population)], users, n_swaps, **drawn)
    ]
    names = [name for name in _TABLE.columns if name != "p_holm"]
    if not rows:
        return empty(_TABLE)
    table = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    corrected = table.with_columns(p_holm=pl.col("p").map_batches(holm, return_dtype=pl.Float64).over("metric"))
    return to_polars(conform(lazy(_with_selected(corrected, measured.metrics)), _TABLE)).sort(_TABLE.order)


def _pairs(metrics: Mapping[str, Sequence[UserMetric]], baselines: Sequence[str]) -> Iterator[_Pair]:
    for place, baseline in enumerate(baselines):
        others = {metric.name: metric for metric in metrics.get(baseline, ())}
        for model, of_model in metrics.items():
            if model in (RANDOM, UPPER_BOUND, SELECTED, *baselines[: place + 1]):
                continue
            for metric in of_model:
                if is_leading(metric.name) and metric.name in others:
                    yield _Pair(model, baseline, metric, others[metric.name])


def _is_given(pair: _Pair, population: str) -> bool:
    return all(side.populations is None or population in side.populations for side in (pair.own, pair.other))


def _tested(
    pairs: Sequence[_Pair], users: np.ndarray, n_swaps: int, *, seed: int, n_resamples: int
) -> Iterator[tuple[_Pair, tuple[float, float, float, float]]]:
    """Each pair with a defined improvement: the improvement, the ends of its confidence interval and the p-value."""
    found = estimates([pair.improvement for pair in pairs], users, seed=seed, n_resamples=n_resamples)
    defined = [(pair, estimate) for pair, estimate in zip(pairs, found, strict=True) if estimate is not None]
    p_values = _swap_test([pair for pair, _ in defined], users, seed=seed, n_swaps=n_swaps)
    for (pair, estimate), p in zip(defined, p_values, strict=True):
        yield pair, (estimate.value, estimate.low, estimate.high, p)


def _swap_test(pairs: Sequence[_Pair], users: np.ndarray, *, seed: int, n_swaps: int) -> np.ndarray:
    """p-values of shape (pairs,); all pairs share the same swaps."""
    if not pairs:
        return np.zeros(0)
    own, other = (np.column_stack([part[users] for p in pairs for part in getattr(p, side).parts]) for side in _SIDES)
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // len(own))
    as_extreme = np.zeros(len(pairs))
    shift = (other - own).astype(np.float64)
    observed = _differences(pairs, own.sum(axis=0)[None], other.sum(axis=0)[None])[0]
    limit = np.abs(observed) * (1 - _ROUNDING) - _ROUNDING
    for start in range(0, n_swaps, block):
        swapped = rng.integers(0, 2, (min(block, n_swaps - start), len(own)), dtype=np.int8).astype(np.float64) @ shift
        drawn = np.abs(_differences(pairs, own.sum(axis=0) + swapped, other.sum(axis=0) - swapped))
        # Undefined differences (NaN) count as extreme, so that they never make a p-value smaller.
        as_extreme += (~(drawn < limit)).sum(axis=0)
    return (1 + as_extreme) / (1 + n_swaps)


_SIDES = ("own", "other")


def _differences(pairs: Sequence[_Pair], own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Differences of the metrics of each pair: shape (swaps, pairs), from totals of shape (swaps, parts)."""
    ends = np.cumsum([len(pair.own.parts) for pair in pairs])[:-1]
    sides = zip(pairs, np.split(own, ends, axis=1), np.split(other, ends, axis=1), strict=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.column_stack([pair.own.formula(*a.T) - pair.other.formula(*b.T) for pair, a, b in sides])


def holm(p_values: pl.Series) -> pl.Series:
    """Holm's step-down correction of one family of p-values (Holm 1979).

    Example:
        >>> holm(pl.Series("p", [0.01, 0.5, 0.02])).to_list()
        [0.03, 0.5, 0.04]
    """
    p = p_values.to_numpy()
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return pl.Series(p_values.name, corrected)


def _with_selected(tests: pl.DataFrame, metrics: Mapping[str, Sequence[UserMetric]]) -> pl.DataFrame:
    """The tests, followed by the tests of the selected models repeated as `selected`."""
    chosen = {id(metric) for metric in metrics.get(SELECTED, ())}
    twins = pl.DataFrame(
        [
            (model, metric.name)
            for model, of_model in metrics.items()
            for metric in of_model
            if model != SELECTED and id(metric) in chosen
        ],
        schema={"model": pl.String, "metric": pl.String},
        orient="row",
    )
    repeated = tests.join(twins, on=["model", "metric"], how="semi").with_columns(model=pl.lit(SELECTED))
    return pl.concat([tests, repeated])
