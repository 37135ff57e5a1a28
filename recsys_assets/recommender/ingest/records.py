"""Reads files that need a converted copy: JSON lines, users and items in CSV with quotes, and Parquet.

The standard library parses the text, because it handles malformed rows correctly; the rows are stored in scratch as
Parquet, chunk by chunk. CSV without quotes, and ratings in CSV, belong in `text`, which scans files in place.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import IO, Any, NamedTuple

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.detect import PARQUET
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.quoted import Record, csv_records
from recsys_assets.recommender.ingest.text import LINE, PROBLEM, TEXT, Text, open_text, utf8_text

_CHUNK = 50_000
_JSON_BLOCK = 1 << 16
_LARGEST_EXACT = 2**53


def scan_quoted(
    source: Source,
    name: str,
    text: Text,
    delimiter: str,
    fields: Sequence[str],
    *,
    header_lines: int = 1,
    is_strict: bool = False,
) -> pl.LazyFrame:
    """Scans a CSV file with quotes after its header; columns as in `text.scan_fields`.

    A quoted field may have line breaks, and quotes as MySQL writes them (`\\"`). A quote that is never closed costs its
    own line only.

    Args:
        source: the source of the file.
        name: name of the file.
        text: its text.
        delimiter: delimiter of the fields.
        fields: names of the columns.
        header_lines: number of records before the first row.
        is_strict: whether a quote inside of an unquoted field makes the row bad, as in ratings.
    """
    records = csv_records(text, delimiter, len(fields), is_strict=is_strict)
    stored = source.derived(
        name,
        f"csv-{text.path}-{delimiter}-{fields}-{is_strict}",
        lambda out: _store(islice(records, header_lines, None), fields, out),
    )
    return pl.scan_parquet(stored, glob=False)


def scan_json_lines(source: Source, name: str, text: Text, fields: Sequence[str], joiner: str) -> pl.LazyFrame:
    """Scans JSON lines; columns as in `text.scan_fields`. Lists become text joined with `joiner`."""
    stored = source.derived(
        name,
        f"json-{text.path}-{joiner}-{fields}",
        lambda out: _store(_json_records(text, fields, joiner), fields, out),
    )
    return pl.scan_parquet(stored, glob=False)


def json_lines_of_array(source: Source, name: str, encoding: str | None) -> Text:
    """The elements of a JSON array as JSON lines, in a copy.

    Raises:
        SourceError: the array is damaged or cut off.
    """
    text = utf8_text(source, name, encoding)
    path = source.derived(name, f"lines-{text.path}", lambda out: _write_elements(text, name, out))
    return replace(text, path=path)


def _write_elements(text: Text, name: str, out: IO[bytes]) -> None:
    decoder, count = json.JSONDecoder(), 0
    with open_text(text.path) as stream:
        rest = stream.read(_JSON_BLOCK).lstrip().removeprefix("[")
        while not (rest := rest.lstrip().removeprefix(",").lstrip()).startswith("]"):
            try:
                value, end = decoder.raw_decode(rest)
                # A number at the end of a block can go on in the next one.
                is_whole = end < len(rest)
            except (ValueError, RecursionError):
                is_whole = False
            if not is_whole:
                # Doubled, so that an element of any size is decoded a few times only.
                if not (more := stream.read(max(_JSON_BLOCK, len(rest)))):
                    raise SourceError(f"{name}: a JSON array, cut off after {count:,} elements; export it again.")
                rest += more
                continue
            out.write(json.dumps(value).encode() + b"\n")
            count += 1
            rest = rest[end:]


def json_keys(text: Text) -> tuple[str, ...]:
    """All keys of the objects in a JSON lines file, in order of appearance."""
    with open_text(text.path) as lines:
        return tuple(dict.fromkeys(key for line in lines for key in (json_object(line) or ())))


def json_object(line: str) -> dict[str, Any] | None:
    """The JSON object on a line, or None."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parquet_schema(source: Source, name: str) -> pl.Schema:
    """Columns and types of a Parquet file.

    Raises:
        SourceError: the file is damaged or has no rows.
    """
    with _refusing_damage(name), pq.ParquetFile(source.file(name)) as file:
        if not file.metadata.num_rows:
            raise SourceError(f"{name}: no rows in it; expected at least one.")
        # Decodes the column names, which raises on bytes that are no text; Polars would panic.
        str(file.schema_arrow)
        return _as_texts(pl.DataFrame(file.schema_arrow.empty_table()).lazy()).collect_schema()


def scan_parquet(source: Source, name: str, columns: Sequence[str]) -> pl.LazyFrame:
    """Scans columns of a Parquet file in their own types, with the columns that every reader adds.

    Polars ends the whole process on some damaged Parquet files on which Arrow raises, so Polars reads a copy by Arrow.

    Raises:
        SourceError: the file is damaged.
    """
    stored = source.derived(name, f"parquet-{columns}", lambda out: _copy_parquet(source, name, columns, out))
    frame = _as_texts(pl.scan_parquet(stored, glob=False))
    types = frame.collect_schema()
    flat = [column for column in columns if not types[column].is_nested()]
    shown = pl.concat_str(pl.col(flat).cast(pl.String), separator=",", ignore_nulls=True)
    return (
        frame.with_row_index(LINE, offset=1)
        .with_columns(pl.col(LINE).cast(pl.Int64), pl.lit(None, pl.String).alias(PROBLEM))
        .with_columns(shown.alias(TEXT))
    )


class Columnar(NamedTuple):
    """The reader of a format whose columns have types.

    Attributes:
        schema: returns columns and types of a file.
        scan: scans columns of a file in their own types, with the columns that every reader adds.
    """

    schema: Callable[[Source, str], pl.Schema]
    scan: Callable[[Source, str, Sequence[str]], pl.LazyFrame]


COLUMNAR: Mapping[str, Columnar] = {PARQUET: Columnar(parquet_schema, scan_parquet)}


def _as_texts(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Casts categories to text, because a cast to a number would return their codes."""
    return frame.with_columns((cs.categorical() | cs.enum()).cast(pl.String))


def _copy_parquet(source: Source, name: str, columns: Sequence[str], out: IO[bytes]) -> None:
    path = source.file(name)
    with _refusing_damage(name), pq.ParquetFile(path, page_checksum_verification=True) as file:
        batches = file.iter_batches(_CHUNK, columns=list(columns))
        schema = pa.schema([file.schema_arrow.field(column) for column in columns])
        with pq.ParquetWriter(out, schema) as writer:
            for batch in batches:
                batch.validate(full=True)
                writer.write_batch(batch.select(columns))


@contextmanager
def _refusing_damage(name: str) -> Iterator[None]:
    try:
        yield
    except (
        pa.ArrowException,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        ValueError,
        KeyError,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{name}: damaged Parquet ({first}); write or export it again.") from error


def _store(records: Iterable[Record], fields: Sequence[str], out: IO[bytes]) -> None:
    schema = pa.schema([(LINE, pa.int64()), *((name, pa.large_string()) for name in (TEXT, PROBLEM, *fields))])
    rows = iter(records)
    with pq.ParquetWriter(out, schema) as writer:
        while chunk := list(islice(rows, _CHUNK)):
            lines, texts, problems, values = zip(*chunk, strict=True)
            columns = [lines, texts, problems, *zip(*values, strict=True)]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _json_records(text: Text, fields: Sequence[str], joiner: str) -> Iterator[Record]:
    with open_text(text.path) as lines:
        for line, content in enumerate(lines, 1):
            shown = content.rstrip("\n")
            if not shown.strip():
                continue
            found = json_object(shown)
            problem = None if found is not None else "not a JSON object"
            yield line, shown, problem, [_as_text((found or {}).get(field), joiner) for field in fields]


def _as_text(value: Any, joiner: str) -> str | None:
    match value:
        case None | str():
            # A lone surrogate is valid JSON but not valid text.
            return value and value.strip().encode("utf-8", "replace").decode()
        case float() if value.is_integer() and abs(value) < _LARGEST_EXACT:
            return str(int(value))
        case list():
            return joiner.join(filter(None, (_as_text(item, joiner) for item in value)))
        case _:
            return json.dumps(value)
