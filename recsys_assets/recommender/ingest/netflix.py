"""Reads the ratings of the Netflix Prize: lines `ITEM:`, each followed by lines `USER,RATING,DATE` of that item."""

import polars as pl

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.text import LINE, PROBLEM, TEXT, scan_lines, utf8_text

_HEAD = r"^\s*(\d+):\s*$"
_FIELDS = "__netflix"
COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def scan_netflix(source: Source, name: str, encoding: str | None) -> pl.LazyFrame:
    """Scans the ratings of a file; columns as in `text.scan_fields`."""
    fields = ["user_id", "rating", "timestamp"]
    cut = pl.col(TEXT).str.splitn(",", len(fields)).struct.rename_fields(fields)
    wrong = pl.lit("wrong number of fields, expected 3")
    return (
        scan_lines(utf8_text(source, name, encoding))
        .with_columns(pl.col(TEXT).str.extract(_HEAD, 1).alias("item_id"), cut.alias(_FIELDS))
        .with_columns(pl.col("item_id").forward_fill(), pl.col("item_id").is_null().alias(PROBLEM))
        .filter(pl.col(PROBLEM))
        .unnest(_FIELDS)
        .with_columns(pl.col(fields).str.strip_chars())
        .with_columns(pl.when(pl.col("timestamp").is_null()).then(wrong).alias(PROBLEM))
        .select(*COLUMNS, LINE, TEXT, PROBLEM)
    )
