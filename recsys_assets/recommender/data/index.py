"""The dense index: which int32 stands for which user and movie.

Models keep factors by dense index, so each remembers the index it was fitted with and refuses any other.
"""

import hashlib
from dataclasses import dataclass

import narwhals as nw
import polars as pl

from recsys_assets.errors import RecsysError
from recsys_assets.recommender.data.frames import to_polars


class IndexMismatchError(RecsysError):
    """What is stored meets users or movies that were numbered differently from those it was made with."""


@dataclass(frozen=True)
class Index:
    """Size and fingerprint of the `users` and `movies` tables."""

    n_users: int
    n_movies: int
    fingerprint: str

    @classmethod
    def of(cls, users: nw.LazyFrame, movies: nw.LazyFrame) -> "Index":
        """The index given out by the tables `users` (user, user_id) and `movies` (movie, movie_id)."""
        user_ids = to_polars(users.select("user", "user_id").sort("user"))["user_id"]
        movie_ids = to_polars(movies.select("movie", "movie_id").sort("movie"))["movie_id"]
        return cls(len(user_ids), len(movie_ids), _digest(user_ids, movie_ids))

    def require(self, fitted_with: str, model: str) -> None:
        """Raise unless a model was fitted with this index.

        Args:
            fitted_with: the fingerprint stored in the model.
            model: the asset that holds it, for the message.

        Raises:
            IndexMismatchError: with the asset to materialize again.
        """
        if fitted_with != self.fingerprint:
            raise IndexMismatchError(
                f"{model} was fitted with another numbering of users and movies "
                f"({fitted_with}, now {self.fingerprint}). Materialize {model} and what depends on it again: "
                f"dg launch --assets '{model}+'"
            )


def renumber(rows: pl.LazyFrame, column: str, before: pl.LazyFrame, after: pl.LazyFrame) -> pl.LazyFrame:
    """Rows by the numbers of another index, without those of users or movies that it does not have.

    Args:
        rows: a table with the column.
        column: `user` or `movie`.
        before: the column and `<column>_id`: the index that the rows are numbered by.
        after: the same of the other index.
    """
    original = f"{column}_id"
    numbers = before.select(column, original).join(after.select(original, new=column), on=original)
    found = rows.join(numbers.select(column, "new"), on=column, maintain_order="left")
    return found.with_columns(pl.col("new").alias(column)).drop("new")


def _digest(*columns: pl.Series) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for ids in columns:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        for encoded in (value.encode() for value in ids):
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()
