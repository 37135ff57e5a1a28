"""Item neighbours: predicts a rating from biases and from the user's residuals on similar movies.

Predictions need only the user's ratings, so a new user needs no new fit. Neighbours of liked movies, which rank, are in
`item_knn`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.features.matrices import mean_rating, user_movie_matrix
from recsys_assets.recommender.ranking.rankings import rows_of

# Rounds of alternating means, after which the biases have settled within rounding of ratings.
_ROUNDS = 8


@dataclass(frozen=True)
class ItemNeighboursModel:
    """Biases of movies, and similarities of movies by residuals.

    Attributes:
        global_mean: mean of the training ratings.
        movie_bias: shape (n_movies,), float64; 0 for a movie without a training rating.
        similarity: shape (K, K), float32, symmetric, not negative, zero diagonal.
        movies: movies that have similarities, shape (K,), int32, ascending.
        params: parameters of the fit.
        index: fingerprint of the id map that the model was fitted with.
    """

    global_mean: float
    movie_bias: np.ndarray
    similarity: np.ndarray
    movies: np.ndarray
    params: Mapping[str, Any]
    index: str

    @property
    def user_shrinkage(self) -> float:
        """Number of ratings with residual 0 that are added to each user's own."""
        return float(self.params["user_shrinkage"])

    def residuals(self, rated: sparse.csr_array) -> tuple[np.ndarray, sparse.csr_array]:
        """Return the users' biases and the residuals of their ratings.

        Args:
            rated: users by movies, shape (U, n_movies).

        Returns:
            The biases, shape (U,), and the ratings minus global mean, movie bias and user bias, shape (U, n_movies).
        """
        above = rated.data - (self.global_mean + self.movie_bias[rated.indices])
        counts = np.diff(rated.indptr)
        row = np.repeat(np.arange(len(counts)), counts)
        bias = np.bincount(row, above, len(counts)) / np.maximum(counts + self.user_shrinkage, 1e-9)
        return bias, sparse.csr_array((above - bias[row], rated.indices, rated.indptr), shape=rated.shape)

    def biases(self, user: np.ndarray, movie: np.ndarray, rated: nw.LazyFrame) -> np.ndarray:
        """Return global mean plus movie bias plus user bias for pairs, shape (P,).

        Args:
            user: dense ids, shape (P,).
            movie: dense ids, shape (P,).
            rated: user, movie, rating; gives the user biases.
        """
        users, row = np.unique(user, return_inverse=True)
        bias, _ = self.residuals(self._rows(users, rated))
        return self.global_mean + self.movie_bias[movie] + bias[row]

    def _rows(self, users: np.ndarray, rated: nw.LazyFrame) -> sparse.csr_array:
        return rows_of(users, *user_movie_matrix(rated, n_movies=len(self.movie_bias)))

    def predict(self, pairs: nw.LazyFrame, rated: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, movie), without nulls, from `rated` (user, movie, rating)."""
        asked = to_polars(pairs, "user", "movie").sort("user", "movie")
        parts = self.parts(asked["user"].to_numpy(), asked["movie"].to_numpy(), rated)
        predicted = self.global_mean + parts["movie"] + parts["user"] + parts["neighbours"]
        return asked.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def parts(self, user: np.ndarray, movie: np.ndarray, rated: nw.LazyFrame) -> dict[str, np.ndarray]:
        """Return the terms of a prediction above the global mean: `movie`, `user` and `neighbours`, each of shape (P,).

        Args:
            user: dense ids, shape (P,).
            movie: dense ids, shape (P,).
            rated: user, movie, rating.
        """
        users, row = np.unique(user, return_inverse=True)
        bias, residual = self.residuals(self._rows(users, rated))
        neighbours = self._weighed(row, movie, residual)
        return {"movie": self.movie_bias[movie], "user": bias[row], "neighbours": neighbours}

    def _weighed(self, row: np.ndarray, movie: np.ndarray, residual: sparse.csr_array) -> np.ndarray:
        """Return the mean residual of each pair's user, weighted by the similarity to the pair's movie: shape (P,)."""
        from recsys_assets.recommender.models.kernels import fill_neighbour_sums, in_threads

        place = np.full(len(self.movie_bias), -1)
        place[self.movies] = np.arange(len(self.movies))
        own, chosen = residual[:, self.movies], np.flatnonzero(place[movie] >= 0)
        totals, weights = np.zeros(len(chosen)), np.zeros(len(chosen))
        asked = (row[chosen], place[movie[chosen]])
        cells = (own.indptr, own.indices, own.data)
        in_threads(
            lambda begin, end: fill_neighbour_sums(totals, weights, begin, end, *asked, self.similarity, *cells),
            len(chosen),
        )
        neighbours = np.zeros(len(movie))
        neighbours[chosen] = totals / np.maximum(weights + self.params["sum_shrinkage"], 1e-9)
        return neighbours

    def save(self, folder: Path) -> None:
        """Write biases.parquet, similarity.parquet (movie, similarity) and model.json."""
        similarity = pl.Series(self.similarity, dtype=pl.Array(pl.Float32, len(self.movies)))
        table = pl.DataFrame({"movie": self.movies, "similarity": similarity})
        table.write_parquet(folder / "similarity.parquet")
        pl.DataFrame({"bias": self.movie_bias}).write_parquet(folder / "biases.parquet")
        facts = {"global_mean": self.global_mean, "params": dict(self.params), "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "ItemNeighboursModel":
        """Read the files that `save` writes."""
        table = pl.read_parquet(folder / "similarity.parquet")
        return cls(
            movie_bias=pl.read_parquet(folder / "biases.parquet")["bias"].to_numpy(),
            similarity=table["similarity"].to_numpy(),
            movies=table["movie"].to_numpy(),
            **json.loads((folder / "model.json").read_text()),
        )


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    movie_shrinkage: float = 5.0,
    user_shrinkage: float = 5.0,
    pair_shrinkage: float = 50.0,
    sum_shrinkage: float = 0.3,
    exponent: float = 2.0,
    max_movies: int = 6000,
) -> ItemNeighboursModel:
    """Fit biases by alternating shrunk means, then similarities of movies by the residuals of their common users.

    The similarity is the cosine of residuals over common users, shrunk by their number (Koren 2010, "Factor in the
    neighbors", section 2.2). Negative similarities are set to 0.

    Args:
        ratings: user, movie, rating.
        index: id map of users and movies.
        movie_shrinkage: ratings with bias 0 that are added to each movie's own.
        user_shrinkage: ratings with bias 0 that are added to each user's own.
        pair_shrinkage: common users without agreement that are added to each pair's own.
        sum_shrinkage: similarity to movies with residual 0 that is added to the similarities of the user's own movies.
        exponent: power of the similarities; a higher one leaves fewer effective neighbours.
        max_movies: number of movies that get similarities, the most rated ones. Memory grows with its square, time with
            the number of pairs of movies that users rated.
    """
    _, rated = user_movie_matrix(ratings, n_movies=index.n_movies)
    mean, movie_bias = _biases(rated, movie_shrinkage=movie_shrinkage, user_shrinkage=user_shrinkage)
    counts = np.bincount(rated.indices, minlength=index.n_movies)
    by_count = np.argsort(-counts, kind="stable")[:max_movies]
    movies = np.sort(by_count[counts[by_count] > 0]).astype(np.int32)
    unrelated = np.zeros((len(movies), len(movies)), np.float32)
    params = {
        "movie_shrinkage": movie_shrinkage,
        "user_shrinkage": user_shrinkage,
        "pair_shrinkage": pair_shrinkage,
        "sum_shrinkage": sum_shrinkage,
        "exponent": exponent,
        "max_movies": max_movies,
    }
    biased = ItemNeighboursModel(mean, movie_bias, unrelated, movies, params, index.fingerprint)
    _, residual = biased.residuals(rated)
    # Cosines have no unit. At variance 1 the squares of residuals fit in float32, whatever the unit of the ratings.
    residual.data /= np.sqrt((residual.data**2).sum() / max(residual.nnz, 1)) or 1.0
    similarity = _similarity(residual[:, movies].astype(np.float32), pair_shrinkage) ** np.float32(exponent)
    return replace(biased, similarity=similarity)


def _biases(rated: sparse.csr_array, *, movie_shrinkage: float, user_shrinkage: float) -> tuple[float, np.ndarray]:
    """Return the mean rating and the movie biases, shape (n_movies,), fitted together with user biases."""
    n_users, n_movies = rated.shape
    row, movie = np.repeat(np.arange(n_users), np.diff(rated.indptr)), rated.indices
    of_user = np.maximum(np.bincount(row, minlength=n_users) + user_shrinkage, 1e-9)
    of_movie = np.maximum(np.bincount(movie, minlength=n_movies) + movie_shrinkage, 1e-9)
    mean = mean_rating(rated)
    above, bias = rated.data - mean, np.zeros(n_movies)
    for _ in range(_ROUNDS):
        of_users = np.bincount(row, above - bias[movie], n_users) / of_user
        bias = np.bincount(movie, above - of_users[row], n_movies) / of_movie
    return mean, bias


def _similarity(residual: sparse.csr_array, pair_shrinkage: float) -> np.ndarray:
    """Return the shrunk positive cosines of columns over common rows: shape (K, K), float32, zero diagonal."""
    given = _ones_like(residual)
    squares = sparse.csr_array((residual.data**2, residual.indices, residual.indptr), shape=residual.shape)
    length = (squares.T @ given).toarray()
    common = (given.T @ given).toarray()
    similarity = (residual.T @ residual).toarray()
    similarity /= np.sqrt(length * length.T) + np.float32(1e-9)
    similarity *= common / np.maximum(common + np.float32(pair_shrinkage), 1e-9)
    np.fill_diagonal(similarity, 0)
    return np.maximum(similarity, 0, out=similarity)


def _ones_like(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
