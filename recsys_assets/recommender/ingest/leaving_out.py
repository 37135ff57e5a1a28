"""Users who are left out: those who are to be forgotten, and those outside of a sample for development."""

from collections.abc import Collection

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import pseudo_random

_RANGE = 2**31 - 1
_KEPT = "__kept"
WITHHELD = "(withheld: it names a user who is to be forgotten)"


def without_users(rows: nw.LazyFrame, forgotten: Collection[str]) -> nw.LazyFrame:
    """The rows of everybody else.

    Args:
        rows: user_id and anything.
        forgotten: ids to leave out.
    """
    return rows.filter(~nw.col("user_id").cast(nw.String()).is_in(sorted(forgotten))) if forgotten else rows


def withhold(rejected: pl.LazyFrame, forgotten: Collection[str]) -> pl.LazyFrame:
    """`rejected_rows` without the text of rows that name one of these users as a whole word."""
    if not forgotten:
        return rejected
    words = pl.col("text").str.extract_all(r"[^\s,;:|\t\"'{}\[\]]+")
    phrases = [user_id for user_id in forgotten if not _is_a_word(user_id)]
    names_one = pl.any_horizontal(
        words.list.eval(pl.element().is_in(sorted(forgotten))).list.any(),
        *(pl.col("text").str.contains(phrase, literal=True) for phrase in phrases),
    )
    return rejected.with_columns(pl.when(names_one).then(pl.lit(WITHHELD)).otherwise("text").alias("text"))


def sample_users(users: nw.LazyFrame, *, share: float, seed: int) -> nw.LazyFrame:
    """A share of the users, chosen by a hash of their index, numbered anew: the table `users` of a sample.

    Indices are given out by first batch, so who was chosen stays chosen when more batches come.

    Args:
        users: user, user_id, attributes.
        share: of the users to keep, 0 to 1.
        seed: another one keeps other users.
    """
    if share >= 1:
        return users
    columns = users.collect_schema().names()
    return (
        users.filter(pseudo_random(seed, ["user"]) < int(share * _RANGE))
        .with_row_index(_KEPT, order_by=["user"])
        .with_columns(user=nw.col(_KEPT).cast(nw.Int32()))
        .select(*columns)
    )


def _is_a_word(user_id: str) -> bool:
    return not set(user_id) & set(" ,;:|\t\"'{}[]")
