"""Who saw what: the cut in time of case study A and the users and latest ratings of case study B.

Each function is one relational expression that runs on both engines.
"""

from typing import Literal

import narwhals as nw

from recsys_assets.recommender.frames import pseudo_random, row_count

# Case study A cuts MovieLens 1M (1,000,209 ratings) after 800,000 rows; 0.8 of it would be 800,167.
_MOVIELENS_1M = 1_000_209
_MOVIELENS_1M_TRAIN = 800_000
_IN_TIME = ["timestamp", "batch", "row"]

Cut = int | float | Literal["auto"]


def train_size(n_ratings: int, cut: Cut = "auto") -> int:
    """Number of training ratings.

    Args:
        n_ratings: number of ratings in all.
        cut: a number of rows (int), a fraction of them (float below 1, rounded down), or "auto": 800,000 for exactly
            MovieLens 1M, as in case study A, else 0.8.

    Raises:
        ValueError: the cut leaves no training or no test rating.
    """
    if cut == "auto":
        cut = _MOVIELENS_1M_TRAIN if n_ratings == _MOVIELENS_1M else 0.8
    size = int(n_ratings * cut) if isinstance(cut, float) else cut
    if not 0 < size < n_ratings:
        raise ValueError(
            f"the cut {cut} leaves {max(size, 0):,} of {n_ratings:,} ratings to train on; "
            "set splitting.cut to a number of rows or a fraction that leaves some on both sides"
        )
    return size


def cut_in_time(ratings: nw.LazyFrame, side: Literal["train", "test"], *, cut: Cut = "auto") -> nw.LazyFrame:
    """The earlier or the later part of all ratings; equal timestamps are ordered by batch, then row."""
    size = train_size(row_count(ratings), cut)
    position = nw.col("position")
    return (
        ratings.with_row_index("position", order_by=_IN_TIME)
        .filter(position < size if side == "train" else position >= size)
        .drop("position")
    )


def partition_users(users: nw.LazyFrame, *, train_share: float = 0.7, seed: int = 0) -> nw.LazyFrame:
    """Each user to `train` or `test` by a hash of its dense id: the table `user_partition`."""
    threshold = int(train_share * (2**31 - 1))
    in_train = pseudo_random(seed, ["user"]) < threshold
    return users.select("user", partition=nw.when(in_train).then(nw.lit("train")).otherwise(nw.lit("test")))


def histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: Literal["train", "test"]) -> nw.LazyFrame:
    """All but the latest rating of each user of one side. Users with a single rating have no row."""
    return _latest_first(ratings, user_partition, side).filter(nw.col("place") > 1).drop("place", "n_ratings")


def responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: Literal["train", "test"]) -> nw.LazyFrame:
    """The latest rating of each user of one side who has an earlier one; the later source row where times tie."""
    return (
        _latest_first(ratings, user_partition, side)
        .filter(nw.col("place") == 1, nw.col("n_ratings") > 1)
        .drop("place", "n_ratings")
    )


def _latest_first(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: str) -> nw.LazyFrame:
    return ratings.join(user_partition.filter(nw.col("partition") == side).select("user"), on="user").with_columns(
        place=nw.col("movie").cum_count(reverse=True).over("user", order_by=_IN_TIME),
        n_ratings=nw.len().over("user"),
    )
