"""The command `scores`: a compact table, selected rows, or all rows as JSON.

Scores are computed in `recommender.evaluation`. Names and formats of metrics are in `recommender.report.labels`.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer
from rich.table import Table
from rich.text import Text

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import CommandError, HomeOption, console, table
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.tables import FITTED_SHARE, SAMPLE_SHARE, SCORED_SHARE
from recsys_assets.recommender.report import labels

if TYPE_CHECKING:
    from recsys_assets.recommender.report.study_section import StudyTables

# Metrics that are shown in addition to the leading metrics of a protocol.
_ALSO = {"time_cut": ("rmse",)}
_ARROWS = {"higher": "↑", "lower": "↓"}
_COLUMNS = {
    "Random": (labels.RANDOM,),
    "Baseline": labels.BASELINES,
    "Selected": (labels.SELECTED,),
    "Best possible": (labels.UPPER_BOUND,),
}
# How names began in earlier versions, which programs that read `scores --json` may still know, and how they begin now.
_EARLIER = (
    ("metric", "top5_", "top5pct_"),
    ("model", "liking", "demographic_popularity"),
    ("protocol", "last_out", "leave_last_out"),
    ("protocol", "top_n_last_out", "top_n_leave_last_out"),
)
_OVER_SEEDS = "± over seeds"

Filter = Annotated[list[str] | None, typer.Option(help="Only these values; repeat the option for several.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Results")(scores)


def scores(
    as_json: Annotated[bool, typer.Option("--json", help="Every row, unrounded, as JSON.")] = False,
    protocol: Filter = None,
    metric: Filter = None,
    population: Filter = None,
    model: Filter = None,
    study: Annotated[bool, typer.Option("--study", help="Scores of the last study, under all its protocols.")] = False,
    home: HomeOption = None,
) -> None:
    """Show the scores of the selected models beside random, baseline and best possible, or any rows that you select.

    Examples: `recsys-assets scores`, `recsys-assets scores --protocol time_cut --metric rmse`,
    `recsys-assets scores --json`, `recsys-assets scores --study`
    """
    reader = Reader.of(home)
    studied = _studied(reader) if study else None
    everything = studied.scores if studied else reader.table("evaluation_scores").collect()
    wanted = {"protocol": protocol, "metric": metric, "population": population, "model": model}
    asked = {column: [_present(column, name) for name in names] for column, names in wanted.items() if names}
    rows = _filtered(everything, asked)
    kind = kept_kind(reader.home)
    if as_json:
        typer.echo(json.dumps(_with_earlier_names(rows).to_dicts(), indent=1))
    elif asked:
        console().print(_listing(rows))
    elif studied:
        console().print(_results(studied, kind))
    else:
        console().print(summary(rows, kind))
        _tell_what_is_served(reader)


def _with_earlier_names(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, and those of renamed metrics, models and protocols again under the names of earlier versions."""
    for column, earlier, present in _EARLIER:
        again = rows.filter(pl.col(column).str.starts_with(present))
        rows = pl.concat([rows, again.with_columns(pl.col(column).str.replace(present, earlier, literal=True))])
    return rows


def _present(column: str, name: str) -> str:
    """The present name of a metric, model or protocol that may have its name of an earlier version."""
    for renamed, earlier, present in _EARLIER:
        if column == renamed and name.startswith(earlier):
            return present + name.removeprefix(earlier)
    return name


def _tell_what_is_served(reader: Reader) -> None:
    """Print a warning if the selected configuration is not the served one."""
    from recsys_assets.home.promotions import Promotions

    if told := Promotions(reader.home.promotions).not_served(reader.store):
        console().print(told, style="yellow", soft_wrap=True)


def _studied(reader: Reader) -> "StudyTables":
    # Imported here, because the other options of this command need no code of the study and would start more slowly.
    from recsys_assets.home.tuned_settings import study_tables

    tables = study_tables(reader.store)
    if tables is None:
        raise CommandError("There is no study of this home. Next: `recsys-assets study`")
    return tables


def _results(tables: "StudyTables", kind: DataKind) -> Table:
    """The scores of the chosen model on the test rows of every protocol, and its paired test against the baseline."""
    from recsys_assets.recommender.report.study_section import StudySection

    listing = table(
        *("protocol", "score", "population", "selected", "value", "95 % interval", _OVER_SEEDS),
        *("against", "by", "verdict"),
        numbers=("value", "95 % interval", _OVER_SEEDS),
    )
    for result in StudySection(tables).results:
        listing.add_row(
            *(result.protocol, labels.metric(result.metric).label, result.population, result.model, result.value),
            *(result.interval, result.over_seeds, result.opponent, result.improvement, result.verdict),
        )
    listing.title = kind.notice or None
    listing.title_style, listing.title_justify = "bold yellow", "left"
    return listing


def _filtered(scores: pl.DataFrame, asked: dict[str, list[str]]) -> pl.DataFrame:
    """The rows with the selected values.

    Raises:
        CommandError: a value does not occur, or not together with the other values.
    """
    for column, values in asked.items():
        there = scores[column].unique().sort().to_list()
        if unknown := [value for value in values if value not in there]:
            raise CommandError(f"No scores with the {column} {', '.join(unknown)}; there are: {', '.join(there)}.")
    rows = scores.filter(pl.lit(True), *(pl.col(column).is_in(values) for column, values in asked.items()))
    if rows.is_empty():
        raise CommandError("No scores with all of these together; omit one filter.")
    return rows


def summary(scores: pl.DataFrame, kind: DataKind) -> Table:
    """The leading metrics of each protocol, for random, baseline, selected model and upper bound.

    Args:
        scores: table `evaluation_scores`.
        kind: kind of the data.
    """
    compact = table("", *_COLUMNS, numbers=_COLUMNS)
    for protocol in labels.ordered(scores["protocol"], labels.PROTOCOL_LABELS):
        of_protocol = scores.filter(pl.col("protocol") == protocol)
        compact.add_row(Text(labels.protocol(protocol, kind).label, "bold cyan"))
        for metric in (*labels.protocol(protocol).leads, *_ALSO.get(protocol, ())):
            for cells in _metric_rows(of_protocol.filter(pl.col("metric") == metric), labels.metric(metric)):
                compact.add_row(*cells)
        compact.add_section()
    compact.title = "\n".join(labels.notices(scores, kind)) or None
    compact.title_style, compact.title_justify = "bold yellow", "left"
    compact.caption = (
        "↑ higher is better, ↓ lower. Behind each population: rows scored. ± half of the 95 % interval, by bootstrap "
        "over users. Baseline: the stronger of item mean and popularity. More: recsys-assets scores --protocol "
        "time_cut, --json"
    )
    compact.caption_justify = "left"
    return compact


def _metric_rows(rows: pl.DataFrame, metric: labels.Metric) -> Iterator[tuple[Text, ...]]:
    """The heading of a metric and one line per population."""
    if rows.is_empty():
        return
    yield (Text(f"  {metric.label} {_ARROWS.get(metric.better or '', '')}"),)
    for population in labels.ordered(rows["population"], labels.POPULATIONS):
        of_population = rows.filter(pl.col("population") == population)
        n = int(of_population["n"].to_numpy().max())
        yield (
            Text.assemble(f"    {population}", (f"  {n:,}", "dim")),
            *(_cell(of_population, models, metric) for models in _COLUMNS.values()),
        )


def _cell(rows: pl.DataFrame, models: tuple[str, ...], metric: labels.Metric) -> Text:
    found = rows.filter(pl.col("model").is_in(models))
    if found.is_empty():
        return Text("–", "dim")
    # Of several baselines, the table shows the strongest.
    row = found.sort("value", descending=metric.better != "lower").row(0, named=True)
    style = "bold" if labels.SELECTED in models else ""
    half_width = metric.shown((row["high"] - row["low"]) / 2)
    return Text.assemble((metric.shown(row["value"]), style), (f" ±{half_width}", "dim"))


def _listing(rows: pl.DataFrame) -> Table:
    """All rows without summary. The models of a metric are in the order of the report."""
    ranks = {
        "protocol": labels.ordered(rows["protocol"], labels.PROTOCOL_LABELS),
        "metric": labels.metrics_in_order(rows["metric"]),
        "population": labels.ordered(rows["population"], labels.POPULATIONS),
        "model": labels.ordered(rows["model"], labels.MODELS),
    }
    keys = [pl.col(column).cast(pl.Enum(names)) for column, names in ranks.items()]
    sample = [name for name in (SAMPLE_SHARE, FITTED_SHARE, SCORED_SHARE) if name in rows.columns]
    seeds = [_OVER_SEEDS] if any(map(labels.over_seeds, rows.to_dicts())) else []
    columns = ("value", "low", "high", *seeds, "n", *sample)
    listing = table(*ranks, *columns, numbers=columns)
    for row in rows.sort(keys).iter_rows(named=True):
        shown = labels.metric(row["metric"]).shown
        numbers = [shown(row[column]) for column in ("value", "low", "high")]
        listing.add_row(
            *(row[column] for column in ranks),
            *numbers,
            *(labels.over_seeds(row) for _ in seeds),
            f"{row['n']:,}",
            *(f"{row[name]:g}" for name in sample),
        )
    return listing
