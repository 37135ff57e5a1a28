"""The door to everything that can be read: one function from a path to four tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from recsys_assets.recommender.ingest.archives import MAX_UNPACKED_BYTES, Source
from recsys_assets.recommender.ingest.detect import Content, content, is_document
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.generic import FORMATS, read_generic, two_formats
from recsys_assets.recommender.ingest.movielens import read_release, release_file
from recsys_assets.recommender.ingest.sheets import STANDARD_COLUMNS, sheet
from recsys_assets.recommender.ingest.source_tables import SourceTables
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
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
    now: datetime | None = None,
) -> SourceTables:
    """The tables of a folder, a zip or a single file, its format told by its content.

    Args:
        path: what to read; it is never written to.
        scratch: folder for unpacked and converted copies, each made once; it must last until the tables are collected.
        columns: the source's own column names by standard name (user_id, movie_id, rating, timestamp, title, year,
            genres); what is not mapped has its standard name or MovieLens's.
        delimiter: between fields of delimited text; by default the one with which the header makes sense.
        encoding: of text; by default UTF-8, or UTF-16 with a byte order mark.
        rating_scale: lowest and highest rating; by default the release's, or for other sources what the data hold.
        genre_separator: stands between genres.
        max_unpacked_bytes: a source that unpacks to more is refused.
        now: no rating may be later than a day after this; by default the clock's time.

    Raises:
        SourceError: the source cannot be read; also when a table of the result is asked for.
    """
    rules = Rules(columns or {}, delimiter, encoding, rating_scale, genre_separator, now)
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
    sheets = [sheet(source, item, rules) for item in contents if item.is_readable]
    meant = {file.name for file in sheets if file.role}
    found = [file for item in contents if item.name not in meant and (file := release_file(item))]
    if not any(file.role == "ratings" for file in found):
        _refuse_unreadable(contents)
        return read_generic(source, sheets, rules)
    if meant:
        formats = ["MovieLens", *{FORMATS[file.content.kind] for file in sheets if file.role}]
        raise two_formats(source, formats, [*(file.name for file in found), *sorted(meant)])
    return read_release(source, found, rules)


def _refuse_unreadable(contents: Sequence[Content]) -> None:
    for item in contents:
        if not item.is_readable:
            raise SourceError(
                f"{item.name}: {item.kind}, which cannot be read here; expected CSV, Parquet or JSON lines, or a "
                "MovieLens release."
            )
