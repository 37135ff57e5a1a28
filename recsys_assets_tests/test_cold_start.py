import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.models import cold_start
from recsys_assets.recommender.models.als import ALSModel


def _world(n_warm: int, n_cold: int, n_items: int):
    """Warm users with 1, 2, 3, … ratings; cold users; two clusters whose predictions are told apart by their sign."""
    warm = [(user, item % n_items, 4.0) for user in range(n_warm) for item in range(min(user % 5 + 1, n_items))]
    train = pl.DataFrame(warm, schema={"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}, orient="row")
    users = pl.DataFrame({"user": np.arange(n_warm + n_cold, dtype=np.int32)})
    members = users.with_columns(cluster=(pl.col("user") % 2).cast(pl.Int32))
    predicted = pl.DataFrame({"cluster": [0, 1]}, schema={"cluster": pl.Int32}).join(
        pl.DataFrame({"item": np.arange(n_items, dtype=np.int32)}), how="cross"
    )
    predicted = predicted.with_columns(rating=((1 - 2 * pl.col("cluster")) * (pl.col("item") + 1)).cast(pl.Float32))
    return [lazy(table) for table in (train, users, members, predicted)]


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 40), st.one_of(st.just("median"), st.integers(1, 60)))
def test_every_cold_user_gets_distinct_ratings_of_its_cluster(n_warm, n_cold, n_items, fill_size):
    """New users would be filled with another cluster's taste, twice the same item, or not at all."""
    train, users, members, predicted = _world(n_warm, n_cold, n_items)
    adjusted = to_polars(
        cold_start.fill_cold_users(
            train, users, members, predicted, settings=cold_start.ColdStartSettings(fill_size=fill_size)
        )
    )
    given_rows = adjusted.filter(~pl.col("is_fill")).drop("is_fill")
    assert given_rows.sort("user", "item").equals(to_polars(train).sort("user", "item"))
    fills = adjusted.filter("is_fill")
    median = int(to_polars(train).group_by("user").len()["len"].median())
    # An item that no training user rated has no prediction of its own in a real run; here all of them have one.
    expected = min(median if fill_size == "median" else fill_size, n_items)
    assert fills.group_by("user").len()["len"].to_list() == [expected] * n_cold
    assert not fills.select("user", "item").is_duplicated().any()
    own = (1 - 2 * (fills["user"] % 2)) * (fills["item"] + 1)
    assert (fills["rating"] == own.cast(pl.Float32)).all()


def test_the_draw_is_spread_over_users_and_items():
    """All new users would be given the same items, or a few items would be drawn far too often."""
    train, users, members, predicted = _world(10, 3_000, 200)
    fills = to_polars(
        cold_start.fill_cold_users(
            train, users, members, predicted, settings=cold_start.ColdStartSettings(fill_size=20)
        )
    ).filter("is_fill")
    per_item = fills.group_by("item").len()["len"].cast(pl.Int64)
    assert len(per_item) == 200
    # 300 expected per item; a binomial draw has a standard deviation of 16.4.
    assert per_item.std() < 2 * 16.4
    assert abs(per_item - 300).max() < 6 * 16.4
    baskets = fills.sort("user", "item").group_by("user").agg("item")["item"]
    # 80 strides from 200 starts, forwards and backwards alike: about 2,500 different baskets.
    assert baskets.n_unique() > 2_300


def test_another_seed_draws_other_items():
    """The fill could not be repeated, or could not be varied."""
    worlds = _world(10, 30, 50)
    first, again, other = (
        to_polars(
            cold_start.fill_cold_users(*worlds, settings=cold_start.ColdStartSettings(fill_size=5, seed=seed))
        ).sort("user", "item")
        for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_clusters_are_predicted_for_items_with_a_training_rating_only():
    """New users would be filled with ratings of items nobody has rated."""
    factors = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], np.float32)
    items = np.array([[1.0, 1.0], [0.0, 0.0], [2.0, 3.0]], np.float32)
    model = ALSModel(factors, items, np.array([True, True, False]), np.array([True, False, True]), {}, "index")
    predicted = cold_start.predict_clusters(model)
    assert predicted.rows() == [(0, 0, 1.0), (0, 2, 2.0), (1, 0, 2.0), (1, 2, 6.0)]


def test_ratings_per_user_counts_users_with_ratings_only():
    """The size of the fill would be another than case study A's median."""
    train = lazy(pl.DataFrame({"user": [0, 0, 0, 3, 4, 4]}))
    assert cold_start.ratings_per_user(train) == (3, pytest.approx(2.0), pytest.approx(2.0))
