"""A function per block of users. Lists and affinities on both engines are compared in test_reproducible."""

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys_assets.home.running import SparkSettings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.blocks import by_user, whole_users
from recsys_assets.recommender.data.frames import lazy, to_polars

SCHEMA = {"user_id": pl.String(), "n": pl.Int32(), "items": pl.List(pl.String())}


@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 8), st.integers(1, 5))
def test_blocks_hold_whole_users_and_every_row(users, batch, users_per_block):
    """A user whose rows are cut in two would get two lists, each made from a part of the ratings."""
    rows = pl.DataFrame({"user": sorted(users)}, schema={"user": pl.Int32}).with_row_index("row")
    blocks = list(whole_users(iter(rows.iter_slices(batch)), users_per_block))
    assert pl.concat([rows.clear(), *blocks]).equals(rows)
    of_block = [set(block["user"]) for block in blocks]
    assert sum(map(len, of_block)) == rows["user"].n_unique()
    assert all(len(found) >= users_per_block for found in of_block[:-1])


def _summary(users: pl.DataFrame, rows: nw.LazyFrame) -> pl.DataFrame:
    counted = to_polars(rows).sort("item").group_by("user").agg(n=pl.len().cast(pl.Int32), items=pl.col("item"))
    nothing = pl.lit([], pl.List(pl.String))
    return users.join(counted, on="user", how="left").select(
        "user_id", pl.col("n").fill_null(0), pl.col("items").fill_null(nothing)
    )


@pytest.mark.spark
def test_a_function_gets_every_user_on_both_engines(tmp_path):
    """On a cluster, users without a rating would get no list, or some users the ratings of others."""
    session = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    users = pl.DataFrame({"user": range(50), "user_id": [f"u{user}" for user in range(50)]})
    rows = pl.DataFrame({"user": [user % 40 for user in range(300)], "item": [f"i{row % 7}" for row in range(300)]})

    def on_spark(frame: pl.DataFrame) -> nw.LazyFrame:
        return nw.from_native(session.createDataFrame(frame.to_arrow()))

    found = [
        to_polars(by_user(_summary, scan(rows), scan(users), schema=SCHEMA, users_per_block=3)).sort("user_id")
        for scan in (lazy, on_spark)
    ]
    assert_frame_equal(found[0], found[1])
    assert len(found[0]) == 50
    assert found[0]["n"].sum() == 300
