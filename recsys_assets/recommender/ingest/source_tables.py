"""What any format hands over: four tables, opened only when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from recsys_assets.recommender.ingest.catalogue import NO_MOVIES, NO_USERS
from recsys_assets.recommender.ingest.validation import CLEANED, REASON, good_rows, rejected_rows


@dataclass(frozen=True)
class SourceTables:
    """What a source holds; asking for a table may raise `SourceError`, collecting it does not.

    Attributes:
        format: how the source is written, such as `ml-100k`, `csv` or `parquet`.
        declared_scale: lowest and highest rating by declaration or by the release's README, if there is one.
        judged_ratings: gives rows of `raw_ratings` with the readers' columns and the reason for rejecting them.
        judged_users: the same for `raw_users`; None where the source has none.
        judged_movies: the same for `raw_movies`.
    """

    format: str
    declared_scale: tuple[float, float] | None
    judged_ratings: Callable[[], pl.LazyFrame]
    judged_users: Callable[[], pl.LazyFrame | None]
    judged_movies: Callable[[], pl.LazyFrame | None]

    @cached_property
    def ratings(self) -> pl.LazyFrame:
        """Table `raw_ratings`, lazy Polars."""
        numbered = self._ratings.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
        return good_rows(numbered).select("user_id", "movie_id", "rating", "timestamp", "row")

    @cached_property
    def users(self) -> pl.LazyFrame:
        """Table `raw_users`, lazy Polars, without rows where there are none; the last of a user's rows counts."""
        if self._users is None:
            return NO_USERS
        return good_rows(self._users).unique("user_id", keep="last", maintain_order=True)

    @cached_property
    def movies(self) -> pl.LazyFrame:
        """Table `raw_movies`, lazy Polars; the last of a movie's rows counts."""
        if self._movies is None:
            return NO_MOVIES
        return good_rows(self._movies).unique("movie_id", keep="last", maintain_order=True)

    @cached_property
    def rejected(self) -> pl.LazyFrame:
        """Table `rejected_rows` of all files of the source, lazy Polars."""
        parts = (self._ratings, self._users, self._movies)
        return pl.concat([rejected_rows(part) for part in parts if part is not None])

    @cached_property
    def cleaned(self) -> pl.LazyFrame:
        """The column `cleaned`: for each good row of users and movies, how many texts had controls in them."""
        parts = [part for part in (self._users, self._movies) if part is not None]
        counts = [part.filter(pl.col(REASON).is_null()).select(cleaned=CLEANED) for part in parts]
        return pl.concat(counts) if counts else pl.LazyFrame(schema={"cleaned": pl.Int32})

    @cached_property
    def rating_scale(self) -> tuple[float, float]:
        """Lowest and highest rating: as declared, else what the good rows hold, (nan, nan) where there are none."""
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
    def _movies(self) -> pl.LazyFrame | None:
        return self.judged_movies()
