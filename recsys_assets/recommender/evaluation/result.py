"""`EvaluationResult`: the metrics of each model as per-user parts, before they become tables.

Tables of scores, of scores per user and of paired tests are views of it. Confidence intervals belong in `bootstrap`,
paired tests in `significance`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import conform, empty, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.score_table import (
    BASELINE,
    POPULARITY,
    RANDOM,
    SELECTED,
    UPPER_BOUND,
    score_table,
)

GAIN, GAP, OVER = "_gain", "_gap", "_over_"
LOWER_IS_BETTER = ("rmse", "mae")
# Coverage is a property of all lists together, so it has no score per user.
OF_ALL_LISTS = "catalog_coverage"
BOUNDS = (RANDOM, UPPER_BOUND)
_COMPARED_WITH = (POPULARITY, BASELINE, SELECTED)
_LEADING = ("top5pct_rating", "rmse", "r2", "ndcg", "recall", "next_item_hit")


def is_leading(metric: str) -> bool:
    """Whether a metric is also reported as gain and as gap between groups, and is tested."""
    base, _, k = metric.rpartition("_")
    return (base if k.isdigit() else metric) in _LEADING


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Metrics of several models on the same users under one protocol.

    Attributes:
        protocol: name of the protocol.
        users: dense ids, ascending, of shape (users,).
        metrics: metrics by model.
        populations: by name, boolean masks of shape (users,).
        groups: by name, boolean masks of shape (users,); each group is compared with all other users.
    """

    protocol: str
    users: np.ndarray
    metrics: Mapping[str, Sequence[UserMetric]]
    populations: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def scores(self, *, seed: int, n_resamples: int) -> pl.DataFrame:
        """Table `evaluation_scores`, with two metrics derived from each leading metric.

        `<metric>_gain`: (model - random) / (upper bound - random): 0 for a random order, 1 for a perfect prediction.
        `<metric>_gap`: score of a group minus the score of all other users.

        Args:
            seed: random seed of the bootstrap.
            n_resamples: number of bootstrap resamples.
        """
        everyone = np.ones(len(self.users), dtype=bool)
        drawn = {"seed": seed, "n_resamples": n_resamples}
        gains = {model: list(self._gains(model)) for model in self.metrics if model not in BOUNDS}
        complete = {model: [*metrics, *gains.get(model, ())] for model, metrics in self.metrics.items()}
        gaps = {model: list(self._gaps(metrics)) for model, metrics in self.metrics.items()}
        tables = [
            score_table(self.protocol, complete, {**self.populations, **self.groups}, **drawn),
            score_table(self.protocol, gaps, dict.fromkeys(self.groups, everyone), **drawn),
        ]
        return pl.concat(tables).sort(TABLES["evaluation_scores"].order)

    def improvements(self, *, seed: int, n_resamples: int) -> pl.DataFrame:
        """Paired improvements over the simple baseline and over `selected`, as rows of `evaluation_scores`.

        `<metric>_over_<other>` is the improvement over another model on the same users; positive is better, also for
        errors. The simple baseline is `popularity` where it has the metric, else `item_mean`.

        Args:
            seed: random seed of the bootstrap.
            n_resamples: number of bootstrap resamples.
        """
        improved = {model: list(self._improvements(model)) for model in self.metrics if model not in BOUNDS}
        drawn = {"seed": seed, "n_resamples": n_resamples}
        return score_table(self.protocol, improved, {**self.populations, **self.groups}, **drawn)

    def user_scores(self) -> pl.DataFrame:
        """Every metric of every model for each single user: table `user_scores`.

        Pooled metrics weight users by their number of rows, so the mean of this table differs from the score.
        Undefined values have no row. `selected` is left out, because it repeats another model.
        """
        table = TABLES["user_scores"]
        parts = [
            self._of_users(model, metric)
            for model, metrics in self.metrics.items()
            for metric in metrics
            if model != SELECTED and not metric.name.startswith(OF_ALL_LISTS)
        ]
        return pl.concat([empty(table), *parts]).sort(table.order)

    def _of_users(self, model: str, metric: UserMetric) -> pl.DataFrame:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = metric.formula(*metric.parts)
        given = np.isfinite(values)
        if metric.populations is not None:
            given &= np.any([mask for name, mask in self.populations.items() if name in metric.populations], axis=0)
        rows = pl.DataFrame({"user": self.users[given], "value": values[given], "n": metric.parts[-1][given]})
        named = rows.with_columns(protocol=pl.lit(self.protocol), model=pl.lit(model), metric=pl.lit(metric.name))
        return to_polars(conform(lazy(named), TABLES["user_scores"]))

    def _gains(self, model: str) -> Iterator[UserMetric]:
        bounds = [{metric.name: metric for metric in self.metrics.get(name, ())} for name in BOUNDS]
        for metric in self.metrics[model]:
            if is_leading(metric.name) and all(metric.name in bound for bound in bounds):
                yield _gain(metric, *(bound[metric.name] for bound in bounds))

    def _improvements(self, model: str) -> Iterator[UserMetric]:
        others = {name: {metric.name: metric for metric in self.metrics.get(name, ())} for name in _COMPARED_WITH}
        for metric in self.metrics[model]:
            baseline = next((name for name in (POPULARITY, BASELINE) if metric.name in others[name]), None)
            for name in (baseline, SELECTED):
                if name and is_leading(metric.name) and metric.name in others[name]:
                    yield improvement(metric, others[name][metric.name], f"{metric.name}{OVER}{name}")

    def _gaps(self, metrics: Sequence[UserMetric]) -> Iterator[UserMetric]:
        for group, inside in self.groups.items():
            for metric in metrics:
                if is_leading(metric.name) and metric.populations is None:
                    yield _gap(metric, group, inside)


def difference(metric: UserMetric, other: UserMetric, name: str) -> UserMetric:
    """`metric` minus `other` on the same users, as one metric, so that the bootstrap is paired."""
    split = len(other.parts)

    def formula(*parts: np.ndarray) -> np.ndarray:
        return metric.formula(*parts[split:]) - other.formula(*parts[:split])

    return UserMetric(name, formula, (*other.parts, *metric.parts), metric.populations)


def improvement(metric: UserMetric, other: UserMetric, name: str) -> UserMetric:
    """Improvement of `metric` over `other` on the same users; positive is better, also for errors."""
    sides = (other, metric) if metric.name in LOWER_IS_BETTER else (metric, other)
    return difference(*sides, name)


def _gain(metric: UserMetric, random: UserMetric, upper: UserMetric) -> UserMetric:
    first = len(random.parts)
    second = first + len(upper.parts)

    def formula(*parts: np.ndarray) -> np.ndarray:
        lowest = random.formula(*parts[:first])
        return (metric.formula(*parts[second:]) - lowest) / (upper.formula(*parts[first:second]) - lowest)

    parts = (*random.parts, *upper.parts, *metric.parts)
    return UserMetric(f"{metric.name}{GAIN}", formula, parts, metric.populations)


def _gap(metric: UserMetric, group: str, inside: np.ndarray) -> UserMetric:
    name = f"{metric.name}{GAP}"
    own, others = (
        UserMetric(name, metric.formula, tuple(part * mask for part in metric.parts)) for mask in (inside, ~inside)
    )
    gap = difference(own, others, name)
    return UserMetric(name, gap.formula, gap.parts, frozenset({group}))
