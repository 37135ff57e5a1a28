"""Leaves users out: forgotten users, and users outside a development sample.

The exclusion list belongs in `home`.
"""

from collections.abc import Collection

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import drawn
from recsys_assets.recommender.ingest.user_words import names_one

_KEPT = "__kept"
WITHHELD = "(withheld: it names a user who is to be forgotten)"


def without_users(rows: nw.LazyFrame, forgotten: Collection[str]) -> nw.LazyFrame:
    """The rows of all users who are not forgotten.

    Args:
        rows: column user_id and any other columns.
        forgotten: original ids of the forgotten users.
    """
    return rows.filter(~nw.col("user_id").cast(nw.String()).is_in(sorted(forgotten))) if forgotten else rows


def withhold(rejected: pl.LazyFrame, forgotten: Collection[str]) -> pl.LazyFrame:
    """`rejected_rows`, with the text withheld in rows that contain the id of a forgotten user as a whole word."""
    if not forgotten:
        return rejected
    is_one = names_one(pl.col("text"), forgotten)
    return rejected.with_columns(pl.when(is_one).then(pl.lit(WITHHELD)).otherwise("text").alias("text"))


def sample_users(users: nw.LazyFrame, *, share: float, seed: int) -> nw.LazyFrame:
    """A share of the users, sampled by hash of the dense id, with new dense ids: the table `users` of a sample.

    Dense ids are numbered by first batch, so sampled users stay in the sample when new batches arrive.

    Args:
        users: columns user, user_id, attributes.
        share: share of users to keep, 0 to 1.
        seed: random seed of the sample.
    """
    if share >= 1:
        return users
    columns = users.collect_schema().names()
    return (
        users.filter(drawn(share, seed, ["user"]))
        .with_row_index(_KEPT, order_by=["user"])
        .with_columns(user=nw.col(_KEPT).cast(nw.Int32()))
        .select(*columns)
    )
