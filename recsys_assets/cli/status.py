"""The command `status`: what a home holds, what is served, how fresh it is, what is running, and what to do next.

It reads stored tables and the record of promotions; it starts neither Dagster nor a JVM.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer

from recsys_assets.cli.batches import Listed, listed
from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import HomeOption, console, facts, follow_up
from recsys_assets.home.blocking import blocked_items
from recsys_assets.home.layout import Home
from recsys_assets.home.lock import is_locked
from recsys_assets.home.merged import rests_on_others
from recsys_assets.home.served import served_at
from recsys_assets.home.versions import STATE_FOLDER, load
from recsys_assets.recommender.evaluation.score_table import DECIDING, POPULARITY, SELECTED
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.standings import find

if TYPE_CHECKING:
    from recsys_assets.home.promotions import Promotions


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Results")(status)


def status(
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 if there is something to do, for scripts and monitors.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Show what the home holds, what is served, how fresh it is, what is running, and what to do next.

    Examples: `recsys-assets status`, `recsys-assets status --check || recsys-assets run`
    """
    here, out = Home.resolve(home), console()
    batches = listed(here)
    rows = [("home", str(here.path)), *_data(here, batches), *_served(here), *_at_work(here)]
    out.print(facts(rows), soft_wrap=True)
    is_at_work = is_locked(here)
    step = _next(here, batches, is_at_work=is_at_work)
    told = f"Next: {step}" if step else "Wait until the run has ended." if is_at_work else _nothing_to_do(Reader(here))
    out.print(told, soft_wrap=True)
    if check and step:
        raise typer.Exit(1)


def _data(home: Home, batches: list[Listed]) -> Iterator[tuple[str, str]]:
    states = [batch.state.split(",")[0].split(";")[0] for batch in batches]
    counted = [f"{states.count(state):,} {state}" for state in dict.fromkeys(states)]
    yield "batches", ", ".join(counted) or "none"
    reader = Reader(home)
    if reader.store.has(["ratings"]):
        ratings, users, items = (
            int(reader.table(name).select(pl.len()).collect().item()) for name in ("ratings", "users", "items")
        )
        pairs = "" if reader.words("ratings") == "ratings" else "pairs "
        yield (
            reader.words("ratings"),
            f"{ratings:,} {pairs}of {users:,} users and {items:,} items; merged {_when(reader, 'ratings')}",
        )


def _served(home: Home) -> Iterator[tuple[str, str]]:
    reader, record = Reader(home), _record(home)
    if not reader.store.has(["recommendations"]):
        yield "lists", "none yet"
        return
    served = record.served(reader.store)
    by = f" by {labels.model(served.configuration.ranking.model)} (promotion {served.number})" if served else ""
    yield "lists", f"made {_when(reader, 'recommendations')}{by}"
    if told := record.not_served(reader.store):
        yield "", told
    if reader.store.has(["evaluation_scores"]):
        yield from _score(reader.table("evaluation_scores").collect())
    if home.report.is_file():
        yield "report", str(home.report)


def _record(home: Home) -> "Promotions":
    # Imported here, because reading the record imports scikit-learn.
    from recsys_assets.home.promotions import Promotions

    return Promotions(home.promotions)


def _score(scores: pl.DataFrame) -> Iterator[tuple[str, str]]:
    selected = find(scores, "top_n", SELECTED, "all", DECIDING)
    lead = find(scores, "top_n", SELECTED, "all", labels.improvement(DECIDING, POPULARITY))
    if selected and lead:
        metric = labels.metric(DECIDING)
        over = f"{metric.shown(lead.value)} ({metric.shown(lead.low)} to {metric.shown(lead.high)}) over popularity"
        yield "scores", f"{metric.label} of the selected model {metric.shown(selected.value)}: {over}"


def _at_work(home: Home) -> Iterator[tuple[str, str]]:
    yield "at work", "a run" if is_locked(home) else "nothing"
    if address := served_at(home):
        yield "UI", address


def _next(home: Home, batches: list[Listed], *, is_at_work: bool) -> str:
    """The next command; empty if everything is up to date."""
    if not batches:
        return f"{follow_up('add PATH', home)}, or {follow_up('run', home)} for MovieLens 100K"
    if is_at_work:
        return ""
    reader = Reader(home)
    is_pending = any(batch.state == "not read yet" for batch in batches)
    is_missing = not all(reader.store.has([name]) for name in ("ratings", "recommendations", "evaluation_scores"))
    if is_pending or is_missing or _is_older(reader, "recommendations") or rests_on_others(home):
        return follow_up("run", home)
    if unfinished := _record(home).broken_off(reader.store):
        return follow_up(unfinished.again, home)
    return follow_up("recommend --everybody", home) if _has_other_blocked_items(reader) else ""


def _has_other_blocked_items(reader: Reader) -> bool:
    """Whether items were blocked or unblocked since the lists were made."""
    from recsys_assets.recommender.serving.recommendations import MadeWith

    made_with = load(MadeWith, reader.store.current(["recommendations"]) / STATE_FOLDER)
    return made_with.blocked not in (None, blocked_items(reader.home))


def _nothing_to_do(reader: Reader) -> str:
    if _is_older(reader, "evaluation_scores"):
        # New data beside `serve` start a job that makes lists and no scores.
        return "Nothing to do: lists are up to date. Scores are older: the schedule makes them, or `recsys-assets run`."
    after = f"After a change of settings: {follow_up('run', reader.home)}"
    return f"Nothing to do: lists and scores are up to date with the ratings. {after}"


def _is_older(reader: Reader, asset: str) -> bool:
    """Whether an asset is older than the present ratings."""
    return reader.written(asset) < reader.written("ratings")


def _when(reader: Reader, asset: str) -> str:
    written: datetime = reader.written(asset)
    return f"{written:%Y-%m-%d %H:%M} UTC"
