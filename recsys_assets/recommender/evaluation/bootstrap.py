"""95 % intervals by bootstrap over users, one mechanism for every metric.

A metric is a formula over sums of per-user parts, so a resample of users needs only how often each user was
drawn. Which parts a metric has is told in `metrics`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

LEVELS = (0.025, 0.975)
# Draw counts held at a time: 128 MiB as float64. Fewer make the matrix products slow, more only take memory.
_CELLS = 2**24


@dataclass(frozen=True, eq=False)
class UserMetric:
    """One metric of one model: `formula` of the sums over users of `parts`.

    Args:
        name: the metric's name.
        formula: takes one array per part, all of one shape, and gives the metric in that shape; not finite
            where the metric is not defined.
        parts: arrays of shape (users,). The last one counts the rows that the score rests on. Parts that
            metrics share should be the same array: it is then resampled once.
        populations: the populations it is given for; None for all.
    """

    name: str
    formula: Callable[..., np.ndarray]
    parts: tuple[np.ndarray, ...]
    populations: frozenset[str] | None = None


class Estimate(NamedTuple):
    """A score with the number of rows it rests on and the ends of its 95 % interval."""

    value: float
    n: int
    low: float
    high: float


def resampled_totals(parts: np.ndarray, *, seed: int, n_resamples: int) -> np.ndarray:
    """Column sums over users drawn with replacement, as many as there are.

    The draws depend on seed and number of users alone: different columns, and different calls, are resampled
    alike, so that differences between models are paired.

    Args:
        parts: shape (users, parts), at least one user.
        seed: of the draws.
        n_resamples: number of resamples.

    Returns:
        Shape (n_resamples, parts).
    """
    n_users = len(parts)
    rng = np.random.default_rng(seed)
    counts = np.empty((max(1, min(n_resamples, _CELLS // n_users)), n_users))
    totals = np.empty((n_resamples, parts.shape[1]))
    for start in range(0, n_resamples, len(counts)):
        block = counts[: n_resamples - start]
        for draw in block:
            draw[:] = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)
        totals[start : start + len(block)] = block @ parts
    return totals


def estimates(
    metrics: Sequence[UserMetric], users: np.ndarray, *, seed: int, n_resamples: int
) -> list[Estimate | None]:
    """Each metric over the chosen users with its percentile interval (Efron & Tibshirani 1993, chapter 13).

    Resamples in which a metric is not defined are left out of its interval.

    Args:
        metrics: what to estimate; their parts have the same users.
        users: boolean mask of shape (users,).
        seed: of the draws.
        n_resamples: number of resamples, at least 1.

    Returns:
        One entry per metric; None where it is not defined.
    """
    scores = resampled_scores(metrics, users, seed=seed, n_resamples=n_resamples)
    return [_estimate(metric, of_metric, users) for metric, of_metric in zip(metrics, scores, strict=True)]


def resampled_scores(
    metrics: Sequence[UserMetric], users: np.ndarray, *, seed: int, n_resamples: int
) -> list[np.ndarray]:
    """Each metric over the chosen users as they are, and over resamples of them: shape (1 + n_resamples,), or (1,).

    What was resampled with the same seed from as many users was drawn alike, so that scores of two models on the same
    users may be compared resample by resample, whenever they were computed. A metric that is not defined is not finite.

    Args:
        metrics: their parts have the same users.
        users: boolean mask of shape (users,); of nobody there is one score, which is NaN.
        seed: of the draws.
        n_resamples: number of resamples, at least 1.
    """
    if not metrics or not users.any():
        return [np.array([np.nan])] * len(metrics)
    distinct = {id(part): part for metric in metrics for part in metric.parts}
    column = {key: position for position, key in enumerate(distinct)}
    parts = np.column_stack([part[users] for part in distinct.values()]).astype(np.float64, copy=False)
    totals = np.vstack([parts.sum(axis=0), resampled_totals(parts, seed=seed, n_resamples=n_resamples)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return [metric.formula(*totals[:, [column[id(part)] for part in metric.parts]].T) for metric in metrics]


def interval(scores: np.ndarray, n_users: int | None = None) -> tuple[float, float]:
    """Ends of the 95 % interval of what `resampled_scores` gave; those in which it is not defined are left out.

    Resamples of few users vary too little, and by how much a normal quantile does not tell. So the percentiles that are
    taken lie further out, by Student's t and n / (n - 1) (Hesterberg 2015, "What teachers should know about the
    bootstrap", section 5.3): of 20 users the 1.6th and the 98.4th.

    Args:
        scores: of the users as they are, then of the resamples.
        n_users: how many there are; None for so many that it makes no difference.
    """
    resampled = scores[1:][np.isfinite(scores[1:])]
    low, high = np.quantile(resampled if resampled.size else scores[:1], _levels(n_users))
    return float(low), float(high)


def _levels(n_users: int | None) -> tuple[float, float]:
    if n_users is None or n_users < 2:
        return LEVELS
    outer = float(ndtr(np.sqrt(n_users / (n_users - 1)) * stdtrit(n_users - 1, LEVELS[0])))
    return outer, 1 - outer


def _estimate(metric: UserMetric, scores: np.ndarray, users: np.ndarray) -> Estimate | None:
    if not np.isfinite(scores[0]):
        return None
    return Estimate(float(scores[0]), int(metric.parts[-1][users].sum()), *interval(scores, int(users.sum())))
