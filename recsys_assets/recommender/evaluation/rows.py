"""Scored rows: test rows grouped by user and aligned with the predictions of each model.

Formulas belong in `metrics`, the choice of the scored rows in the protocols.
"""

from dataclasses import dataclass
from functools import cached_property

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import conform, lazy, pseudo_random, to_polars
from recsys_assets.recommender.data.tables import RANKING_PREDICTIONS, RATING_PREDICTIONS, Table

_PAIR = (pl.col("user").cast(pl.Int64) * 2**32 + pl.col("item")).alias("pair")


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Test rows in memory, grouped by user in ascending order, in seeded random order within a user.

    The order is a function of (seed, user, item), so it does not depend on the input order, and a stable sort by
    prediction breaks ties at random.

    Args:
        frame: columns user, item, rating, in that order; `of` sorts.
    """

    frame: pl.DataFrame

    @classmethod
    def of(cls, ratings: pl.DataFrame, *, seed: int) -> "ScoredRows":
        """Sorts `ratings` (columns user, item, rating) by user and in seeded random order within a user."""
        tied = to_polars(lazy(ratings).with_columns(tie=pseudo_random(seed, ["user", "item"])))
        return cls(tied.sort("user", "tie", "item").select("user", "item", "rating"))

    @cached_property
    def users(self) -> np.ndarray:
        """The users with a row, ascending: shape (users,)."""
        return self.frame["user"].unique(maintain_order=True).to_numpy()

    @cached_property
    def code(self) -> np.ndarray:
        """Each row's position in `users`: shape (rows,)."""
        return self.frame["user"].rle_id().cast(pl.Int64).to_numpy()

    @cached_property
    def pairs(self) -> np.ndarray:
        """User and item as one number: shape (rows,)."""
        return self.frame.select(_PAIR)["pair"].to_numpy()

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of rows of each user: shape (users,)."""
        return np.bincount(self.code, minlength=len(self.users))

    @cached_property
    def starts(self) -> np.ndarray:
        """The first row of each user: shape (users,)."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def place(self) -> np.ndarray:
        """Each row's position within its user, from 0: shape (rows,)."""
        return np.arange(len(self.code)) - self.starts[self.code]

    @cached_property
    def rating(self) -> np.ndarray:
        """The true ratings: shape (rows,)."""
        return self.frame["rating"].cast(pl.Float64).to_numpy()

    def per_user(self, values: np.ndarray) -> np.ndarray:
        """Sums of `values`, shape (rows,), over each user's rows: shape (users,)."""
        return np.bincount(self.code, weights=values, minlength=len(self.users))

    def order(self, values: np.ndarray, *, descending: bool) -> np.ndarray:
        """Row positions sorted by `values` within each user: shape (rows,). Ties keep the order of the rows."""
        keyed = pl.DataFrame({"code": self.code, "value": values})
        by = pl.arg_sort_by("code", "value", descending=[False, descending], maintain_order=True)
        return keyed.select(by).to_series().to_numpy()

    def ratings_of(self, model: str, predictions: nw.LazyFrame) -> np.ndarray:
        """Ratings predicted by the model, NaN if the model has no prediction: shape (rows,).

        Raises:
            ValueError: a column is missing, or a row is predicted twice.
        """
        own = self._aligned(model, predictions, RATING_PREDICTIONS)
        return np.where(np.isfinite(own), own, np.nan)

    def complete_ratings_of(self, model: str, predictions: nw.LazyFrame) -> np.ndarray:
        """Ratings predicted by a model that must predict every row: shape (rows,).

        Raises:
            ValueError: a column is missing, a row is predicted twice, or a row is not predicted.
        """
        own = self.ratings_of(model, predictions)
        missing = np.flatnonzero(np.isnan(own))
        if missing.size:
            user, item = self.frame.select("user", "item").row(missing[0])
            raise ValueError(
                f"{model!r} stands in for the other models and must predict every row; it does not predict "
                f"{missing.size:,} of {len(own):,}, the first: user {user}, item {item}"
            )
        return own

    def ranks_of(self, model: str, ranking: nw.LazyFrame) -> np.ndarray:
        """Ranks of the rows in the model's ranking, from 1, infinity if the row has no rank: shape (rows,).

        Raises:
            ValueError: a column is missing, a row is ranked twice, a rank is below 1, or two items of a user
                share a rank.
        """
        aligned = self._aligned(model, ranking, RANKING_PREDICTIONS)
        ranks = np.where(np.isnan(aligned), np.inf, aligned)
        if (ranks < 1).any():
            raise ValueError(f"{model!r}: a rank is below 1; ranks count from 1")
        in_order = ranks[self.order(ranks, descending=False)]
        same = (in_order[1:] == in_order[:-1]) & np.isfinite(in_order[1:]) & (np.diff(self.code) == 0)
        if same.any():
            user = self.users[self.code[1:][same][0]]
            raise ValueError(f"{model!r}: two items of user {user} share a rank; a ranking must be without ties")
        return ranks

    def _aligned(self, model: str, frame: nw.LazyFrame, table: Table) -> np.ndarray:
        """The value column of `frame` for these rows, as float64; NaN if `frame` has no such row."""
        value = next(name for name in table.columns if name not in table.key)
        given = to_polars(conform(frame, table)).select(_PAIR, pl.col(value).cast(pl.Float64)).sort("pair")
        pairs = given["pair"].to_numpy()
        if (pairs[1:] == pairs[:-1]).any():
            raise ValueError(f"{model!r}: more than one row for the same user and item; there must be one")
        at = np.searchsorted(pairs, self.pairs)
        found = np.append(pairs, -1)[at] == self.pairs
        return np.where(found, np.append(given[value].to_numpy(), np.nan)[at], np.nan)


def ratings_per_user(ratings: nw.LazyFrame) -> pl.DataFrame:
    """Number of ratings of each user with a rating: columns user, count."""
    return to_polars(ratings.group_by("user").agg(count=nw.len()))


def distribution(ratings: nw.LazyFrame) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ratings, ascending, and the share of each: two arrays of shape (values,)."""
    counts = to_polars(ratings.group_by("rating").agg(count=nw.len())).sort("rating")
    n = counts["count"].to_numpy()
    return counts["rating"].cast(pl.Float64).to_numpy(), n / max(n.sum(), 1)


def counts_of(users: np.ndarray, per_user: pl.DataFrame) -> np.ndarray:
    """Counts from `ratings_per_user` for these users, 0 for a user without ratings: shape (users,)."""
    wanted = pl.DataFrame({"user": users})
    counts = wanted.join(per_user, on="user", how="left", maintain_order="left")["count"]
    return counts.fill_null(0).cast(pl.Int64).to_numpy()


def populations_by_history(n_train: np.ndarray) -> dict[str, np.ndarray]:
    """The masks all, seen, unseen for users with `n_train` training ratings: each of shape (users,)."""
    return {"all": np.ones(len(n_train), dtype=bool), "seen": n_train > 0, "unseen": n_train == 0}
