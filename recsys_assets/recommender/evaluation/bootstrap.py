"""Bootstrap over users: 95 % confidence intervals for every metric.

A metric is a formula over sums of per-user parts, so a resample is the number of times each user was drawn.
The parts of each metric belong in `metrics`, paired tests in `significance`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

LEVELS = (0.025, 0.975)
# Draw counts in memory at a time: 128 MiB as float64. Fewer make the matrix products slow, more bring no speed.
_CELLS = 2**24


@dataclass(frozen=True, eq=False)
class UserMetric:
    """One metric of one model: `formula` applied to the sums of `parts` over users.

    Args:
        name: name of the metric.
        formula: takes one array of totals per part, all of the same shape, and returns the metric in that shape;
            not finite where the metric is undefined.
        parts: arrays of shape (users,). The last one is the number of scored rows. Metrics should share the same
            array object for the same part: it is then resampled once.
        populations: names of the populations that have this metric; None for all.
    """

    name: str
    formula: Callable[..., np.ndarray]
    parts: tuple[np.ndarray, ...]
    populations: frozenset[str] | None = None


class Estimate(NamedTuple):
    """A score, the number of rows behind it, and the ends of its 95 % confidence interval."""

    value: float
    n: int
    low: float
    high: float


def resampled_totals(parts: np.ndarray, *, seed: int, n_resamples: int) -> np.ndarray:
    """Column sums over resamples of the users, drawn with replacement; a resample has as many users as `parts`.

    The draws depend only on the seed and the number of users. All columns and all calls therefore share the same
    resamples, which makes differences between models paired.

    Args:
        parts: shape (users, parts), at least one user.
        seed: random seed of the draws.
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

    The interval of a metric ignores resamples in which the metric is undefined.

    Args:
        metrics: the metrics; the parts of all of them cover the same users.
        users: boolean mask of shape (users,).
        seed: random seed of the draws.
        n_resamples: number of resamples, at least 1.

    Returns:
        One entry per metric; None where the metric is undefined.

    Example:
        >>> import numpy as np
        >>> squared_errors, n_rows = np.array([4.0, 1.0, 9.0]), np.array([4.0, 1.0, 4.0])
        >>> rmse = UserMetric("rmse", lambda sse, n: np.sqrt(sse / n), (squared_errors, n_rows))
        >>> [estimate] = estimates([rmse], np.ones(3, bool), seed=0, n_resamples=1000)
        >>> round(estimate.value, 3), estimate.n, estimate.low < estimate.value < estimate.high
        (1.247, 9, True)
    """
    scores = resampled_scores(metrics, users, seed=seed, n_resamples=n_resamples)
    return [_estimate(metric, of_metric, users) for metric, of_metric in zip(metrics, scores, strict=True)]


def resampled_scores(
    metrics: Sequence[UserMetric], users: np.ndarray, *, seed: int, n_resamples: int
) -> list[np.ndarray]:
    """Each metric over the chosen users, followed by the same metric over resamples of these users.

    Two calls with the same seed and the same number of users draw the same resamples. Scores of two models on the same
    users can therefore be compared resample by resample, even if they were computed at different times (paired
    bootstrap).

    Args:
        metrics: the metrics; the parts of all of them cover the same users.
        users: boolean mask of shape (users,).
        seed: random seed of the draws.
        n_resamples: number of resamples, at least 1.

    Returns:
        One array of shape (1 + n_resamples,) per metric; not finite where the metric is undefined. An empty mask gives
        arrays of shape (1,) with NaN.
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
    """Ends of the 95 % confidence interval from the output of `resampled_scores`; undefined resamples are ignored.

    Resamples of few users vary too little, so percentile intervals are too narrow. The percentiles are therefore
    moved outwards by Student's t and n / (n - 1) (Hesterberg 2015, "What teachers should know about the bootstrap",
    section 5.3): for 20 users to the 1.6th and the 98.4th.

    Args:
        scores: shape (1 + n_resamples,): the score of the users, then the scores of the resamples.
        n_users: number of users; None takes the 2.5th and the 97.5th percentile.

    Example:
        >>> import numpy as np
        >>> scores = np.concatenate([[50], np.arange(101)])
        >>> interval(scores)
        (2.5, 97.5)
        >>> low, high = interval(scores, n_users=20)
        >>> round(low, 1), round(high, 1)
        (1.6, 98.4)
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
