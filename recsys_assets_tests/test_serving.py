import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender import serving
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.frames import lazy


def _model(seed: int, n_users: int, n_movies: int) -> ALSModel:
    generator = np.random.default_rng(seed)
    user_known, movie_known = generator.random(n_users) < 0.7, generator.random(n_movies) < 0.8
    user_known[0] = True  # a model was fitted on someone
    # Few distinct values, so that scores tie.
    user = generator.integers(-2, 3, (n_users, 2)).astype(np.float32) * user_known[:, None]
    movie = generator.integers(-2, 3, (n_movies, 2)).astype(np.float32) * movie_known[:, None]
    return ALSModel(user, movie, user_known, movie_known, {}, "index")


def _ratings(rated: np.ndarray) -> pl.DataFrame:
    user, movie = np.nonzero(rated)
    return pl.DataFrame({"user": user, "movie": movie, "rating": np.ones(len(user))}).cast(
        {"user": pl.Int32, "movie": pl.Int32, "rating": pl.Float32}
    )


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 12), st.integers(1, 14), st.floats(0, 1))
def test_everybody_gets_the_best_unrated_movies(seed, n_users, n_movies, n, share):
    """Users would be shown what they have rated, fewer movies than asked for, or not the best ones."""
    model = _model(seed, n_users, n_movies)
    rated = np.random.default_rng(seed).random((n_users, n_movies)) < share
    clusters = pl.DataFrame({"user": range(n_users), "cluster": [user % 2 for user in range(n_users)]})
    best = serving.top_n(model, lazy(_ratings(rated)), lazy(clusters), n=n)
    factors = serving.warm_up(model, lazy(clusters))
    for user in range(n_users):
        rows = best.filter(pl.col("user") == user)
        unrated = np.flatnonzero(~rated[user])
        score = factors[user] @ model.movie_factors.T
        expected = sorted(unrated, key=lambda movie, score=score: (not model.movie_known[movie], -score[movie], movie))
        assert rows["movie"].to_list() == expected[:n]
        assert rows["rank"].to_list() == list(range(1, min(n, len(unrated)) + 1))


def test_a_cold_user_is_shown_what_its_cluster_likes():
    """New users would get nothing, or the same as everybody."""
    factors = np.array([[3, 0], [0, 3], [0, 0], [0, 0], [0, 0]], np.float32)
    known = np.array([True, True, False, False, False])
    model = ALSModel(factors, np.eye(2, dtype=np.float32), known, np.array([True, True]), {}, "index")
    clusters = lazy(pl.DataFrame({"user": range(5), "cluster": [0, 1, 0, 1, 2]}))
    best = serving.top_n(model, lazy(_ratings(np.zeros((5, 2), bool))), clusters, n=1)
    assert best["movie"].to_list() == [0, 1, 0, 1, 0]
    assert serving.warm_up(model, clusters)[4].tolist() == [1.5, 1.5]


def test_recommendations_speak_the_sources_language():
    """People would read dense indices instead of their own ids and titles."""
    best = pl.DataFrame({"user": [1], "rank": [1], "movie": [0], "score": [2.5]})
    users = lazy(pl.DataFrame({"user": [0, 1], "user_id": ["ann", "bob"]}))
    movies = lazy(pl.DataFrame({"movie": [0], "movie_id": ["tt1"], "title": ["Heat"]}))
    assert serving.recommendations(best, users, movies).rows() == [("bob", 1, "tt1", "Heat", pytest.approx(2.5))]
