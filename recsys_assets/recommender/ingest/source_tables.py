"""`SourceTables`: the four lazy tables that every format returns.

Reading belongs in the module of each format, rules in `validation`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.ingest.catalogue import NO_ITEMS, NO_USERS
from recsys_assets.recommender.ingest.validation import CLEANED, REASON, count_not_rated, good_rows, rejected_rows


@dataclass(frozen=True)
class SourceTables:
    """The tables of a source; accessing a table may raise `SourceError`, collecting it does not.

    Attributes:
        format: format of the source, such as `ml-100k`, `csv` or `parquet`.
        files: names of the files that a table comes from. Erasing searches the columns of users of all other files.
        declared_scale: lowest and highest rating as declared by the user or by the README of the release; None if
            neither declares it.
        judged_ratings: returns rows of `raw_ratings` with the columns of the readers and the reason for rejection.
        judged_users: returns rows of `raw_users` likewise; None if the source has no users.
        judged_items: returns rows of `raw_items` likewise; None if the source has no items.
        columns: original column name by standard name, of the first file of ratings; empty without names.
        kind: ratings or events, whose `rating` is a weight; without times, all have the time 0. None without either.
        is_items_alone: whether the source describes items and has no file of ratings.
        unread: returns all files but `files`, see `unread.unread_files`. `read_source` sets it for every format.
    """

    format: str
    files: Collection[str]
    declared_scale: tuple[float, float] | None
    judged_ratings: Callable[[], pl.LazyFrame]
    judged_users: Callable[[], pl.LazyFrame | None]
    judged_items: Callable[[], pl.LazyFrame | None]
    columns: Mapping[str, str] = field(default_factory=dict)
    kind: DataKind | None = RATINGS_WITH_TIMES
    is_items_alone: bool = False
    unread: Callable[[], Iterable[pl.LazyFrame | Path]] = tuple

    @cached_property
    def ratings(self) -> pl.LazyFrame:
        """Table `raw_ratings`, lazy Polars."""
        numbered = self._ratings.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
        return good_rows(numbered).select("user_id", "item_id", "rating", "timestamp", "row")

    @cached_property
    def user_ids(self) -> pl.LazyFrame:
        """Column `user_id` of all rows of ratings and users, lazy Polars: good, rejected and not rated ones."""
        parts = [part for part in (self._ratings, self._users) if part is not None]
        return pl.concat([part.select(pl.col("user_id").cast(pl.String)) for part in parts])

    @cached_property
    def sent(self) -> pl.LazyFrame:
        """The good ratings with the columns of a source of the same kind, lazy Polars.

        Events have their types and weights, as far as the source has them, and no rating.
        """
        kind = self.kind or RATINGS_WITH_TIMES
        rows = good_rows(self._ratings)
        own = [name for name in ("event", "weight") if name in rows.collect_schema()] if kind.is_events else ["rating"]
        return rows.select("user_id", "item_id", *own, *(["timestamp"] if kind.times else []))

    @cached_property
    def users(self) -> pl.LazyFrame:
        """Table `raw_users`, lazy Polars; empty if the source has no users. The last row of a user counts."""
        if self._users is None:
            return NO_USERS
        return good_rows(self._users).unique("user_id", keep="last", maintain_order=True)

    @cached_property
    def items(self) -> pl.LazyFrame:
        """Table `raw_items`, lazy Polars; empty if the source has no items. The last row of an item counts."""
        if self._items is None:
            return NO_ITEMS
        return good_rows(self._items).unique("item_id", keep="last", maintain_order=True)

    @cached_property
    def rejected(self) -> pl.LazyFrame:
        """Table `rejected_rows` of all files of the source, lazy Polars."""
        parts = (self._ratings, self._users, self._items)
        return pl.concat([rejected_rows(part) for part in parts if part is not None])

    @cached_property
    def not_rated(self) -> pl.LazyFrame:
        """Column `len`, one row: number of ratings that the settings declare as not rated."""
        return count_not_rated(self._ratings)

    @cached_property
    def cleaned(self) -> pl.LazyFrame:
        """Column `cleaned`: number of texts with control characters in each good row of users and items."""
        parts = [part for part in (self._users, self._items) if part is not None]
        counts = [part.filter(pl.col(REASON).is_null()).select(cleaned=CLEANED) for part in parts]
        return pl.concat(counts) if counts else pl.LazyFrame(schema={"cleaned": pl.Int32})

    @cached_property
    def rating_scale(self) -> tuple[float, float]:
        """Lowest and highest rating: the declared scale, otherwise from the good rows; (nan, nan) without rows."""
        if self.declared_scale:
            return self.declared_scale
        rating = pl.col("rating")
        low, high = (
            self.ratings.select(rating.min().alias("low"), rating.max().alias("high"))
            .collect(engine="streaming")
            .row(0)
        )
        return (float("nan"), float("nan")) if low is None else (low, high)

    @cached_property
    def _ratings(self) -> pl.LazyFrame:
        return self.judged_ratings()

    @cached_property
    def _users(self) -> pl.LazyFrame | None:
        return self.judged_users()

    @cached_property
    def _items(self) -> pl.LazyFrame | None:
        return self.judged_items()
