"""Standings: the models by one metric on one population, best first, with their bounds and paired improvements.

Sentences about standings belong in `verdicts`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.registry import Task
from recsys_assets.recommender.report import labels

# The selected model of each task.
Selected = Mapping[Task, str]
NOTHING_SELECTED: Selected = {}
# With fewer users, chance decides which model is best.
FEWEST_USERS = 50


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
    users: int
    leads: Mapping[str, ModelScore]

    @property
    def is_decided(self) -> bool:
        """Whether there are enough users to call a model the best."""
        return self.users >= FEWEST_USERS

    @property
    def over_baseline(self) -> tuple[str, str] | None:
        """Paired improvement of the winner over the simple baseline, and its interval; None if it is that baseline."""
        return self._lead(*reversed(labels.BASELINES))

    @property
    def over_selected(self) -> tuple[str, str] | None:
        """Paired improvement of the winner over the selected model, and its interval; None if it is selected."""
        won = labels.SELECTED in {entry.model for entry in self.winners}
        return None if won else self._lead(labels.SELECTED)

    def _lead(self, *others: str) -> tuple[str, str] | None:
        found = next((self.leads[other] for other in others if other in self.leads), None)
        if found is None or found.value == found.low == found.high == 0:
            return None
        digits = labels.metric(self.metric).digits
        value, interval = f"{found.value:+.{digits}f}", f"{found.low:.{digits}f} to {found.high:.{digits}f}"
        return value.replace("-", "−"), interval.replace("-", "−")

    @property
    def winners(self) -> tuple[ModelScore, ...]:
        """The best model and all models with the same score (`selected` repeats a model)."""
        return tuple(entry for entry in self.models if abs(entry.value - self.models[0].value) < 1e-12)

    @property
    def winner(self) -> str:
        """Labels of the winners, without the row `selected`, which repeats a model."""
        named = [entry.model for entry in self.winners if entry.model != labels.SELECTED]
        return " = ".join(map(labels.model, named or [labels.SELECTED]))

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
    best = models[0].model if models else ""
    leads = {
        other: found
        for other in (*labels.BASELINES, labels.SELECTED)
        if (found := find(scores, protocol, best, population, labels.improvement(metric, other)))
    }
    return Standings(
        protocol,
        metric,
        population,
        models,
        by_model.get(labels.RANDOM),
        by_model.get(labels.UPPER_BOUND),
        scored_users(scores, protocol, population),
        leads,
    )


def scored_users(scores: pl.DataFrame, protocol: str, population: str) -> int:
    """Number of users behind the scores of a population; 0 without scores.

    Metrics of ratings count rows, metrics of lists count users: the smallest number bounds the users. `time_cut` and
    `top_n` have the same test users.
    """
    same = ("time_cut", "top_n") if protocol in ("time_cut", "top_n") else (protocol,)
    rows = scores.filter(pl.col("protocol").is_in(same), pl.col("population") == population)
    return int(rows["n"].to_numpy().min()) if len(rows) else 0


def repeated(scores: pl.DataFrame, protocol: str, metric: str, selected: Selected) -> str | None:
    """The model that the row `selected` repeats in every population; None without one.

    Of several models with the same scores, as on a handful of users, it is the one that `selected` names.
    """
    values = ["population", "value", "n", "low", "high"]
    of = {
        str(name): rows.select(values).sort(values)
        for (name,), rows in scores.filter(protocol=protocol, metric=metric).partition_by("model", as_dict=True).items()
    }
    own = of.pop(labels.SELECTED, None)
    models = {name: rows for name, rows in sorted(of.items()) if name not in labels.BOUNDS}
    same = [name for name, rows in models.items() if own is not None and rows.equals(own)]
    meant = [selected.get(task) for task in protocols.tasks(protocol)]
    return min(same, key=lambda name: name not in meant, default=None)


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
