"""Standings: the models by one metric on one population, best first, with their bounds.

Sentences about standings belong in `headline`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from recsys_assets.recommender.report import labels

APART, OVERLAP = "intervals apart", "intervals overlap"


@dataclass(frozen=True)
class ModelScore:
    """One score of one model."""

    model: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Standings:
    """The models by one metric on one population, best first; bounds are separate."""

    protocol: str
    metric: str
    population: str
    models: tuple[ModelScore, ...]
    random: ModelScore | None
    upper_bound: ModelScore | None

    @property
    def winners(self) -> tuple[ModelScore, ...]:
        """The best model and all models with the same score (`selected` repeats a model)."""
        return tuple(entry for entry in self.models if abs(entry.value - self.models[0].value) < 1e-12)

    @property
    def winner(self) -> str:
        """Labels of the winners."""
        return " = ".join(labels.model(entry.model) for entry in self.winners)

    @property
    def runner_up(self) -> ModelScore | None:
        """The best model that is not a winner, or None."""
        return next(iter(self.models[len(self.winners) :]), None)

    @property
    def baseline(self) -> ModelScore | None:
        """The best simple baseline; None if a baseline is among the winners."""
        won = {entry.model for entry in self.winners} & set(labels.BASELINES)
        return None if won else next((entry for entry in self.models if entry.model in labels.BASELINES), None)

    @property
    def way(self) -> float | None:
        """Gain of the winner: 0 is random, 1 the upper bound; None if a bound is missing or both are equal."""
        if self.random is None or self.upper_bound is None or self.random.value == self.upper_bound.value:
            return None
        gained = self.models[0].value - self.random.value
        return gained / (self.upper_bound.value - self.random.value)

    def shown(self, entry: ModelScore) -> str:
        """The score with the decimals of its metric."""
        return labels.metric(self.metric).shown(entry.value)

    def certainty(self, other: ModelScore | None) -> str:
        """Whether the confidence intervals of the winner and of `other` overlap; empty without `other`."""
        if other is None:
            return ""
        best = self.models[0]
        return APART if best.low > other.high or best.high < other.low else OVERLAP


def contests(scores: pl.DataFrame) -> tuple[Standings, ...]:
    """The standings by the leading metrics of each protocol, populations in order."""
    return tuple(
        contest(scores, protocol, metric, population)
        for protocol in labels.ordered(scores["protocol"], labels.PROTOCOL_LABELS)
        for metric in lead_metrics(scores, protocol)
        for population in _populations(scores, protocol, metric)
    )


def lead_metrics(scores: pl.DataFrame, protocol: str) -> list[str]:
    """The leading metrics of a protocol; for an unknown protocol, the first metric with a direction."""
    metrics = labels.metrics_in_order(scores.filter(pl.col("protocol") == protocol)["metric"])
    present = [name for name in metrics if labels.metric(name).better]
    return [name for name in labels.protocol(protocol).leads if name in present] or present[:1]


def contest(scores: pl.DataFrame, protocol: str, metric: str, population: str) -> Standings:
    """The standings by one metric on one population."""
    rows = scores.filter(pl.col("protocol") == protocol, pl.col("metric") == metric, pl.col("population") == population)
    order = {name: place for place, name in enumerate(labels.ordered(rows["model"], labels.MODELS))}
    sign = 1 if labels.metric(metric).better == "lower" else -1
    entries = sorted(_entries(rows), key=lambda entry: (sign * entry.value, order[entry.model]))
    by_model = {entry.model: entry for entry in entries}
    models = tuple(entry for entry in entries if entry.model not in labels.BOUNDS)
    return Standings(
        protocol, metric, population, models, by_model.get(labels.RANDOM), by_model.get(labels.UPPER_BOUND)
    )


def _populations(scores: pl.DataFrame, protocol: str, metric: str) -> list[str]:
    """Populations with the score of at least one model; bounds do not count."""
    rows = scores.filter(pl.col("protocol") == protocol, pl.col("metric") == metric)
    return labels.ordered(rows.filter(~pl.col("model").is_in(labels.BOUNDS))["population"], labels.POPULATIONS)


def find(scores: pl.DataFrame, protocol: str, model: str, population: str, metric: str) -> ModelScore | None:
    """The score in this row of `evaluation_scores`, or None."""
    found = scores.filter(
        pl.col("protocol") == protocol,
        pl.col("model") == model,
        pl.col("population") == population,
        pl.col("metric") == metric,
    )
    return next(_entries(found), None)


def _entries(rows: pl.DataFrame) -> Iterator[ModelScore]:
    return (ModelScore(**row) for row in rows.select("model", "value", "low", "high", "n").iter_rows(named=True))
