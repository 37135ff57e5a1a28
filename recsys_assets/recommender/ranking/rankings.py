"""Models that rank: what one gives, the place of given movies among all that a user has not rated, and the first ones.

Models differ only in how they score the movies for a user. From the same scores follow the places that top-N metrics
are computed from and the lists that users are shown.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.features.matrices import user_movie_matrix

# From users, shape (B,), and the ratings of each, shape (B, n_movies), to scores of all movies, shape (B, n_movies).
Scorer = Callable[[np.ndarray, sparse.csr_array], np.ndarray]
# From the movies that one user has rated and the ratings, shape (R,) each, and further movies, shape (P,), to what each
# rating adds to the scores of those movies, shape (R, P).
Contributions = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# The score by which a movie that a model does not know is ordered.
_UNKNOWN = float(np.finfo(np.float32).min)
# 16 MB of float32 scores at a time.
_SCORES_PER_BLOCK = 4_000_000
# Up to this many places of one user are counted, each in one pass over the scores; for more it pays to sort them.
_FEW = 8


@dataclass(frozen=True)
class Ranker:
    """What a fitted model that ranks gives.

    Attributes:
        scores: of all movies.
        movie_known: shape (n_movies,); of other movies the scores say nothing.
        contributions: what a user's own ratings add to its scores, up to a factor for each user; None: nothing, the
            model does not look at them.
        otherwise: in words, why somebody without a rating is shown a movie.
    """

    scores: Scorer
    movie_known: np.ndarray
    contributions: Contributions | None = None
    otherwise: str = ""

    def ordered(self, users: np.ndarray, rated: sparse.csr_array) -> np.ndarray:
        """Scores by which all movies are ordered for users, shape (B, n_movies): what has been rated is -inf.

        Movies that the model does not know come behind all that it knows; a score of 0 would put them before what it
        advises against.

        Args:
            users: shape (B,).
            rated: the ratings of each, shape (B, n_movies).
        """
        scores = self.scores(users, rated)
        scores[:, ~self.movie_known] = _UNKNOWN
        cells = rated.tocoo()
        scores[cells.row, cells.col] = -np.inf
        return scores


def of_vectors(user_vectors: np.ndarray, movie_vectors: np.ndarray, **told: Any) -> Ranker:
    """Scores that are the products of vectors.

    Args:
        user_vectors: shape (n_users, S), by dense index.
        movie_vectors: shape (n_movies, S). A movie whose vector is all zeros is unknown to the model.
        told: further fields of `Ranker`.
    """

    def scores(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return user_vectors[users] @ movie_vectors.T

    return Ranker(scores, np.asarray(movie_vectors.any(axis=1)), **told)


def of_popularity(counts: np.ndarray) -> Ranker:
    """The number of ratings of each movie, shape (n_movies,), for everybody alike."""
    return for_everybody(counts, counts > 0, otherwise="rated by many")


def for_everybody(scores: np.ndarray, movie_known: np.ndarray, **told: Any) -> Ranker:
    """The same scores for everybody.

    Args:
        scores: of the movies, shape (n_movies,).
        movie_known: shape (n_movies,).
        told: further fields of `Ranker`.
    """

    def same(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return np.tile(scores.astype(np.float32), (len(users), 1))

    return Ranker(same, movie_known, **told)


def rank_pairs(ranker: Ranker, pairs: nw.LazyFrame, *, rated: nw.LazyFrame) -> pl.DataFrame:
    """The rank of each pair's movie among the movies its user has not rated: user, movie, rank.

    Args:
        ranker: the model; movies that it does not know have no rank (null).
        pairs: user, movie; the movies whose place is asked for, none of them rated.
        rated: user, movie, rating; what the scores are computed from, and left out of the ranking.
    """
    asked = to_polars(pairs, "user", "movie").sort("user", "movie")
    rated_users, matrix = user_movie_matrix(rated, n_movies=len(ranker.movie_known))
    users = asked["user"].unique().sort().to_numpy()
    seen = rows_of(users, rated_users, matrix)
    row = np.searchsorted(users, asked["user"].to_numpy())

    def of_rows(rows: np.ndarray) -> np.ndarray:
        return ranker.ordered(users[rows], seen[rows])

    place = ranks(of_rows, seen.shape[1], row, asked["movie"].to_numpy())
    known = pl.Series(ranker.movie_known)[asked["movie"]]
    return asked.with_columns(rank=pl.when(known).then(pl.Series(place)))


def top_n(ranker: Ranker, ratings: nw.LazyFrame, users: np.ndarray, *, n: int = 10) -> pl.DataFrame:
    """The `n` unrated movies of highest score per user: user, rank (from 1), movie, score.

    Args:
        ranker: what scores the movies.
        ratings: user, movie, rating; what each user has rated already.
        users: dense indices, shape (users,).
        n: movies per user.

    Each user gets min(n, unrated movies) rows; movies that the model does not know come last, without a score. Equal
    scores are ordered by the movie's index.
    """
    n_movies = len(ranker.movie_known)
    seen = rows_of(users, *user_movie_matrix(ratings, n_movies=n_movies))
    nobody = pl.DataFrame(schema={"user": pl.Int32, "rank": pl.Int32, "movie": pl.Int32, "score": pl.Float64})
    best = (_best(users[block], ranker.ordered(users[block], seen[block]), n) for block in blocks(len(users), n_movies))
    return pl.concat([nobody, *best]).with_columns(pl.col("score").replace(_UNKNOWN, None))


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


def rows_of(users: np.ndarray, rated_users: np.ndarray, matrix: sparse.csr_array) -> sparse.csr_array:
    """The rows of these users, empty where one is not among `rated_users`, whose rows the matrix has."""
    padded = sparse.csr_array(
        (matrix.data, matrix.indices, np.append(matrix.indptr, matrix.indptr[-1])),
        shape=(matrix.shape[0] + 1, matrix.shape[1]),
    )
    at = np.searchsorted(rated_users, users)
    return padded[np.where(np.append(rated_users, -1)[at] == users, at, matrix.shape[0])]


def blocks(n_rows: int, n_movies: int) -> Iterator[slice]:
    """Slices of so many rows that the scores of all movies for each of them fit in memory."""
    size = max(1, _SCORES_PER_BLOCK // n_movies)
    return (slice(start, start + size) for start in range(0, n_rows, size))


def ranks(
    ordered: Callable[[np.ndarray], np.ndarray], n_movies: int, pair_row: np.ndarray, pair_movie: np.ndarray
) -> np.ndarray:
    """The rank, from 1, of each pair's movie among all movies of its row.

    Args:
        ordered: from B rows to their scores of all movies, shape (B, n_movies).
        n_movies: size of the catalogue.
        pair_row: shape (P,), ascending.
        pair_movie: shape (P,).

    Returns:
        Shape (P,), int32. Equal scores are ordered by the movie's index.
    """
    result = np.empty(len(pair_row), np.int32)
    users, starts = np.unique(pair_row, return_index=True)
    ends = np.append(starts[1:], len(pair_row))
    for block in blocks(len(users), n_movies):
        for row, start, end in zip(ordered(users[block]), starts[block], ends[block], strict=True):
            result[start:end] = _places(row, pair_movie[start:end])
    return result


def _places(scores: np.ndarray, movies: np.ndarray) -> np.ndarray:
    """The place, from 1, of some movies by descending score; equal scores by the movie's index."""
    if len(movies) > _FEW:
        places = np.empty(len(scores), np.int32)
        places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        return places[movies]
    own = scores[movies, None]
    ahead = (scores > own) | ((scores == own) & (np.arange(len(scores)) < movies[:, None]))
    return 1 + ahead.sum(axis=1)
