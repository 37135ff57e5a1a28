"""Who saw what: the cut in time of case study A, the users and latest ratings of case study B, and other splits.

Each function is one relational expression that runs on both engines.
"""

from typing import Literal

import narwhals as nw

from recsys_assets.recommender.data.frames import pseudo_random, row_count

# Case study A cuts MovieLens 1M (1,000,209 ratings) after 800,000 rows; 0.8 of it would be 800,167.
_MOVIELENS_1M = 1_000_209
_MOVIELENS_1M_TRAIN = 800_000
# New users are scored on what they rated after these, whichever part of these is known.
MOST_REVEALED = 20
_IN_TIME = ["timestamp", "batch", "row"]

Cut = int | float | Literal["auto"]
Side = Literal["train", "test"]


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


def cut_in_time(ratings: nw.LazyFrame, side: Side, *, cut: Cut = "auto") -> nw.LazyFrame:
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
    in_train = pseudo_random(seed, ["user"]) < _threshold(train_share)
    return users.select("user", partition=nw.when(in_train).then(nw.lit("train")).otherwise(nw.lit("test")))


def histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: Side) -> nw.LazyFrame:
    """All but the latest rating of each user of one side. Users with a single rating have no row."""
    return _latest_first(ratings, user_partition, side).filter(nw.col("place") > 1).drop("place", "n_ratings")


def responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: Side) -> nw.LazyFrame:
    """The latest rating of each user of one side who has an earlier one; the later source row where times tie."""
    return (
        _latest_first(ratings, user_partition, side)
        .filter(nw.col("place") == 1, nw.col("n_ratings") > 1)
        .drop("place", "n_ratings")
    )


def _latest_first(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: str) -> nw.LazyFrame:
    members = user_partition.filter(nw.col("partition") == side).select("user")
    return _placed_latest_first(ratings.join(members, on="user"))


def _placed_latest_first(ratings: nw.LazyFrame) -> nw.LazyFrame:
    return ratings.with_columns(
        place=nw.col("movie").cum_count(reverse=True).over("user", order_by=_IN_TIME),
        n_ratings=nw.len().over("user"),
    )


def partition_by_return(ratings: nw.LazyFrame, *, cut: Cut = "auto") -> nw.LazyFrame:
    """The table `user_partition` of a cut in time: `test` are users with ratings on both sides, `train` those before.

    Users without a rating before the cut are in no partition.
    """
    before, after = (cut_in_time(ratings, side, cut=cut).select("user").unique() for side in ("train", "test"))
    returned = after.with_columns(partition=nw.lit("test"))
    return before.join(returned, on="user", how="left").with_columns(nw.col("partition").fill_null("train"))


def first_responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """The first rating of each test user; where times tie, the earlier source row."""
    members = user_partition.filter(nw.col("partition") == "test").select("user")
    place = nw.col("movie").cum_count().over("user", order_by=_IN_TIME)
    return ratings.join(members, on="user").with_columns(place=place).filter(nw.col("place") == 1).drop("place")


def random_rows(ratings: nw.LazyFrame, side: Side, *, test_share: float, seed: int = 0) -> nw.LazyFrame:
    """Each rating to train or test by a hash of (user, movie, seed), as the random splits of the literature are."""
    in_test = pseudo_random(seed, ["user", "movie"]) < _threshold(test_share)
    return ratings.filter(in_test if side == "test" else ~in_test)


def new_user_rows(
    ratings: nw.LazyFrame,
    side: Side,
    *,
    n_revealed: int,
    n_skipped: int = MOST_REVEALED,
    share: float = 0.1,
    seed: int = 0,
) -> nw.LazyFrame:
    """Everybody's ratings but those of new users, of whom only the first few are known.

    The test rows are a new user's ratings after the first 20 (`n_skipped`), so that they are the same however many are
    revealed. Users with fewer ratings can be new, and have no test row then.

    Args:
        ratings: table ratings.
        side: `train`: the ratings of all others, and the first `n_revealed` of each new user; or `test`.
        n_revealed: at most `n_skipped`.
        n_skipped: ratings of a new user that come before the test rows.
        share: share of the users that is new, by a hash.
        seed: of that hash.

    Raises:
        ValueError: more ratings are to be revealed than there are before the test rows.
    """
    if not 0 <= n_revealed <= n_skipped:
        raise ValueError(f"0 to {n_skipped} ratings of a new user can be revealed, not {n_revealed}")
    is_new, place = nw.col("is_new"), nw.col("place")
    marked = ratings.with_columns(
        is_new=pseudo_random(seed, ["user"]) < _threshold(share),
        place=nw.col("movie").cum_count().over("user", order_by=_IN_TIME),
    )
    chosen = ~is_new | (place <= n_revealed) if side == "train" else is_new & (place > n_skipped)
    return marked.filter(chosen).drop("is_new", "place")


def last_out(ratings: nw.LazyFrame, side: Side) -> nw.LazyFrame:
    """Each user's latest rating to test, the earlier ones to train; a user's only rating trains.

    What others rated later is known in training: compared with a cut in time, this flatters.
    """
    placed = _placed_latest_first(ratings)
    in_test = (nw.col("place") == 1) & (nw.col("n_ratings") > 1)
    return placed.filter(in_test if side == "test" else ~in_test).drop("place", "n_ratings")


def published_fold(ratings: nw.LazyFrame, folds: nw.LazyFrame, side: Side, *, fold: str) -> nw.LazyFrame:
    """One side of a split that came with the data, such as `u1` of MovieLens 100K.

    Args:
        ratings: table ratings.
        folds: table published_folds.
        side: which side.
        fold: its name.
    """
    pairs = folds.filter(nw.col("fold") == fold, nw.col("partition") == side).select("user", "movie")
    return ratings.join(pairs, on=["user", "movie"], how="semi")


def _threshold(share: float) -> int:
    return int(share * (2**31 - 1))
