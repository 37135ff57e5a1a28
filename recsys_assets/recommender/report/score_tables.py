"""Score tables of the page: one per protocol and metric, with a row per model and a column per population.

Every row of `evaluation_scores` has exactly one cell, also if its protocol, model or metric is unknown. `selected` is a
mark on the model that it repeats.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.published import Published
from recsys_assets.recommender.report.standings import FEWEST_USERS, NOTHING_SELECTED, Selected, repeated, scored_users


@dataclass(frozen=True)
class Cell:
    """One score as text; `is_best` marks the best model, bounds excluded.

    `few` says that too few users are behind it to call a model the best; `number` sorts.
    """

    value: str
    interval: str
    n: str
    is_best: bool
    number: float
    few: bool = False


@dataclass(frozen=True)
class Row:
    """Scores of one model, a cell per population (None without a score), and the published values.

    `is_selected` marks the model that `selected` repeats.
    """

    model: str
    label: str
    role: str
    cells: tuple[Cell | None, ...]
    published: Published | None
    is_selected: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """All scores of one metric under one protocol.

    Attributes:
        scores: the rows of `evaluation_scores` behind the table.
    """

    protocol: str
    metric: str
    facts: labels.Metric
    populations: tuple[str, ...]
    rows: tuple[Row, ...]
    scores: pl.DataFrame

    @property
    def is_main(self) -> bool:
        """Whether the metric has a direction and is not derived from another metric."""
        return self.facts.better is not None and not labels.is_derived(self.metric)

    @property
    def csv(self) -> str:
        """The scores as a `data:` link to a CSV file, unrounded."""
        return "data:text/csv;base64," + b64encode(self.scores.write_csv().encode()).decode()

    @property
    def has_published(self) -> bool:
        """Whether a case study published one of these scores."""
        return any(row.published for row in self.rows)


def score_tables(
    scores: pl.DataFrame, protocol: str, published: Sequence[Published] = (), selected: Selected = NOTHING_SELECTED
) -> list[ScoreTable]:
    """The tables of one protocol, its leading metrics first.

    Args:
        scores: the table `evaluation_scores`.
        protocol: one of its protocols.
        published: published values to show beside the scores.
        selected: the selected model of each task.
    """
    rows = scores.filter(pl.col("protocol") == protocol)
    leads = labels.protocol(protocol).leads
    metrics = labels.metrics_in_order(rows["metric"])
    in_order = [*(name for name in leads if name in metrics), *(name for name in metrics if name not in leads)]
    beside = {
        name: [each for each in published if (each.protocol, each.metric) == (protocol, name)] for name in in_order
    }
    return [_score_table(rows.filter(pl.col("metric") == name), scores, beside[name], selected) for name in in_order]


def _score_table(
    scores: pl.DataFrame, everything: pl.DataFrame, published: Sequence[Published], selected: Selected
) -> ScoreTable:
    """The table of one metric; `everything` counts the users of its populations."""
    protocol, metric = scores.row(0, named=True)["protocol"], scores.row(0, named=True)["metric"]
    populations = labels.ordered(scores["population"], labels.POPULATIONS)
    few = {name: scored_users(everything, protocol, name) < FEWEST_USERS for name in populations}
    best = {
        name: None if few[name] else _best(scores.filter(pl.col("population") == name), metric) for name in populations
    }
    twin = repeated(scores, protocol, metric, selected)
    rows = [
        Row(
            name,
            labels.model(name),
            labels.role(name),
            tuple(
                _cell(
                    scores.filter(pl.col("model") == name, pl.col("population") == population),
                    metric,
                    best[population],
                    few=few[population],
                )
                for population in populations
            ),
            next((each for each in published if each.model == name), None),
            is_selected=name == twin,
        )
        for name in labels.ordered(scores["model"], labels.MODELS)
        if twin is None or name != labels.SELECTED
    ]
    return ScoreTable(protocol, metric, labels.metric(metric), tuple(populations), tuple(rows), scores)


def _best(scores: pl.DataFrame, metric: str) -> float | None:
    values: Sequence[float] = scores.filter(~pl.col("model").is_in(labels.BOUNDS))["value"].to_list()
    choose = {"higher": max, "lower": min, None: None}[labels.metric(metric).better]
    return choose(values) if choose and len(values) > 1 else None


def _cell(score: pl.DataFrame, metric: str, best: float | None, *, few: bool) -> Cell | None:
    if not len(score):
        return None
    facts = labels.metric(metric)
    (row,) = score.iter_rows(named=True)
    interval = "" if row["low"] == row["high"] else f"{facts.shown(row['low'])} to {facts.shown(row['high'])}"
    is_best = best is not None and row["value"] == best and row["model"] not in labels.BOUNDS
    return Cell(facts.shown(row["value"]), interval, f"{row['n']:,}", is_best, row["value"], few)
