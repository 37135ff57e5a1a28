"""Fast path for large CSV files of ratings with integer ids and times and without bad rows.

The CSV reader of Polars parses such a file into typed columns once. A file with a single bad row is left to the readers
that keep the text of every line and report its fault (`text`, `records`); both paths return the same ratings.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import polars as pl

from recsys_assets.recommender.data.tables import WHOLE_IDS_BELOW
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.detect import DELIMITED
from recsys_assets.recommender.ingest.names import RATING_COLUMNS
from recsys_assets.recommender.ingest.sheets import Sheet
from recsys_assets.recommender.ingest.text import LINE, PROBLEM, TEXT, Text, utf8_text
from recsys_assets.recommender.ingest.times import MILLISECONDS_FROM, NUMBER
from recsys_assets.recommender.ingest.validation import FILE, REASON, Rules, judge_ratings

_IDS = ("user_id", "item_id")
_WIDTH = "__width"


def plain_ratings(source: Source, file: Sheet, scale: tuple[float, float] | None, rules: Rules) -> pl.LazyFrame | None:
    """The ratings of a file as from `judge_ratings`, with integer ids; None if the file does not qualify.

    Args:
        source: the source of the file.
        file: a file of ratings.
        scale: lowest and highest allowed rating; None allows every finite number.
        rules: format options of the source.
    """
    names = {own: name for name, own in file.mapping.items() if name in RATING_COLUMNS}
    is_general = file.content.kind != DELIMITED or len(file.delimiter.encode()) > 1 or {*names} != {*file.columns}
    if is_general or file.times != NUMBER or file.decimal_comma or rules.not_rated or file.folders:
        return None
    if file.is_events or not file.has_times:
        return None
    text = utf8_text(source, file.name, rules.encoding)
    if text.has_quotes or text.has_spaces or text.has_returns:
        return None
    rows = _typed(source, file, text, [names[own] for own in file.columns])
    if rows is None or not _all_good(rows, file, scale, rules, text.path):
        return None
    time = (pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us", "UTC"))
    nothing = pl.lit(None, pl.String)
    return rows.select(
        *_IDS,
        "rating",
        time,
        pl.lit(None, pl.Int64).alias(LINE),
        nothing.alias(TEXT),
        nothing.alias(REASON),
        pl.lit(file.name).alias(FILE),
    )


def _typed(source: Source, file: Sheet, text: Text, fields: Sequence[str]) -> pl.LazyFrame | None:
    """The typed columns and the number of bytes of each rating, from a copy; None if a value does not fit its type.

    A failed sink of Polars raises while its writer thread still writes. On a busy machine, 13% of the files that were
    emptied after the error got bytes afterwards, and were read as damaged IPC files (InvalidFooter). The verdict is
    therefore a file of its own, and the failed copy loses its name.
    """
    kind = f"{text.path}-{file.delimiter}-{fields}"

    def copy() -> Path:
        return source.derived(file.name, f"plain-{kind}", lambda out: _store(text, file, fields, out))

    def judge(verdict: IO[bytes]) -> None:
        try:
            copy()
        except pl.exceptions.PolarsError:
            return
        verdict.write(b"fits")

    fits = source.derived(file.name, f"is-plain-{kind}", judge).stat().st_size > 0
    return pl.scan_ipc(copy(), glob=False) if fits else None


def _store(text: Text, file: Sheet, fields: Sequence[str], out: IO[bytes]) -> None:
    """Writes the columns that `_typed` returns.

    Raises:
        PolarsError: a value does not fit the type of its column.
    """
    rows = pl.scan_csv(
        text.path,
        separator=file.delimiter,
        schema={name: pl.String if name == "rating" else pl.Int64 for name in fields},
        has_header=False,
        skip_lines=file.header_lines,
        quote_char=None,
        glob=False,
        extra_columns="raise",
        missing_columns="raise",
    )
    rating = pl.col("rating")
    typed = rows.select(
        *_IDS, rating.cast(pl.Float32), "timestamp", rating.str.len_bytes().cast(pl.UInt8).alias(_WIDTH)
    )
    # IPC, because the file is read only a few times soon after: Parquet's encodings cost more than they save.
    typed.sink_ipc(out)


def _written_as_numbers(rows: pl.LazyFrame, path: Path, header_lines: int, largest: int) -> bool:
    """Whether every id is the shortest text of its number: "07" and "+7" are different ids than "7".

    If so, the size of the file equals the total length of its numbers; every other spelling is longer.

    Args:
        rows: output of `_typed`, without gaps and negative numbers.
        path: path of the text.
        header_lines: number of lines before the first rating.
        largest: upper bound of all ids and times.
    """
    numbers = pl.col(*_IDS, "timestamp")
    # Bytes per line: one digit per number, one more from 10, from 100, …, and one byte after each of the four fields.
    more = [pl.sum_horizontal((numbers >= 10**power).sum()) for power in range(1, len(str(largest)))]
    length = pl.len() * (3 + len(RATING_COLUMNS)) + pl.sum_horizontal(pl.col(_WIDTH).cast(pl.Int64).sum(), *more)
    with path.open("rb") as lines:
        header = sum(len(lines.readline()) for _ in range(header_lines))
        lines.seek(-1, os.SEEK_END)
        is_ended = lines.read() == b"\n"
    return path.stat().st_size == header + rows.select(length).collect(engine="streaming").item() - (not is_ended)


def _all_good(rows: pl.LazyFrame, file: Sheet, scale: tuple[float, float] | None, rules: Rules, path: Path) -> bool:
    """Whether no row breaks a rule; all rules are ranges, so minima and maxima suffice.

    Args:
        rows: output of `_typed`.
        file: the file.
        scale: lowest and highest allowed rating.
        rules: format options of the source.
        path: path of the text.
    """
    rating, time = pl.col("rating"), pl.col("timestamp")
    facts = rows.select(
        pl.sum_horizontal(pl.all().null_count()).alias("gaps"),
        rating.is_nan().any().alias("nan"),
        pl.min_horizontal(pl.col(_IDS).min()).alias("least id"),
        pl.max_horizontal(pl.col(_IDS).max()).alias("id"),
        rating.min().alias("low"),
        rating.max().alias("high"),
        time.min().alias("first"),
        time.max().alias("last"),
    )
    found = facts.collect(engine="streaming").row(0, named=True)
    if found["gaps"] or found["nan"] or found["id"] is None:
        return False
    if found["least id"] < 0 or found["id"] >= WHOLE_IDS_BELOW:
        return False
    # Larger numbers are milliseconds, which the general readers convert.
    if found["last"] >= MILLISECONDS_FROM:
        return False
    extremes = pl.LazyFrame(
        {
            "user_id": ["0", "0"],
            "item_id": ["0", "0"],
            "rating": pl.Series([found["low"], found["high"]], dtype=pl.Float32),
            "timestamp": [found["first"], found["last"]],
            PROBLEM: pl.Series([None, None], dtype=pl.String),
        }
    )
    judged = judge_ratings(extremes, file.name, scale=scale, times=NUMBER, now=rules.now)
    if not judged.select(pl.col(REASON).is_null().all()).collect().item():
        return False
    return _written_as_numbers(rows, path, file.header_lines, max(found["id"], found["last"]))
