"""Reads files with named columns: detects the columns, maps them to the standard ones, and scans the rows.

Combining files to tables belongs in `generic`.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from urllib.parse import unquote

import polars as pl

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.detect import DELIMITED, JSON_ARRAY, JSON_LINES, NETFLIX, Content
from recsys_assets.recommender.ingest.errors import SourceError, to_paste
from recsys_assets.recommender.ingest.names import ITEM_COLUMNS, Named, named
from recsys_assets.recommender.ingest.netflix import COLUMNS as NETFLIX_COLUMNS
from recsys_assets.recommender.ingest.netflix import scan_netflix
from recsys_assets.recommender.ingest.records import (
    COLUMNAR,
    json_keys,
    json_lines_of_array,
    json_object,
    scan_json_lines,
    scan_quoted,
)
from recsys_assets.recommender.ingest.text import (
    LINE,
    PROBLEM,
    TEXT,
    open_text,
    quotes_leave_lines,
    scan_fields,
    scan_quoted_fields,
    utf8_text,
)
from recsys_assets.recommender.ingest.times import ISO, NUMBER, form_of
from recsys_assets.recommender.ingest.validation import RESERVED, Rules

READERS = (LINE, TEXT, PROBLEM)
UNNAMED = "__unnamed_"
_PAIR = {"user_id", "item_id"}
_NEEDED_FOR_RATINGS = {*_PAIR, "rating"}
_BESIDE_MOVIELENS = {
    ("userId", "movieId", "tag", "timestamp"),
    ("movieId", "imdbId", "tmdbId"),
    ("movieId", "imdbId"),
    ("movieId", "tagId", "relevance"),
    ("tagId", "tag"),
}
_TRIED_DELIMITERS = 16
_LIKELY_DELIMITERS = ("::", ",", "\t", ";", "|")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SAMPLE = 100
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# Three digits after a comma may be thousands.
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d{1,2}")
_VALUE = re.compile(rf"{_NUMBER.pattern}|\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}.*")
# A date, or seconds or milliseconds from 2001 to 2033.
_LIKE_TIMES = re.compile(r"\d{4}[-/]\d\d?[-/]\d\d?|1\d{9}(\d{3})?$")
_NO_DELIMITER = re.compile(r"[\w\s.\-\"']")


@dataclass(frozen=True)
class Sheet:
    """One file with named columns.

    Attributes:
        content: name and first lines of the file.
        columns: original column names, in order.
        mapping: original column name by standard name, for the standard columns in the file.
        delimiter: delimiter of the fields in delimited text.
        times: form of times that are text or numbers, as `times.form_of` returns it.
        header_lines: number of lines before the first record in delimited text.
        decimal_comma: whether ratings, or weights of events, are written like 4,5.
        folders: columns in the names of its folders, as Hive writes them (`user_id=7/part-0.csv`), with their values.
        is_events: whether the rows are events, which have the role of ratings.
    """

    content: Content
    columns: tuple[str, ...]
    mapping: Mapping[str, str]
    delimiter: str = ""
    times: str = NUMBER
    header_lines: int = 1
    decimal_comma: bool = False
    folders: Mapping[str, str | None] = field(default_factory=dict)
    is_events: bool = False

    @property
    def name(self) -> str:
        """Path of the file inside the source."""
        return self.content.name

    @property
    def role(self) -> str | None:
        """Role of the file by its columns: ratings, users or items; None for other files."""
        if self.is_events:
            return "ratings"
        if role := _role(self.mapping.keys()):
            return role
        is_about_items = "item_id" in self.mapping and "user_id" not in self.mapping
        # Attributes alone describe items too.
        return "items" if is_about_items and len(self.columns) > 1 and not self.is_beside_movielens else None

    @property
    def has_values_as_names(self) -> bool:
        """Whether a column has a number or a date for a name, as in delimited text without a header."""
        return self.content.kind == DELIMITED and any(map(_VALUE.fullmatch, self.columns))

    @property
    def first_records(self) -> list[list[str]]:
        """The values of the first lines of delimited text without a header."""
        return [_split(line, self.delimiter) for line in self.content.lines]

    @property
    def has_times(self) -> bool:
        """Whether the file has a column of times that is read."""
        return "timestamp" in self.mapping

    @property
    def is_beside_movielens(self) -> bool:
        """Whether the file belongs to a CSV release of MovieLens but holds no ratings, users or items."""
        return self.columns in _BESIDE_MOVIELENS


def sheet(source: Source, content: Content, rules: Rules) -> Sheet:
    """Detects the columns of a file.

    Raises:
        SourceError: the file is damaged, has only a header, or has a column twice.
    """
    found = replace(_SHEETS[content.kind](source, content, rules), folders=_folders(content.name))
    if found.role:
        _check_columns(found)
    return found


def sheet_rows(source: Source, file: Sheet, rules: Rules, columns: Sequence[str] | None = None) -> pl.LazyFrame:
    """Scans the rows of a file under the original column names, with the columns of the readers.

    Args:
        source: the source of the file.
        file: the file.
        rules: format options of the source.
        columns: the columns to read; None for all columns (in JSON lines, all keys).
    """
    own = [name for name in columns if name not in file.folders] if columns else None
    rows = _own_rows(source, file, rules, own)
    values = [pl.lit(value, pl.String).alias(name) for name, value in file.folders.items()]
    return rows.with_columns(values) if values else rows


def _own_rows(source: Source, file: Sheet, rules: Rules, columns: Sequence[str] | None) -> pl.LazyFrame:
    if file.content.kind in COLUMNAR:
        return COLUMNAR[file.content.kind].scan(source, file.name, columns or file.columns)
    if file.content.kind == NETFLIX:
        return scan_netflix(source, file.name, rules.encoding).select(*(columns or file.columns), *READERS)
    if file.content.kind == JSON_ARRAY:
        text = json_lines_of_array(source, file.name, rules.encoding)
    else:
        text = utf8_text(source, file.name, rules.encoding)
    if file.content.kind in (JSON_LINES, JSON_ARRAY):
        return scan_json_lines(source, file.name, text, columns or json_keys(text), rules.genre_separator)
    is_ratings = file.role == "ratings"
    if text.has_quotes and len(file.delimiter) == 1 and is_ratings and not quotes_leave_lines(text):
        return scan_quoted_fields(text, file.delimiter, file.columns).slice(file.header_lines)
    if text.has_quotes and len(file.delimiter) == 1:
        return scan_quoted(
            source,
            file.name,
            text,
            file.delimiter,
            file.columns,
            header_lines=file.header_lines,
            is_strict=is_ratings,
        )
    return scan_fields(text, file.delimiter, file.columns).slice(file.header_lines)


def _delimited_sheet(_source: Source, content: Content, rules: Rules) -> Sheet:
    header = content.lines[0]
    delimiter = rules.delimiter or _delimiter(header, rules)
    columns, header_lines = _columns(header, delimiter), 1
    mapping = _mapping(content, columns, rules)
    if not (_role(mapping.keys()) or _are_events(columns, mapping, rules)) and len(rules.header) == len(columns):
        columns, header_lines = _with_unnamed(rules.header), 0
        mapping = _mapping(content, columns, rules)
    is_events = _are_events(columns, mapping, rules)
    found = Sheet(content, columns, mapping, delimiter, header_lines=header_lines, is_events=is_events)
    if found.role and len(content.lines) == header_lines:
        raise SourceError(f"{content.name}: a header only ({header[:80]!r}); expected a record in line 2.")
    if found.role != "ratings":
        return found
    rows = [_split(line, delimiter) for line in content.lines[header_lines:]]
    if not found.has_times:
        _check_unnamed_times(found, rows[0], rules)
    numbers = _sample(rows, columns, mapping.get("weight" if is_events else "rating", ""))
    has_commas = rules.decimal is None and any(map(_DECIMAL_COMMA.fullmatch, numbers))
    return replace(
        found,
        times=rules.time_format or form_of(_sample(rows, columns, mapping.get("timestamp", ""))),
        decimal_comma=rules.decimal == "," or has_commas,
    )


def _sample(rows: Sequence[Sequence[str]], columns: Sequence[str], name: str) -> list[str]:
    """The values of a column in the first rows; none if the column stands in the folder names."""
    place = columns.index(name) if name in columns else len(columns)
    return [row[place] for row in rows if len(row) > place]


def _columns(header: str, delimiter: str) -> tuple[str, ...]:
    return _with_unnamed(_split(header, delimiter))


def _with_unnamed(names: Sequence[str]) -> tuple[str, ...]:
    # pandas writes row numbers under an empty column name, and a file can have several such columns.
    return tuple(name or f"{UNNAMED}{place}" for place, name in enumerate(names))


def _json_sheet(_source: Source, content: Content, rules: Rules) -> Sheet:
    objects = [found for line in content.lines if (found := json_object(line)) is not None]
    columns = tuple(dict.fromkeys(key for found in objects for key in found))
    mapping = _mapping(content, columns, rules)
    sample = [str(found.get(mapping.get("timestamp", ""), "")) for found in objects]
    return Sheet(
        content,
        columns,
        mapping,
        times=rules.time_format or form_of(sample),
        decimal_comma=rules.decimal == ",",
        is_events=_are_events(columns, mapping, rules),
    )


def _json_array_sheet(source: Source, content: Content, rules: Rules) -> Sheet:
    with open_text(json_lines_of_array(source, content.name, rules.encoding).path) as lines:
        first = tuple(islice(lines, _SAMPLE))
    if not first:
        raise SourceError(f"{content.name}: an empty JSON array; expected one object per record.")
    return replace(_json_sheet(source, replace(content, lines=first), rules), content=content)


def _netflix_sheet(_source: Source, content: Content, rules: Rules) -> Sheet:
    mapping = {name: name for name in NETFLIX_COLUMNS if name not in rules.ignored}
    return Sheet(content, NETFLIX_COLUMNS, mapping, times=ISO, is_events="rating" not in mapping)


def _columnar_sheet(source: Source, content: Content, rules: Rules) -> Sheet:
    reader = COLUMNAR[content.kind]
    types = reader.schema(source, content.name)
    columns = tuple(types)
    mapping = _mapping(content, columns, rules)
    found = Sheet(content, columns, mapping, is_events=_are_events(columns, mapping, rules))
    for name, own in found.mapping.items() if found.role else ():
        if own in types and not _fits(name, types[own]):
            raise SourceError(f"{content.name}: column {own!r} holds {types[own]}, which cannot be a {name}.")
    if found.role != "ratings":
        return found
    if not found.has_times:
        return replace(found, decimal_comma=rules.decimal == ",")
    time = found.mapping["timestamp"]
    form = rules.time_format or NUMBER
    if not rules.time_format and time in types and (types[time] == pl.String or types[time].is_integer()):
        first = reader.scan(source, content.name, [time]).select(pl.col(time).cast(pl.String)).head(100).collect()
        form = form_of(first.to_series().drop_nulls().to_list())
    return replace(found, times=form, decimal_comma=rules.decimal == ",")


_SHEETS: Mapping[str, Callable[[Source, Content, Rules], Sheet]] = {
    DELIMITED: _delimited_sheet,
    JSON_LINES: _json_sheet,
    JSON_ARRAY: _json_array_sheet,
    NETFLIX: _netflix_sheet,
    **dict.fromkeys(COLUMNAR, _columnar_sheet),
}


def _fits(name: str, dtype: pl.DataType) -> bool:
    """Whether the type of a column fits its standard name."""
    if dtype == pl.String or dtype.is_numeric() or dtype == pl.Null:
        return True
    if name == "timestamp":
        return dtype in (pl.Date, pl.Datetime)
    return name == "genres" and isinstance(dtype, pl.List) and dtype.inner == pl.String


def _role(columns: Collection[str]) -> str | None:
    """The role of a file with these standard columns."""
    has = set(columns)
    if has >= _NEEDED_FOR_RATINGS:
        return "ratings"
    if "user_id" in has and "item_id" not in has:
        return "users"
    if "item_id" in has and "user_id" not in has and has & set(ITEM_COLUMNS):
        return "items"
    return None


def _role_by(rules: Rules) -> Callable[[Collection[str]], str | None]:
    """Returns the role of a file with these standard columns, if rows without ratings are events."""

    def role(columns: Collection[str]) -> str | None:
        has = set(columns)
        are_events = has >= _PAIR and ("rating" in rules.ignored or bool(has & {"event", "weight"}))
        return "ratings" if are_events and rules.feedback != "ratings" else _role(columns)

    return role


def _are_events(columns: Sequence[str], mapping: Mapping[str, str], rules: Rules) -> bool:
    """Whether rows are events: by the settings, else because there is no rating.

    A column of unknown meaning may be the rating, so such a file needs a column `event` or `weight`, or the setting.
    """
    has = mapping.keys()
    if not has >= _PAIR or rules.feedback == "ratings" or tuple(columns) in _BESIDE_MOVIELENS:
        return False
    if "rating" in rules.ignored:
        return True
    unknown = [name for name in {*columns} - {*mapping.values()} if not name.startswith(UNNAMED)]
    return "rating" not in has and (bool(has & {"event", "weight"}) or not unknown)


def _folders(name: str) -> dict[str, str | None]:
    """The columns in the folder names of a file, as Hive and Spark write them, with their values."""
    parts = [part.split("=", 1) for part in PurePosixPath(name).parts[:-1] if "=" in part]
    return {unquote(key): None if value == _HIVE_NULL else unquote(value) for key, value in parts}


def _mapping(content: Content, columns: Sequence[str], rules: Rules) -> Mapping[str, str]:
    """Original name by standard name, with the columns in the folder names.

    Raises:
        SourceError: several columns of a file of ratings may be the same standard column.
    """
    found = named((*columns, *_folders(content.name)), rules.columns, _role_by(rules)).without(rules.ignored)
    if found.doubts and _role(found.mapping.keys() | found.doubts.keys()) == "ratings":
        raise _doubtful(content, found, rules)
    return found.mapping


def _check_unnamed_times(found: Sheet, first: Sequence[str], rules: Rules) -> None:
    """Refuses ratings without times if a column of the first record looks like times under a name of its own.

    Raises:
        SourceError: a column does: read without times, the ratings would lose their order unseen.
    """
    for own, value in zip(found.columns, first, strict=False):
        if own not in found.mapping.values() and _LIKE_TIMES.match(value) and "timestamp" not in rules.ignore:
            line = [f"timestamp = {json.dumps(own, ensure_ascii=False)}"]
            raise SourceError(
                f'{found.name}: the column {own!r} may hold the times. If not, set ignore = ["timestamp"] under '
                f"[data]; if it does, say so{to_paste(rules.settings_file, 'data.columns', line)}"
            )


def _doubtful(content: Content, found: Named, rules: Rules) -> SourceError:
    name, columns = next(iter(found.doubts.items()))
    lines = [f'{name} = "{own}"' for own in columns]
    return SourceError(
        f"{content.name}: the columns {', '.join(map(repr, columns))} may all be the {name}. Say which one it is, with "
        f"one of these lines{to_paste(rules.settings_file, 'data.columns', lines)}"
    )


def _check_columns(found: Sheet) -> None:
    twice = [name for name, count in Counter(found.columns).items() if count > 1]
    if twice:
        raise SourceError(f"{found.name}, line 1: column {twice[0]!r} occurs twice; rename one.")
    if reserved := sorted({*found.columns} & {*RESERVED}):
        raise SourceError(f"{found.name}: the column name {reserved[0]!r} is taken; rename it.")


def _delimiter(header: str, rules: Rules) -> str:
    """The delimiter that yields a header with a known role; otherwise the delimiter with the most columns."""
    counts = Counter(mark for mark in header if not _NO_DELIMITER.match(mark))
    marks = [mark for mark, _ in counts.most_common(_TRIED_DELIMITERS)]
    single = [mark for mark in marks if mark != ":" or "::" not in header]
    candidates = [mark for mark in (*_LIKELY_DELIMITERS, *single, " ") if mark in header]
    for mark in candidates:
        columns = _split(header, mark)
        mapping = named(columns, rules.columns, _role_by(rules)).without(rules.ignored).mapping
        if _role(mapping) or _are_events(columns, mapping, rules):
            return mark
    return max(candidates, key=lambda mark: len(_split(header, mark)), default=",")


def _split(line: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return [value.strip() for value in line.split(delimiter)]
    try:
        return [value.strip() for value in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return [line]
