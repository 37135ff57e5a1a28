"""Score tables of the page: one per protocol and metric, with a row per model and a column per population.

Every row of `evaluation_scores` has exactly one cell, also if its protocol, model or metric is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.published import PUBLISHED, Published


@dataclass(frozen=True)
class Cell:
    """One score as text; `is_best` marks the best model, bounds excluded."""

    value: str
    interval: str
    n: str
    is_best: bool


@dataclass(frozen=True)
class Row:
    """Scores of one model, a cell per population (None without a score), and the published values."""

    model: str
    label: str
    role: str
    cells: tuple[Cell | None, ...]
    published: Published | None


@dataclass(frozen=True)
class ScoreTable:
    """All scores of one metric under one protocol."""

    protocol: str
    metric: str
    facts: labels.Metric
    populations: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_published(self) -> bool:
        """Whether a case study published one of these scores."""
        return any(row.published for row in self.rows)


def score_tables(scores: pl.DataFrame, protocol: str) -> list[ScoreTable]:
    """The tables of one protocol, its leading metrics first.

    Args:
        scores: the table `evaluation_scores`.
        protocol: one of its protocols.
    """
    rows = scores.filter(pl.col("protocol") == protocol)
    leads = labels.protocol(protocol).leads
    metrics = labels.metrics_in_order(rows["metric"])
    in_order = [*(name for name in leads if name in metrics), *(name for name in metrics if name not in leads)]
    return [_score_table(rows.filter(pl.col("metric") == name), protocol, name) for name in in_order]


def _score_table(scores: pl.DataFrame, protocol: str, metric: str) -> ScoreTable:
    populations = labels.ordered(scores["population"], labels.POPULATIONS)
    best = {name: _best(scores.filter(pl.col("population") == name), metric) for name in populations}
    rows = [
        Row(
            name,
            labels.model(name),
            labels.role(name),
            tuple(
                _cell(
                    scores.filter(pl.col("model") == name, pl.col("population") == population), metric, best[population]
                )
                for population in populations
            ),
            next(
                (each for each in PUBLISHED if (each.protocol, each.metric, each.model) == (protocol, metric, name)),
                None,
            ),
        )
        for name in labels.ordered(scores["model"], labels.MODELS)
    ]
    return ScoreTable(protocol, metric, labels.metric(metric), tuple(populations), tuple(rows))


def _best(scores: pl.DataFrame, metric: str) -> float | None:
    values: Sequence[float] = scores.filter(~pl.col("model").is_in(labels.BOUNDS))["value"].to_list()
    choose = {"higher": max, "lower": min, None: None}[labels.metric(metric).better]
    return choose(values) if choose and len(values) > 1 else None


def _cell(score: pl.DataFrame, metric: str, best: float | None) -> Cell | None:
    if not len(score):
        return None
    facts = labels.metric(metric)
    (row,) = score.iter_rows(named=True)
    interval = "" if row["low"] == row["high"] else f"{facts.shown(row['low'])} to {facts.shown(row['high'])}"
    is_best = best is not None and row["value"] == best and row["model"] not in labels.BOUNDS
    return Cell(facts.shown(row["value"]), interval, f"{row['n']:,}", is_best)
