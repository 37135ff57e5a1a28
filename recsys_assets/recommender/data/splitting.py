"""Splits ratings into training and test rows: in time, by user, at random, and as published.

If all ratings have one time, their order is drawn at random. A cut in time is then a random split, and the latest
rating is a random one. The row order of the source would split such data by user, because most files are sorted by
user.

Of events, a row belongs to the time of its first event, and training rows hold the sums up to the cut (`known`).

Each function is one relational expression that runs on both engines. `evaluation/protocols` names the splits and says
what is scored on each.
"""

from collections.abc import Sequence
from typing import Literal

import narwhals as nw
import polars as pl
from pydantic import Field, field_validator

from recsys_assets.recommender.data.frames import drawn, pseudo_random, row_count, to_polars, with_integer
from recsys_assets.recommender.data.known import as_known, as_known_before, at_first_time, time_column
from recsys_assets.recommender.data.sections import Section

# Case study A cuts the 1,000,209 ratings of MovieLens 1M after 800,000 rows; a share of 0.8 would be 800,167.
_MOVIELENS_1M = 1_000_209
_MOVIELENS_1M_TRAIN = 800_000
# The test rows of a new user begin after this many ratings, however many of these are revealed.
MOST_REVEALED = 20
_DRAWN, _FIRST, _LATEST = "drawn", "first", "latest"
# The order of so few rows is found by sorting them; of more rows, a histogram with so many bins comes first.
_FEW_ROWS = 1_000_000
_BINS = 4_096
# The draw of the order is unrelated to the draws of `random_rows` and of the models.
_STREAM_OF_ORDER = 17

Cut = int | float | Literal["auto"]
Side = Literal["train", "test"]


def _is_fraction(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


class SplittingSettings(Section):
    """Training rows and test rows: the cut in time (case study A) and the partition of users (case study B)."""

    cut: str = Field(
        "auto",
        description="Where training ends in time: a number of ratings ('800000'), a fraction ('0.8'), or 'auto': "
        "800,000 for exactly MovieLens 1M, as in case study A, else 0.8.",
    )
    train_share: float = Field(
        0.7, gt=0, lt=1, description="Share of the users whose histories are training rows (case study B)."
    )
    seed: int = Field(1234, ge=0, description="Seed of the partition of users.")

    @field_validator("cut")
    @classmethod
    def _cut_is_known(cls, cut: str) -> str:
        if cut == "auto" or (cut.isdecimal() and int(cut) > 0) or _is_fraction(cut):
            return cut
        raise ValueError(f"{cut!r} is none of: a number of ratings ('800000'), a fraction ('0.8'), 'auto'")

    @property
    def parsed_cut(self) -> int | float | Literal["auto"]:
        """The cut: a number of ratings, a fraction or `auto`."""
        if self.cut == "auto":
            return "auto"
        return int(self.cut) if self.cut.isdecimal() else float(self.cut)


def train_size(n_ratings: int, cut: Cut = "auto") -> int:
    """Return the number of training ratings.

    Args:
        n_ratings: number of all ratings.
        cut: number of training rows (int), their share (float below 1, rounded down), or "auto": 800,000 for exactly
            MovieLens 1M, as in case study A, else 0.8.

    Raises:
        ValueError: the cut leaves no training rating or no test rating.

    Examples:
        >>> train_size(1000), train_size(1000, 0.75), train_size(1_000_209)
        (800, 750, 800000)
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


def has_times(ratings: nw.LazyFrame, column: str = "timestamp") -> bool:
    """Return whether the ratings have at least two different times; ratings without a row have none.

    Args:
        ratings: holds the column.
        column: name of the column of times.
    """
    time = nw.col(column)
    first, last = to_polars(ratings.select(first=time.min(), last=time.max())).row(0)
    return bool(first != last)


def _ordered(ratings: nw.LazyFrame) -> tuple[nw.LazyFrame, list[str]]:
    """Return the ratings and the columns that order them; without times, a draw by user and item that is added.

    Both sides of a split must come from one frame: a part of ratings with times may have a single time.
    """
    time = time_column(ratings)
    if has_times(ratings, time):
        return ratings, [time, "batch", "row"]
    order = pseudo_random(0, ["user", "item"], stream=_STREAM_OF_ORDER)
    return ratings.with_columns(order.alias(_DRAWN)), [_DRAWN, "user", "item"]


def cut_in_time(ratings: nw.LazyFrame, side: Side, *, cut: Cut = "auto") -> nw.LazyFrame:
    """Return the earlier or the later part of all ratings.

    Args:
        ratings: table ratings. Equal timestamps are ordered by batch, then row; if all are equal, by a draw. Of events,
            the first time of a row counts, and a training row holds its events before the cut only.
        side: `train` for the earlier part, `test` for the later one.
        cut: see `train_size`.

    Examples:
        >>> import polars as pl
        >>> from recsys_assets.recommender.data.frames import lazy, to_polars
        >>> ratings = pl.DataFrame({"user": [0, 1, 0], "item": [5, 5, 6], "timestamp": [30, 10, 20]})
        >>> ratings = lazy(ratings.with_columns(batch=0, row=pl.int_range(pl.len())))
        >>> to_polars(cut_in_time(ratings, "test", cut=2), "user", "item").rows()
        [(0, 5)]
    """
    size = train_size(row_count(ratings), cut)
    ordered, order = _ordered(ratings)
    is_drawn = order[0] == _DRAWN
    counted, order = with_integer(ordered, order[0], _FIRST), [_FIRST, *order[1:]]
    first_after = _row_at(counted, order, size)
    is_before = _is_before(order, first_after)
    if side == "test":
        chosen = at_first_time(counted.filter(~is_before))
    else:
        # Drawn rows have one first time, and no test row is later than that.
        moment = 0 if is_drawn else first_after[0]
        chosen = as_known(counted.filter(is_before), moment)
    return chosen.drop(_FIRST, _DRAWN, strict=False)


def _row_at(rows: nw.LazyFrame, order: list[str], position: int) -> tuple[int, ...]:
    """Return the values of the order columns in the row at a position, from 0, of the ordered rows.

    A histogram of the first column is narrowed down until few rows are left. Sorting all rows would take several times
    as long, and on Spark it would move them all to one task.

    Args:
        rows: the rows, in any order.
        order: integer columns that order the rows without ties.
        position: below the number of rows.
    """
    first = nw.col(order[0])
    lowest, highest = to_polars(rows.select(low=first.min(), high=first.max())).row(0)
    before = 0
    while True:
        width = (highest - lowest) // _BINS + 1
        within = rows.filter((first >= lowest) & (first <= highest))
        # Narwhals divides integers as floats on Spark; a remainder is exact.
        start = first - (first - lowest) % width
        counts = to_polars(within.group_by(start.alias("start")).agg(n=nw.len())).sort("start")
        earlier = counts.with_columns(before=before + pl.col("n").cum_sum() - pl.col("n"))
        lowest, n_rows, before = earlier.filter(pl.col("before") <= position).row(-1)
        highest = min(highest, lowest + width - 1)
        if n_rows <= _FEW_ROWS or width == 1:
            break
    few = to_polars(rows.filter((first >= lowest) & (first <= highest)), *order).sort(order)
    return few.row(position - before)


def _is_before(order: Sequence[str], row: Sequence[int]) -> nw.Expr:
    """Return whether a row comes before another one in lexicographic order."""
    column, value = nw.col(order[0]), row[0]
    if len(order) == 1:
        return column < value
    return (column < value) | ((column == value) & _is_before(order[1:], row[1:]))


def partition_users(users: nw.LazyFrame, *, train_share: float = 0.7, seed: int = 0) -> nw.LazyFrame:
    """Assign each user to `train` or `test` by a hash of the dense id: the table `user_partition`.

    Args:
        users: user.
        train_share: share of the users in `train`, 0 to 1.
        seed: seed of the hash.
    """
    in_train = drawn(train_share, seed, ["user"])
    return users.select("user", partition=nw.when(in_train).then(nw.lit("train")).otherwise(nw.lit("test")))


def histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: Side) -> nw.LazyFrame:
    """Return all ratings except the latest of each user of one side.

    Args:
        ratings: table ratings. A user with one rating has no row in the result.
        user_partition: user, partition.
        side: `train` or `test`.
    """
    own = _of_side(ratings, user_partition, side)
    latest = responses(ratings, user_partition, side)
    with_history = own.join(latest.select("user"), on="user", how="semi")
    return _without_latest(with_history, latest)


def responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: Side) -> nw.LazyFrame:
    """Return the latest rating of each user of one side.

    Args:
        ratings: table ratings. Of equal timestamps, the later source row is the latest. A user with one rating has no
            row in the result.
        user_partition: user, partition.
        side: `train` or `test`.
    """
    return _latest(*_ordered(ratings), _members(user_partition, side))


def _members(user_partition: nw.LazyFrame, side: str) -> nw.LazyFrame:
    return user_partition.filter(nw.col("partition") == side).select("user")


def _of_side(ratings: nw.LazyFrame, user_partition: nw.LazyFrame, side: str) -> nw.LazyFrame:
    return ratings.join(_members(user_partition, side), on="user", how="semi")


def _latest(ordered: nw.LazyFrame, order: list[str], members: nw.LazyFrame | None = None) -> nw.LazyFrame:
    """Return the latest rating of each user with at least two ratings; of `members` only, if given.

    Of events, that is the row with the newest first event.
    """
    own = ordered if members is None else ordered.join(members, on="user", how="semi")
    first = nw.col(order[0])
    per_user = own.group_by("user").agg(first.max().alias(_LATEST), n_ratings=nw.len())
    # Only ties at the latest time have to be ordered, not all ratings.
    tied = own.join(per_user, on="user").filter(first == nw.col(_LATEST), nw.col("n_ratings") > 1)
    placed = tied.with_columns(place=nw.col("item").cum_count(reverse=True).over("user", order_by=order))
    latest = placed.filter(nw.col("place") == 1).drop("place", "n_ratings", _LATEST, _DRAWN, strict=False)
    return at_first_time(latest)


def _without_latest(ratings: nw.LazyFrame, latest: nw.LazyFrame) -> nw.LazyFrame:
    """Return the rows that are not the latest ones, as they were known before the latest one of their user."""
    others = ratings.join(latest.select("user", "item"), on=["user", "item"], how="anti")
    return as_known_before(others, latest)


def partition_by_return(ratings: nw.LazyFrame, *, cut: Cut = "auto") -> nw.LazyFrame:
    """Partition the users of a cut in time: the table `user_partition`.

    `test` holds the users with ratings on both sides of the cut, `train` the users with ratings before the cut only.
    Users without a rating before the cut are in neither.
    """
    before, after = (cut_in_time(ratings, side, cut=cut).select("user").unique() for side in ("train", "test"))
    returned = after.with_columns(partition=nw.lit("test"))
    return before.join(returned, on="user", how="left").with_columns(nw.col("partition").fill_null("train"))


def first_responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Return the first rating of each test user; of equal timestamps, the earlier source row."""
    ordered, order = _ordered(ratings)
    place = nw.col("item").cum_count().over("user", order_by=order)
    first = _of_side(ordered, user_partition, "test").with_columns(place=place).filter(nw.col("place") == 1)
    return at_first_time(first).drop("place", _DRAWN, strict=False)


def random_rows(ratings: nw.LazyFrame, side: Side, *, test_share: float, seed: int = 0) -> nw.LazyFrame:
    """Split ratings at random by a hash of (user, item, seed), like the random splits of the literature.

    Args:
        ratings: table ratings.
        side: `train` or `test`.
        test_share: share of the ratings in `test`, 0 to 1.
        seed: seed of the hash.
    """
    in_test = drawn(test_share, seed, ["user", "item"])
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
    """Split the ratings so that only the first few ratings of a share of the users, the new ones, are known.

    Test rows are a new user's ratings after the first 20 (`n_skipped`). They are therefore the same however many
    ratings are revealed. A new user with fewer ratings has no test row.

    Args:
        ratings: table ratings.
        side: `train`: all ratings of other users and the first `n_revealed` of each new user. `test`: the test rows.
        n_revealed: number of known ratings per new user, at most `n_skipped`.
        n_skipped: number of ratings of a new user before the test rows.
        share: share of the users that are new; a hash picks them.
        seed: seed of the hash.

    Raises:
        ValueError: `n_revealed` is negative or above `n_skipped`.
    """
    if not 0 <= n_revealed <= n_skipped:
        raise ValueError(f"0 to {n_skipped} ratings of a new user can be revealed, not {n_revealed}")
    is_new, place = nw.col("is_new"), nw.col("place")
    ordered, order = _ordered(ratings)
    marked = ordered.with_columns(
        is_new=drawn(share, seed, ["user"]),
        place=nw.col("item").cum_count().over("user", order_by=order),
    )
    chosen = ~is_new | (place <= n_revealed) if side == "train" else is_new & (place > n_skipped)
    rows = marked.filter(chosen)
    if side == "test":
        rows = at_first_time(rows)
    else:
        rows = as_known_before(rows, marked.filter(is_new, place == n_revealed + 1))
    return rows.drop("is_new", "place", _DRAWN, strict=False)


def leave_last_out(ratings: nw.LazyFrame, side: Side) -> nw.LazyFrame:
    """Split off each user's latest rating as test row; a user's only rating is a training row.

    Other users' training rows may be later than the test row, so scores look better than under a cut in time.

    Args:
        ratings: table ratings.
        side: `train` or `test`.
    """
    latest = _latest(*_ordered(ratings))
    if side == "test":
        return latest
    return _without_latest(ratings, latest)


def published_fold(ratings: nw.LazyFrame, folds: nw.LazyFrame, side: Side, *, fold: str) -> nw.LazyFrame:
    """Return one side of a split that came with the data, such as `u1` of MovieLens 100K.

    Args:
        ratings: table ratings.
        folds: table published_folds.
        side: `train` or `test`.
        fold: name of the split.
    """
    pairs = folds.filter(nw.col("fold") == fold, nw.col("partition") == side).select("user", "item")
    return ratings.join(pairs, on=["user", "item"], how="semi")
