"""Reads files that need a converted copy: JSON lines, users and items in CSV with quotes, and Parquet.

The standard library parses the text, because it handles malformed rows correctly; the rows are stored in scratch as
Parquet, chunk by chunk. CSV without quotes, and ratings in CSV, belong in `text`, which scans files in place.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.text import BLANK, LINE, PROBLEM, TEXT, Text, open_text

_CHUNK = 50_000
_LARGEST_EXACT = 2**53

# Line number, text of the line, problem, one value per field.
Record = tuple[int, str, str | None, Sequence[str | None]]


def scan_quoted(
    source: Source, name: str, text: Text, delimiter: str, fields: Sequence[str], *, header_lines: int = 1
) -> pl.LazyFrame:
    """Scans a CSV file with quotes after its header; columns as in `text.scan_fields`."""
    stored = source.derived(
        name,
        f"csv-{text.path}-{delimiter}-{fields}",
        lambda out: _store(islice(_csv_records(text, name, delimiter, len(fields)), header_lines, None), fields, out),
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


def _csv_records(text: Text, name: str, delimiter: str, width: int) -> Iterator[Record]:
    wrong, empty = f"wrong number of fields, expected {width}", [None] * width
    raw: list[str] = []
    with open_text(text.path) as stream:
        lines = (raw.append(line) or line for line in stream)  # type: ignore[func-returns-value]
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        line = 1
        try:
            for values in reader:
                shown = "".join(raw).rstrip("\n")
                is_blank = not shown.strip(BLANK)
                if not is_blank:
                    right = len(values) == width
                    yield line, shown, None if right else wrong, [value.strip() for value in values] if right else empty
                line = reader.line_num + 1
                raw.clear()
        except csv.Error as error:
            raise SourceError(
                f"{name}, line {line}: {error}; a quote there is never closed or not doubled, mend it."
            ) from error


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
