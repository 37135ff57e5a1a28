"""The fast way into CSV files of ratings as the large releases have them: ids and times whole numbers, no bad row.

Polars' own CSV reader turns such a file into typed columns, once. A file with anything else in it, be it one bad row,
is left to the readers that keep every line's text and say what is wrong with it; both give the same ratings.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import polars as pl

from recsys_assets.recommender.data.tables import WHOLE_IDS_BELOW
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.detect import DELIMITED
from recsys_assets.recommender.ingest.sheets import RATING_COLUMNS, Sheet
from recsys_assets.recommender.ingest.text import LINE, PROBLEM, TEXT, Text, utf8_text
from recsys_assets.recommender.ingest.validation import FILE, MILLISECONDS_FROM, REASON, Rules, judge_ratings

_IDS = ("user_id", "movie_id")
_WIDTH = "__width"


def plain_ratings(source: Source, file: Sheet, scale: tuple[float, float] | None, rules: Rules) -> pl.LazyFrame | None:
    """The file's ratings as `judge_ratings` gives them, all good, with integers for ids; None if the file is not plain.

    Args:
        source: where the file lies.
        file: a file of ratings.
        scale: lowest and highest rating allowed; None allows every finite number.
        rules: how it is written.
    """
    names = {own: name for name, own in file.mapping.items() if name in RATING_COLUMNS}
    if file.content.kind != DELIMITED or len(file.delimiter.encode()) > 1 or {*names} != {*file.columns}:
        return None
    text = utf8_text(source, file.name, rules.encoding)
    if text.has_quotes or text.has_spaces or text.has_returns:
        return None
    fields = [names[own] for own in file.columns]
    stored = source.derived(
        file.name,
        f"plain-{text.path}-{file.delimiter}-{fields}",
        lambda out: _store(text, file.delimiter, fields, out),
    )
    if not stored.stat().st_size:
        return None
    rows = pl.scan_ipc(stored, glob=False)
    if not _all_good(rows, file.name, scale, rules, text.path):
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


def _store(text: Text, delimiter: str, fields: Sequence[str], out: IO[bytes]) -> None:
    """The typed columns, and how many bytes a rating is written with; an empty file where the types do not fit."""
    rows = pl.scan_csv(
        text.path,
        separator=delimiter,
        schema={name: pl.String if name == "rating" else pl.Int64 for name in fields},
        has_header=False,
        skip_lines=1,
        quote_char=None,
        glob=False,
        extra_columns="raise",
        missing_columns="raise",
    )
    rating = pl.col("rating")
    typed = rows.select(
        *_IDS, rating.cast(pl.Float32), "timestamp", rating.str.len_bytes().cast(pl.UInt8).alias(_WIDTH)
    )
    try:
        # Written once and read a few times soon after, for which Parquet's encodings cost more than they save.
        typed.sink_ipc(out)
    except pl.exceptions.PolarsError:
        out.seek(0)
        out.truncate()


def _written_as_numbers(rows: pl.LazyFrame, path: Path, largest: int) -> bool:
    """Whether every id is written as its number is: "07" and "+7" are other ids than "7".

    Then the file is as long as its numbers written out; every other way to write one is longer.

    Args:
        rows: what `_store` wrote, without gaps and negative numbers.
        path: of the text.
        largest: no id and no time is larger.
    """
    numbers = pl.col(*_IDS, "timestamp")
    # One digit each, and one more from 10, from 100 …; four fields a line, and what ends them.
    more = [pl.sum_horizontal((numbers >= 10**power).sum()) for power in range(1, len(str(largest)))]
    length = pl.len() * (3 + len(RATING_COLUMNS)) + pl.sum_horizontal(pl.col(_WIDTH).cast(pl.Int64).sum(), *more)
    with path.open("rb") as lines:
        header = len(lines.readline())
        lines.seek(-1, os.SEEK_END)
        is_ended = lines.read() == b"\n"
    return path.stat().st_size == header + rows.select(length).collect(engine="streaming").item() - (not is_ended)


def _all_good(rows: pl.LazyFrame, file: str, scale: tuple[float, float] | None, rules: Rules, path: Path) -> bool:
    """Whether no row breaks a rule: all rules are ranges, so the least and the greatest values tell.

    Args:
        rows: what `_store` wrote.
        file: name of the file.
        scale: lowest and highest rating allowed.
        rules: how it is written.
        path: of the text.
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
    # Larger numbers count milliseconds.
    if found["last"] >= MILLISECONDS_FROM:
        return False
    extremes = pl.LazyFrame(
        {
            "user_id": ["0", "0"],
            "movie_id": ["0", "0"],
            "rating": pl.Series([found["low"], found["high"]], dtype=pl.Float32),
            "timestamp": [found["first"], found["last"]],
            PROBLEM: pl.Series([None, None], dtype=pl.String),
        }
    )
    judged = judge_ratings(extremes, file, scale=scale, times="number", now=rules.now)
    if not judged.select(pl.col(REASON).is_null().all()).collect().item():
        return False
    return _written_as_numbers(rows, path, max(found["id"], found["last"]))
