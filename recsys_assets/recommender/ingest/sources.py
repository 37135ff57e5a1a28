"""`read_source`: the entry point for all formats, from a path to four tables.

Each format belongs in a module of its own, such as `movielens` and `generic`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES
from recsys_assets.recommender.ingest.archives import MAX_UNPACKED_BYTES, Source
from recsys_assets.recommender.ingest.detect import FORMATS, Content, content, is_document
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.events import as_events, without_times
from recsys_assets.recommender.ingest.generic import read_generic, two_formats
from recsys_assets.recommender.ingest.movielens import is_look_alike, read_release, release_file
from recsys_assets.recommender.ingest.names import STANDARD_COLUMNS
from recsys_assets.recommender.ingest.sheets import sheet
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.unread import unread_files
from recsys_assets.recommender.ingest.validation import Rules

__all__ = ["SourceTables", "read_source"]


def read_source(
    path: Path,
    *,
    scratch: Path,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    rating_scale: tuple[float, float] | None = None,
    genre_separator: str = "|",
    ignore: tuple[str, ...] = (),
    feedback: Literal["auto", "ratings", "events"] = "auto",
    event_weights: Mapping[str, float] | None = None,
    other_events: Literal["refuse", "count"] = "refuse",
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
    now: datetime | None = None,
    header: Sequence[str] = (),
    decimal: str | None = None,
    time_format: str | None = None,
    not_rated: Sequence[float] = (),
    settings_file: Path | str = "settings.toml",
) -> SourceTables:
    """Reads the tables of a folder, a zip or a single file; the content determines the format.

    Args:
        path: path of the source; it is never written to.
        scratch: folder for unpacked and converted copies; it must exist until the tables are collected.
        columns: original column names by standard name (user_id, item_id, rating, timestamp, title, year, genres).
            Unmapped columns have their standard name or a name that `names` knows.
        delimiter: delimiter of delimited text; detected from the header by default.
        encoding: encoding of text; by default UTF-8, or UTF-16 with a byte order mark.
        rating_scale: lowest and highest allowed rating; by default the scale of the release, or of the data.
        genre_separator: separator of genres.
        ignore: columns `rating` or `timestamp` that are not read.
        feedback: kind of the rows; by default ratings if there is a column of ratings, else events.
        event_weights: weight by event type.
        other_events: whether an event without a weight is rejected, or counts 1.
        max_unpacked_bytes: largest unpacked size of the source, in bytes.
        now: ratings later than one day after this time are rejected; by default the current time.
        header: names of the columns of delimited text without a header, in order; "" is a column without a name.
        decimal: decimal mark of ratings, "." or ","; by default the comma is told by ratings such as 4,5.
        time_format: `strptime` format of times; by default told by the times, and refused where they do not decide it.
        not_rated: ratings that mean that nothing was rated; such rows are left out.
        settings_file: where the user writes settings, for messages.

    Raises:
        SourceError: the source cannot be read; accessing a table of the result can raise it too.
    """
    rules = Rules(
        columns or {},
        delimiter,
        encoding,
        rating_scale,
        genre_separator,
        now,
        header=tuple(header),
        decimal=decimal,
        time_format=time_format,
        not_rated=tuple(not_rated),
        settings_file=str(settings_file),
        ignore=ignore,
        feedback=feedback,
        event_weights=event_weights or {},
        other_events=other_events,
    )
    _check_rules(rules)
    return _tables(Source(path, scratch, max_unpacked_bytes), rules)


def _check_rules(rules: Rules) -> None:
    unknown = sorted(set(rules.columns) - set(STANDARD_COLUMNS))
    if unknown:
        raise SourceError(f"[data.columns]: {unknown[0]!r} is no column; there are {', '.join(STANDARD_COLUMNS)}.")
    if rules.delimiter is not None and (not rules.delimiter or set(rules.delimiter) & set('"\r\n')):
        raise SourceError(f"delimiter {rules.delimiter!r}: expected characters other than quotes and line ends.")
    if rules.scale is not None and not rules.scale[0] < rules.scale[1]:
        raise SourceError(f"rating scale {rules.scale}: expected the lowest rating, then the highest.")


def _tables(source: Source, rules: Rules) -> SourceTables:
    names = [name for name in source.names if not is_document(name)]
    if not names:
        raise SourceError(f"{source.path}: only {', '.join(source.names[:10])} in it; expected a file of ratings.")
    contents = [content(source, name, rules.encoding) for name in names]
    tables = _read(source, contents, rules)
    # An unread file may name its column of users as the file of ratings does.
    named = replace(rules, columns={**tables.columns, **rules.columns})
    return replace(tables, unread=lambda: unread_files(source, contents, tables.files, named))


def _read(source: Source, contents: Sequence[Content], rules: Rules) -> SourceTables:
    # A reader of a folder with columns of its own is asked here, before the columns of a file can refuse the source.
    sheets = [sheet(source, item, rules) for item in contents if item.is_readable]
    meant = {file.name for file in sheets if file.role}
    others = [item for item in contents if item.name not in meant]
    is_alike = any(map(is_look_alike, others))
    found = [file for item in others if (file := release_file(item, beside_look_alike=is_alike))]
    is_lone = len(found) == 1 and not found[0].is_original_name
    # Lines of four numbers alone do not say that the user comes first.
    if is_lone or not any(file.role == "ratings" for file in found):
        _refuse_unreadable(contents)
        return read_generic(source, sheets, rules)
    if meant:
        formats = ["MovieLens", *{FORMATS[file.content.kind] for file in sheets if file.role}]
        raise two_formats(source, formats, [*(file.name for file in found), *sorted(meant)])
    return _without_ignored(read_release(source, found, rules, is_look_alike=is_alike), rules)


def _without_ignored(release: SourceTables, rules: Rules) -> SourceTables:
    """A release without the columns that are not read."""
    judged, kind, scale = release.judged_ratings, release.kind or RATINGS_WITH_TIMES, release.declared_scale
    if "rating" in rules.ignored:
        judged, kind, scale = _then(judged, as_events), replace(kind, feedback="events"), None
    if "timestamp" in rules.ignored:
        judged, kind = _then(judged, without_times), replace(kind, times=False)
    return replace(release, judged_ratings=judged, kind=kind, declared_scale=scale)


def _then(
    judged: Callable[[], pl.LazyFrame], change: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> Callable[[], pl.LazyFrame]:
    return lambda: change(judged())


def _refuse_unreadable(contents: Sequence[Content]) -> None:
    for item in contents:
        if not item.is_readable:
            raise SourceError(
                f"{item.name}: {item.kind}, which cannot be read here; expected CSV, Parquet or JSON lines, or a "
                "MovieLens release."
            )
