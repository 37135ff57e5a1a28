"""The place of given movies among all that a user has not rated: what top-N scores are computed from.

Models that rank differ only in the vectors they have for users and movies; everything else is here.
"""

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.frames import to_polars
from recsys_assets.recommender.matrices import user_movie_matrix

# 512 users × 60,000 movies of float32 scores are 120 MB.
_USERS_PER_BLOCK = 512


def by_vectors(
    user_vectors: np.ndarray, movie_vectors: np.ndarray, rated: nw.LazyFrame, pairs: nw.LazyFrame
) -> pl.DataFrame:
    """Ranks of the rows of `pairs` among the movies their users have not rated: user, movie, rank.

    Args:
        user_vectors: shape (n_users, S), by dense index.
        movie_vectors: shape (n_movies, S); a user's score of a movie is the product of their vectors.
        rated: user, movie, rating; left out of the ranking.
        pairs: user, movie; the movies whose place is asked for, none of them rated.
    """
    asked = to_polars(pairs, "user", "movie").sort("user", "movie")
    rated_users, matrix = user_movie_matrix(rated, n_movies=len(movie_vectors))
    rows = np.zeros(len(user_vectors) + 1, np.int64)
    rows[rated_users + 1] = np.diff(matrix.indptr)
    seen = sparse.csr_array(
        (matrix.data, matrix.indices, np.cumsum(rows)), shape=(len(user_vectors), len(movie_vectors))
    )
    place = ranks(user_vectors, movie_vectors.T, seen, asked["user"].to_numpy(), asked["movie"].to_numpy())
    return asked.with_columns(rank=pl.Series(place))


def by_popularity(users: nw.LazyFrame, movies: nw.LazyFrame, rated: nw.LazyFrame, pairs: nw.LazyFrame) -> pl.DataFrame:
    """Ranks by number of ratings, the same list for everybody but for what each has rated: user, movie, rank."""
    counts = to_polars(rated.group_by("movie").agg(n=nw.len()))
    popularity = np.zeros((len(to_polars(movies, "movie")), 1), np.float32)
    popularity[counts["movie"].to_numpy(), 0] = counts["n"].to_numpy()
    return by_vectors(np.ones((len(to_polars(users, "user")), 1), np.float32), popularity, rated, pairs)


def ranks(
    user_weights: np.ndarray,
    list_scores: np.ndarray,
    seen: sparse.csr_array,
    pair_row: np.ndarray,
    pair_movie: np.ndarray,
) -> np.ndarray:
    """The rank, from 1, of each pair's movie among the movies its user has not seen.

    Args:
        user_weights: shape (U, S); a user's score of all movies is `user_weights @ list_scores`.
        list_scores: shape (S, M).
        seen: shape (U, M); stored cells are movies left out of the ranking.
        pair_row: shape (P,), rows of `user_weights`, ascending.
        pair_movie: shape (P,), columns of `list_scores`, none of them seen.

    Returns:
        Shape (P,), int32. Equal scores are ordered by the movie's index.
    """
    result = np.empty(len(pair_row), np.int32)
    rows = np.unique(pair_row)
    for start in range(0, len(rows), _USERS_PER_BLOCK):
        block = rows[start : start + _USERS_PER_BLOCK]
        scores = user_weights[block] @ list_scores
        rated = seen[block].tocoo()
        scores[rated.row, rated.col] = -np.inf
        pairs = slice(*np.searchsorted(pair_row, [block[0], block[-1] + 1]))
        place = np.empty(scores.shape, np.int32)
        order = np.argsort(-scores, axis=1, kind="stable")
        np.put_along_axis(place, order, np.arange(1, scores.shape[1] + 1, dtype=np.int32)[None, :], axis=1)
        result[pairs] = place[np.searchsorted(block, pair_row[pairs]), pair_movie[pairs]]
    return result
