"""`add --check`: describes a source and says whether it would be accepted, before anything lands.

Descriptions and rules are in `recommender.ingest`.
"""

import shlex
import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.text import Text

from recsys_assets.cli.terminal import facts, follow_up, table
from recsys_assets.home.batches import landed_releases
from recsys_assets.home.data_kind import check_kind, known_kind
from recsys_assets.home.landed import same_content
from recsys_assets.home.layout import Home
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.ingest.describe import SourceDescription, describe_source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.names import RATING_COLUMNS
from recsys_assets.recommender.ingest.releases import check_release, release
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.ingest.validation import check_rejected


def show(source: Path, name: str, home: Home, data: DataSettings, out: Console) -> None:
    """Print a description of a source, and whether it would be accepted as a batch of this name.

    Nothing is written outside of a temporary folder.

    Raises:
        SourceError: the source would be refused; the message says why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = describe_source(source, scratch=Path(scratch), **data.reading, settings_file=home.settings_file)
        out.print(facts(_facts(source, found, data)))
        for hint in found.hints:
            out.print(Text(f"Check this: {hint}.", "yellow"), soft_wrap=True)
        if doubt := landed_twice(home, source, name):
            out.print(Text(doubt, "yellow"), soft_wrap=True)
        if found.kind and found.ratings:
            _rows(f"First {found.kind.feedback}", found.head, out)
        if found.rejected:
            _rows("First problems", found.problems, out)
        check_kind(found.kind, home, known_kind(home, data))
        check_release(release(source, found.format, Path(scratch)), landed_releases(home, data))
    rows = found.ratings + found.users + found.items + found.rejected + found.not_rated
    try:
        check_rejected(
            found.problems,
            rows,
            count=found.rejected,
            max_share=data.max_rejected_share,
            settings_file=home.settings_file,
        )
    except SourceError as error:
        raise SourceError(f"It would be refused: {error}") from None
    named = "" if name == source.name else f" --batch {shlex.quote(name)}"
    out.print(f"\nIt would be accepted: {follow_up(f'add {shlex.quote(str(source))}{named}', home)}", soft_wrap=True)


def landed_twice(home: Home, source: Path, name: str) -> str:
    """A warning if a source has the content of a batch that has landed under another name; else empty."""
    twins = [twin for twin in same_content(home, source) if twin != name]
    if not twins:
        return ""
    told = f"{name} has the same content as {', '.join(twins)}"
    return f"Check this: {told}. Events of both would count twice, ratings once."


def _facts(source: Path, found: SourceDescription, data: DataSettings) -> list[tuple[str, object]]:
    low, high = found.rating_scale
    span = f"{found.first:%Y-%m-%d %H:%M} to {found.last:%Y-%m-%d %H:%M} UTC" if found.first and found.last else "–"
    if found.kind is not None and not found.kind.times:
        span = "none: without times, splits are drawn at random, and there are no latest ratings"
    of_release = "of the release" if found.declared_scale else "range of the ratings"
    told = "set by [data] rating_scale" if data.rating_scale else of_release
    read = [f"{name} = {own}" for name, own in found.columns.items() if name in RATING_COLUMNS and name != own]
    return [
        ("source", source),
        ("format", found.format),
        *([("columns", ", ".join(read))] if read else []),
        (found.kind.feedback if found.kind else "ratings", f"{found.ratings:,}"),
        ("users described", f"{found.users:,}"),
        ("items described", f"{found.items:,}"),
        ("rejected rows", f"{found.rejected:,}"),
        *([("not rated, left out", f"{found.not_rated:,}")] if data.not_rated else []),
        *([("texts with control characters, which are removed", f"{found.cleaned:,}")] if found.cleaned else []),
        *([_values(found.kind, low, high, told), ("span", span)] if found.kind is not None else []),
    ]


def _values(kind: DataKind, low: float, high: float, told: str) -> tuple[str, str]:
    name, more = ("weights of events", "") if kind.is_events else ("rating scale", f" ({told})")
    return name, f"{low:g} to {high:g}{more}"


def _rows(title: str, rows: pl.DataFrame, out: Console) -> None:
    out.print(Text(f"\n{title}", "bold"))
    listed = table(*rows.columns)
    for row in rows.iter_rows():
        listed.add_row(*(Text(str(value)) for value in row))
    out.print(listed)
