"""Describes a source in numbers and examples, so that users can check it before landing it.

Reading belongs in `sources`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.hints import attribute_hints, mark_hints, scale_hints, time_hints
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.sources import read_source


@dataclass(frozen=True)
class SourceDescription:
    """A source in numbers and examples.

    Attributes:
        format: format of the source.
        columns: original column name by standard name, of the first file of ratings; empty without names.
        ratings: number of rows of `raw_ratings`; `users`, `items` and `rejected` likewise.
        not_rated: number of rows that the settings declare as not rated.
        cleaned: number of texts of users and items from which control characters were removed.
        rating_scale: lowest and highest rating; (nan, nan) without ratings.
        declared_scale: the same as declared by the user or by the format; None if neither declares it.
        kind: ratings or events, with or without times; None without either.
        first: time of the earliest rating; None without ratings or times. `last` likewise.
        hints: warnings about good rows that look wrong.
        head: the first rows of `raw_ratings`.
        problems: the first rows of `rejected_rows`.
    """

    format: str
    columns: Mapping[str, str]
    ratings: int
    users: int
    items: int
    rejected: int
    not_rated: int
    cleaned: int
    rating_scale: tuple[float, float]
    declared_scale: tuple[float, float] | None
    kind: DataKind | None
    first: datetime | None
    last: datetime | None
    hints: list[str]
    head: pl.DataFrame
    problems: pl.DataFrame


def describe_source(path: Path, *, scratch: Path, rows: int = 5, problems: int = 20, **rules: Any) -> SourceDescription:
    """Reads a whole source and describes it.

    Args:
        path: a folder, a zip or a single file.
        scratch: folder for unpacked and converted copies.
        rows: number of ratings to show.
        problems: number of rejected rows to show.
        rules: further parameters of `read_source`.

    Raises:
        SourceError: the source cannot be read.
    """
    tables = read_source(path, scratch=scratch, **rules)
    time = pl.col("timestamp")
    span = tables.ratings.select(pl.len(), time.min().alias("first"), time.max().alias("last"))
    count, first, last = span.collect(engine="streaming").row(0)
    users, items, rejected = (
        frame.select(pl.len()).collect(engine="streaming").item()
        for frame in (tables.users, tables.items, tables.rejected)
    )
    not_rated = tables.not_rated.collect(engine="streaming").item()
    has_times = tables.kind is not None and tables.kind.times
    are_ratings = count > 0 and not (tables.kind and tables.kind.is_events)
    return SourceDescription(
        tables.format,
        tables.columns,
        count,
        users,
        items,
        rejected,
        not_rated,
        tables.cleaned.sum().collect(engine="streaming").item(),
        tables.rating_scale,
        tables.declared_scale,
        tables.kind,
        first if has_times else None,
        last if has_times else None,
        [
            *(scale_hints(nw.from_native(tables.ratings), _as_events(tables, rules)) if are_ratings else ()),
            *(mark_hints(nw.from_native(tables.ratings)) if are_ratings else ()),
            *(time_hints(nw.from_native(tables.ratings)) if has_times else ()),
            *attribute_hints(nw.from_native(tables.users)),
        ],
        tables.ratings.head(rows).drop(() if has_times else "timestamp").collect(engine="streaming"),
        tables.rejected.head(problems).collect(engine="streaming"),
    )


def _as_events(tables: SourceTables, rules: Mapping[str, Any]) -> str:
    """The line of settings that reads the ratings of a source as events."""
    if "rating" not in tables.columns:
        return 'put `ignore = ["rating"]` below [data] in settings.toml; each counts 1'
    own = json.dumps(tables.columns["rating"], ensure_ascii=False)
    instead = f", in place of `rating = {own}`" if "rating" in rules.get("columns", {}) else ""
    return f"put `weight = {own}` below [data.columns] in settings.toml{instead}"
