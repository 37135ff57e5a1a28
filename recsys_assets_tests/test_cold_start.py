import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.models import cold_start
from recsys_assets.recommender.models.als import ALSModel


def _world(n_warm: int, n_cold: int, n_movies: int):
    """Warm users with 1, 2, 3, … ratings; cold users; two clusters whose predictions are told apart by their sign."""
    warm = [(user, movie % n_movies, 4.0) for user in range(n_warm) for movie in range(min(user % 5 + 1, n_movies))]
    train = pl.DataFrame(warm, schema={"user": pl.Int32, "movie": pl.Int32, "rating": pl.Float32}, orient="row")
    users = pl.DataFrame({"user": np.arange(n_warm + n_cold, dtype=np.int32)})
    members = users.with_columns(cluster=(pl.col("user") % 2).cast(pl.Int32))
    predicted = pl.DataFrame({"cluster": [0, 1]}, schema={"cluster": pl.Int32}).join(
        pl.DataFrame({"movie": np.arange(n_movies, dtype=np.int32)}), how="cross"
    )
    predicted = predicted.with_columns(rating=((1 - 2 * pl.col("cluster")) * (pl.col("movie") + 1)).cast(pl.Float32))
    return [lazy(table) for table in (train, users, members, predicted)]


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 40), st.one_of(st.just("median"), st.integers(1, 60)))
def test_every_cold_user_gets_distinct_ratings_of_its_cluster(n_warm, n_cold, n_movies, fill_size):
    """New users would be filled with another cluster's taste, twice the same movie, or not at all."""
    train, users, members, predicted = _world(n_warm, n_cold, n_movies)
    adjusted = to_polars(cold_start.fill_cold_users(train, users, members, predicted, fill_size=fill_size))
    given_rows = adjusted.filter(~pl.col("is_fill")).drop("is_fill")
    assert given_rows.sort("user", "movie").equals(to_polars(train).sort("user", "movie"))
    fills = adjusted.filter("is_fill")
    median = int(to_polars(train).group_by("user").len()["len"].median())
    # A movie that no training user rated has no prediction of its own in a real run; here all of them have one.
    expected = min(median if fill_size == "median" else fill_size, n_movies)
    assert fills.group_by("user").len()["len"].to_list() == [expected] * n_cold
    assert not fills.select("user", "movie").is_duplicated().any()
    own = (1 - 2 * (fills["user"] % 2)) * (fills["movie"] + 1)
    assert (fills["rating"] == own.cast(pl.Float32)).all()


def test_the_draw_is_spread_over_users_and_movies():
    """All new users would be given the same movies, or a few movies would be drawn far too often."""
    train, users, members, predicted = _world(10, 3_000, 200)
    fills = to_polars(cold_start.fill_cold_users(train, users, members, predicted, fill_size=20)).filter("is_fill")
    per_movie = fills.group_by("movie").len()["len"].cast(pl.Int64)
    assert len(per_movie) == 200
    # 300 expected per movie; a binomial draw has a standard deviation of 16.4.
    assert per_movie.std() < 2 * 16.4
    assert abs(per_movie - 300).max() < 6 * 16.4
    baskets = fills.sort("user", "movie").group_by("user").agg("movie")["movie"]
    # 80 strides from 200 starts, forwards and backwards alike: about 2,500 different baskets.
    assert baskets.n_unique() > 2_300


def test_another_seed_draws_other_movies():
    """The fill could not be repeated, or could not be varied."""
    worlds = _world(10, 30, 50)
    first, again, other = (
        to_polars(cold_start.fill_cold_users(*worlds, fill_size=5, seed=seed)).sort("user", "movie")
        for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_clusters_are_predicted_for_movies_with_a_training_rating_only():
    """New users would be filled with ratings of movies nobody has rated."""
    factors = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], np.float32)
    movies = np.array([[1.0, 1.0], [0.0, 0.0], [2.0, 3.0]], np.float32)
    model = ALSModel(factors, movies, np.array([True, True, False]), np.array([True, False, True]), {}, "index")
    predicted = cold_start.predict_clusters(model)
    assert predicted.rows() == [(0, 0, 1.0), (0, 2, 2.0), (1, 0, 2.0), (1, 2, 6.0)]


def test_ratings_per_user_counts_users_with_ratings_only():
    """The size of the fill would be another than case study A's median."""
    train = lazy(pl.DataFrame({"user": [0, 0, 0, 3, 4, 4]}))
    assert cold_start.ratings_per_user(train) == (3, pytest.approx(2.0), pytest.approx(2.0))
