"""Recommendations: the best movies a user has not rated, for everybody in the catalogue, in blocks of NumPy."""

from collections.abc import Iterator

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.frames import to_polars
from recsys_assets.recommender.matrices import user_movie_matrix

# 512 users × 60,000 movies of float32 are 120 MB.
_USERS_PER_BLOCK = 512


def warm_up(model: ALSModel, user_clusters: nw.LazyFrame) -> np.ndarray:
    """User factors, shape (n_users, rank), with the mean of the cluster's factors where a user has none of its own.

    A prediction is linear in the user's factors, so such a user is shown what its cluster prefers on average. A cluster
    in which nobody has factors takes the mean of all users.
    """
    clusters = to_polars(user_clusters, "user", "cluster").sort("user")["cluster"].to_numpy()
    factors = model.user_factors.copy()
    everyone = factors[model.user_known].mean(axis=0)
    for cluster in np.unique(clusters[~model.user_known]):
        members = clusters == cluster
        known = members & model.user_known
        factors[members & ~model.user_known] = factors[known].mean(axis=0) if known.any() else everyone
    return factors


def top_n(
    model: ALSModel,
    ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    *,
    n: int = 10,
    users: np.ndarray | None = None,
) -> pl.DataFrame:
    """The `n` unrated movies of highest score per user: user, rank (from 1), movie, score.

    Args:
        model: user and movie factors.
        ratings: user, movie; what each user has rated already.
        user_clusters: user, cluster; everyone.
        users: dense indices to recommend for, by default everyone.

    Each user gets min(n, unrated movies) rows. Equal scores are ordered by the movie's index.
    """
    chosen = np.arange(len(model.user_known), dtype=np.int32) if users is None else users
    factors = warm_up(model, user_clusters)
    n_movies = len(model.movie_known)
    rated_users, rated = user_movie_matrix(ratings, n_movies=n_movies)
    place_in_rated = np.full(len(factors), -1)
    place_in_rated[rated_users] = np.arange(len(rated_users))
    blocks = []
    for block in _blocks(chosen):
        scores = factors[block] @ model.movie_factors.T
        # A movie without factors would score 0; it belongs behind everything that is known, before what is rated.
        scores[:, ~model.movie_known] = np.finfo(np.float32).min
        rows = np.flatnonzero(place_in_rated[block] >= 0)
        seen = rated[place_in_rated[block][rows]].tocoo()
        scores[rows[seen.row], seen.col] = -np.inf
        blocks.append(_best(block, scores, n))
    return pl.concat(blocks)


def _blocks(users: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(users), _USERS_PER_BLOCK):
        yield users[start : start + _USERS_PER_BLOCK]


def _best(users: np.ndarray, scores: np.ndarray, n: int) -> pl.DataFrame:
    n = min(n, scores.shape[1])
    # The n-th best score of each row first, so that only a handful of candidates is sorted.
    threshold = np.partition(scores, -n, axis=1)[:, -n]
    row, movie = np.nonzero((scores >= threshold[:, None]) & (scores > -np.inf))
    score = scores[row, movie]
    order = np.lexsort((movie, -score, row))
    row, movie, score = row[order], movie[order], score[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row) + 1
    keep = rank <= n
    return pl.DataFrame(
        {
            "user": users[row[keep]].astype(np.int32),
            "rank": rank[keep].astype(np.int32),
            "movie": movie[keep].astype(np.int32),
            "score": score[keep].astype(np.float64),
        }
    )


def recommendations(best: pl.DataFrame, users: nw.LazyFrame, movies: nw.LazyFrame) -> pl.DataFrame:
    """`top_n` with original ids and titles: the table `recommendations`."""
    ids = to_polars(users, "user", "user_id")
    titles = to_polars(movies, "movie", "movie_id", "title")
    return best.join(ids, on="user").join(titles, on="movie").select("user_id", "rank", "movie_id", "title", "score")
