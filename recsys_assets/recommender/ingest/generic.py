"""Reads users' own ratings: CSV with any delimiter, Parquet and JSON lines, in any number of files.

It also reads the CSV releases of MovieLens. Columns and rows of a single file belong in `sheets`.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import polars as pl

from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.attributes import agreed, attribute_types, typed_attributes
from recsys_assets.recommender.ingest.catalogue import judge_items, judge_users, numeric_attributes
from recsys_assets.recommender.ingest.detect import FORMATS
from recsys_assets.recommender.ingest.errors import SourceError, to_paste
from recsys_assets.recommender.ingest.events import concatenated, judge_events
from recsys_assets.recommender.ingest.headers import CHOICE, likely_names
from recsys_assets.recommender.ingest.many import joined
from recsys_assets.recommender.ingest.names import EVENT_COLUMNS, ITEM_COLUMNS, RATING_COLUMNS, of_ratings
from recsys_assets.recommender.ingest.plain import plain_ratings
from recsys_assets.recommender.ingest.records import COLUMNAR
from recsys_assets.recommender.ingest.sheets import READERS, UNNAMED, Sheet, sheet_rows
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.times import SECONDS, UNDECIDED, decided, formats_for
from recsys_assets.recommender.ingest.validation import NO_RATINGS, Rules, judge_ratings, with_own_name

_MOVIELENS_RATINGS = ("userId", "movieId", "rating", "timestamp")
_MOVIELENS_ITEMS = ("movieId", "title", "genres")
_MOVIELENS_SCALE = (0.5, 5.0)
# Column names of the pipeline's own tables, which an attribute would clash with in joins and exports. An `item_id`
# would also prevent the output of `compact` from being read as users.
_TAKEN = ("user", "user_id", "item", "item_id", "batch", "cluster", "segment")
# Columns of rows of items that are no attributes.
_ITEM_OWN = ("item_id", *ITEM_COLUMNS, *READERS)
# Column types that become categories.
_CATEGORIES = (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Null)


def read_generic(source: Source, sheets: Sequence[Sheet], rules: Rules) -> SourceTables:
    """The tables of a source that consists of these files.

    Raises:
        SourceError: there are no ratings, there are ratings in two formats, or a file has no known role.
    """
    ratings, users, items = ([file for file in sheets if file.role == role] for role in ("ratings", "users", "items"))
    unknown = [file for file in sheets if file.role is None and not file.is_beside_movielens]
    # Items alone are new attributes of the catalogue. A file with an item twice is more likely a record of events.
    doubtful = [file for file in items if not _describes_items(source, file, rules, is_alone=not ratings)]
    if unknown or doubtful or not (ratings or (items and not users)):
        raise _not_understood(source, [*unknown, *doubtful] or users or sheets, rules)
    formats = sorted({FORMATS[file.content.kind] for file in ratings or items})
    if len(formats) > 1:
        raise two_formats(source, formats, [file.name for file in ratings])
    is_movielens = _is_movielens(source, ratings, items)
    scale = rules.scale or (_MOVIELENS_SCALE if is_movielens else None)
    return SourceTables(
        format="ml-csv" if is_movielens else formats[0],
        files=[file.name for file in (*ratings, *users, *items)],
        declared_scale=scale,
        columns=ratings[0].mapping if ratings else {},
        judged_ratings=lambda: _all_ratings(source, ratings, scale, rules) if ratings else NO_RATINGS,
        judged_users=lambda: _users(source, users, rules) if users else None,
        judged_items=lambda: _items(source, items, rules) if items else None,
        kind=_kind(source, ratings) if ratings else None,
        is_items_alone=not ratings,
    )


def _describes_items(source: Source, file: Sheet, rules: Rules, *, is_alone: bool) -> bool:
    """Whether a file with item ids has one row per item; not asked of files with titles, years or genres."""
    if not is_alone and file.mapping.keys() & set(ITEM_COLUMNS):
        return True
    if file.mapping.keys() >= {"rating", "timestamp"}:
        return False
    ids = pl.col(file.mapping["item_id"])
    rows = sheet_rows(source, file, rules, [file.mapping["item_id"]])
    return bool(rows.select(ids.n_unique() == pl.len()).collect(engine="streaming").item())


def two_formats(source: Source, formats: Sequence[str], names: Sequence[str]) -> SourceError:
    """The error for ratings in two formats, which are usually the same ratings twice."""
    return SourceError(
        f"{source.path}: ratings in two formats ({' and '.join(formats)}) in one source: {', '.join(names[:10])}; "
        "add them one by one."
    )


def _kind(source: Source, ratings: Sequence[Sheet]) -> DataKind:
    # The first file with times, without times and so on: the files of a source must agree.
    timed, untimed = (next((file.name for file in ratings if file.has_times is value), "") for value in (True, False))
    if timed and untimed:
        raise SourceError(
            f"{source.path}: ratings with times ({timed}) and without ({untimed}); give all of them a column "
            'timestamp, or none: ignore = ["timestamp"] under [data].'
        )
    events, rated = (next((file.name for file in ratings if file.is_events is value), "") for value in (True, False))
    if events and rated:
        raise SourceError(
            f"{source.path}: ratings ({rated}) and events without ratings ({events}); take one of them out, or read "
            'all as events: feedback = "events" under [data].'
        )
    return DataKind(times=bool(timed), feedback="events" if events else "ratings")


def _not_understood(source: Source, files: Sequence[Sheet], rules: Rules) -> SourceError:
    shown = "; ".join(f"{file.name} has the columns {_listed(file.columns)}" for file in files[:5])
    if files[0].has_values_as_names:
        return SourceError(f"{source.path}: {shown}. {_without_header(files[0], rules)}")
    # A file with a rating or a time holds ratings, in which a column is missing.
    if files[0].role == "users" and not files[0].mapping.keys() & {"rating", "timestamp"}:
        told = (
            "Users are read only beside their ratings: put the files of both into one folder or zip, and add that. If "
            "this file holds ratings"
        )
    else:
        told = (
            f"Expected ratings with the columns {', '.join(RATING_COLUMNS)} (timestamp where there are times), beside "
            f"them users with user_id, or items with item_id and any of {', '.join(ITEM_COLUMNS)}. Take the file out "
            "of the source"
        )
    return SourceError(
        f'{source.path}: {shown}. {told}, set feedback = "events" under [data] if no column is a rating, or say which '
        f"column is which{to_paste(rules.settings_file, 'data.columns', _mapping_lines(files[0], rules))}"
    )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join("(no name)" if name.startswith(UNNAMED) else name for name in columns)[:200]


def _without_header(file: Sheet, rules: Rules) -> str:
    """Says that the first line of a file holds values, and how to name the columns."""
    count = len(file.columns)
    names = likely_names(file.first_records, rules.genre_separator)
    choice = "" if {*names} & {*CHOICE} else f"  # names of {', '.join(CHOICE)}"
    line = f"header = {json.dumps(names, ensure_ascii=False)}{choice}"
    wrong = f"[data] header names {len(rules.header)} columns, this file has {count}. " if rules.header else ""
    return (
        f"{wrong}That looks like a first record, not like a header. If it is one, name the columns in their order, "
        f'"" for one without use,{to_paste(rules.settings_file, "data", [line])}'
    )


def _mapping_lines(file: Sheet, rules: Rules) -> list[str]:
    """Lines for the standard columns of ratings that are not in a file, with its other columns to choose from."""
    found = of_ratings(file.columns, rules.columns).mapping
    others = [own for own in file.columns if own not in found.values() and not own.startswith(UNNAMED)]
    missing = [name for name in RATING_COLUMNS if name not in found] or ["user_id", "item_id"]
    if len(missing) == len(others) == 1:
        own = json.dumps(others[0], ensure_ascii=False)
        counted = f"  # or, for counts, prices or seconds: weight = {own}" if missing[0] == "rating" else ""
        return [f"{missing[0]} = {own}{counted}"]
    return [f'{name} = "…"  # one of: {", ".join(others)[:200] or "none is left"}' for name in missing]


def _is_movielens(source: Source, ratings: Sequence[Sheet], items: Sequence[Sheet]) -> bool:
    def folders(files: Sequence[Sheet], columns: tuple[str, ...]) -> set[str]:
        return {PurePosixPath(file.name).parent.as_posix() for file in files if file.columns == columns}

    releases = folders(ratings, _MOVIELENS_RATINGS) & folders(items, _MOVIELENS_ITEMS)
    if len(releases) > 1:
        raise SourceError(f"{source.path}: several releases ({', '.join(sorted(releases))}); add them one by one.")
    return bool(releases)


def _all_ratings(
    source: Source, files: Sequence[Sheet], scale: tuple[float, float] | None, rules: Rules
) -> pl.LazyFrame:
    many = joined(source, files, rules)
    if many and (plain := plain_ratings(*many, scale, rules)) is not None:
        return plain
    decided_files = _with_decided_times(source, files, rules)
    judged = [_ratings(source, file, scale, rules) for file in decided_files]
    if files[0].is_events:
        return concatenated(judged)
    # Relaxed: ids are integers if they are integers in every file, otherwise text.
    return pl.concat(judged, how="vertical_relaxed")


def _ratings(source: Source, file: Sheet, scale: tuple[float, float] | None, rules: Rules) -> pl.LazyFrame:
    if (plain := plain_ratings(source, file, scale, rules)) is not None:
        return plain
    columns = EVENT_COLUMNS if file.is_events else RATING_COLUMNS
    rows = _standard_rows(source, file, [name for name in columns if name in file.mapping], rules)
    times = file.times
    if not file.has_times:
        rows, times = rows.with_columns(timestamp=pl.lit(0)), SECONDS
    if file.is_events:
        return judge_events(
            rows,
            file.name,
            times=times,
            rules=rules,
            decimal_comma=file.decimal_comma,
            noun=with_own_name("weight", file.mapping),
        )
    return judge_ratings(
        rows,
        file.name,
        scale=scale,
        times=times,
        now=rules.now,
        decimal_comma=file.decimal_comma,
        not_rated=rules.not_rated,
        noun=with_own_name("rating", file.mapping),
    )


def _with_decided_times(source: Source, files: Sequence[Sheet], rules: Rules) -> list[Sheet]:
    """The files with the order of days and months, which all values of all files decide.

    Raises:
        SourceError: the values leave it open.
    """
    open_ones = [file for file in files if file.times == UNDECIDED and file.has_times]
    if not open_ones:
        return list(files)
    form, example = decided(
        pl.concat([_standard_rows(source, file, ["timestamp"], rules).select("timestamp") for file in open_ones])
    )
    if form is None:
        lines = [f"time_format = {json.dumps(form)}" for form in formats_for(example)]
        raise SourceError(
            f"{open_ones[0].name}: times such as {example!r} may be day first or month first, and the other times do "
            f"not decide it. Say which, with one of these lines{to_paste(rules.settings_file, 'data', lines)}"
        )
    return [replace(file, times=form) if file in open_ones else file for file in files]


def _items(source: Source, files: Sequence[Sheet], rules: Rules) -> pl.LazyFrame:
    """The items of all files with every attribute; an attribute has one type in all files of a batch."""
    frames = [_item_rows(source, file, rules) for file in files]
    names = [[name for name in frame.collect_schema() if name not in _ITEM_OWN] for frame in frames]
    found = [attribute_types(frame, own) for frame, own in zip(frames, names, strict=True)]
    types = agreed(found)
    judged = [
        judge_items(
            frame,
            file.name,
            rules.genre_separator,
            typed_attributes({name: types[name] for name in own}, frame.collect_schema()),
        )
        for frame, file, own in zip(frames, files, found, strict=True)
    ]
    return pl.concat(judged, how="diagonal")


def _item_rows(source: Source, file: Sheet, rules: Rules) -> pl.LazyFrame:
    """Standard columns under their standard names, then attributes."""
    rows = sheet_rows(source, file, rules)
    standard = {name: file.mapping[name] for name in ("item_id", *ITEM_COLUMNS) if name in file.mapping}
    attributes = _attribute_names(rows, file, set(standard.values()), _ITEM_OWN)
    return rows.select(
        *(pl.col(own).alias(name) for name, own in standard.items()),
        *(pl.col(own).alias(name) for own, name in attributes.items()),
        *READERS,
    )


def _standard_rows(source: Source, file: Sheet, names: Sequence[str], rules: Rules) -> pl.LazyFrame:
    """The standard columns of a file under their standard names."""
    # Two standard columns can map to one column of the file, such as title and id of items without another id.
    rows = sheet_rows(source, file, rules, list(dict.fromkeys(file.mapping[name] for name in names)))
    return rows.select(*(pl.col(file.mapping[name]).alias(name) for name in names), *READERS)


def _users(source: Source, files: Sequence[Sheet], rules: Rules) -> pl.LazyFrame:
    frames = [_attribute_rows(source, file, rules) for file in files]
    attributes = [frozenset(frame.collect_schema()) - {"user_id", *READERS} for frame in frames]
    numbers = [_numbers(frame, file) for frame, file in zip(frames, files, strict=True)]
    # A column that is text in one file of the batch is text in all files.
    texts = {name for names, numeric in zip(attributes, numbers, strict=True) for name in names - numeric}
    judged = [
        judge_users(frame, file.name, numbers=names - texts, texts=names & texts)
        for frame, file, names in zip(frames, files, attributes, strict=True)
    ]
    return pl.concat(judged, how="diagonal")


def _attribute_rows(source: Source, file: Sheet, rules: Rules) -> pl.LazyFrame:
    """User id and attributes."""
    rows = sheet_rows(source, file, rules)
    names = _attribute_names(rows, file, {file.mapping["user_id"]}, ())
    return rows.select(
        pl.col(file.mapping["user_id"]).alias("user_id"),
        *(pl.col(own).alias(name) for own, name in names.items()),
        *READERS,
    )


def _attribute_names(
    rows: pl.LazyFrame, file: Sheet, standard: Collection[str], more_taken: Collection[str]
) -> dict[str, str]:
    """Name of each attribute by its name in the file: lower-case letters, digits and underscores.

    Every engine accepts such names. An attribute with the name of a pipeline column gets an underscore: `segment_`.

    Args:
        rows: the rows of the file.
        file: the file.
        standard: the columns of the file that are no attributes.
        more_taken: further names that no attribute can have, beside the column names of all tables.
    """
    own = [name for name in rows.collect_schema().names() if name not in {*READERS, *standard}]
    names = {name: _attribute_name(name, more_taken) for name in own}
    kept = {name: new for name, new in names.items() if new and not name.startswith(UNNAMED)}
    counts = Counter(kept.values())
    clashing = [name for name, new in kept.items() if counts[new] > 1]
    if clashing:
        raise SourceError(f"{file.name}: the column {clashing[0]!r} clashes with another one; rename it.")
    return kept


def _attribute_name(column: str, more_taken: Collection[str]) -> str:
    name = re.sub(r"\W+", "_", column).strip("_").lower()
    # No other attribute ends with an underscore, so the new name is free.
    return f"{name}_" if name in _TAKEN or name in more_taken else name


def _numbers(rows: pl.LazyFrame, file: Sheet) -> set[str]:
    """The numeric attributes, by column type if the file has types, otherwise by their values."""
    types = {name: dtype for name, dtype in rows.collect_schema().items() if name not in ("user_id", *READERS)}
    wrong = [name for name, dtype in types.items() if not (dtype.is_numeric() or dtype in _CATEGORIES)]
    if wrong:
        raise SourceError(f"{file.name}: column {wrong[0]!r} holds {types[wrong[0]]}; expected numbers or text.")
    if file.content.kind in COLUMNAR:
        return {name for name, dtype in types.items() if dtype.is_numeric()}
    return numeric_attributes(rows, list(types))
