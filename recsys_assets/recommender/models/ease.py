"""EASE: what to show, from weights between movies that have a closed form.

One dense matrix of movies by movies: fast and hard to beat where it fits in memory. A larger catalogue is cut to its
most rated movies; the others are unknown to the model.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from scipy import linalg, sparse

from recsys_assets.recommender.data.automatic import ANCHOR_RATINGS, ANCHOR_USERS, AUTO, Setting, resolved
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import Preference
from recsys_assets.recommender.features.matrices import user_movie_matrix

_ANCHOR_REG = 3000.0
_NEUTRAL_OFFSET = -0.5


@dataclass(frozen=True)
class EASEModel:
    """Weights between the movies the model knows.

    Attributes:
        weights: shape (K, K), float32: what liking the row's movie adds to the score of the column's; zero diagonal.
        movies: shape (K,), int32, ascending: dense indices of the movies.
        n_movies: size of the catalogue.
        preference: how ratings become preferences.
        index: fingerprint of the dense index it was fitted with.
    """

    weights: np.ndarray
    movies: np.ndarray
    n_movies: int
    preference: Preference
    index: str

    @property
    def movie_known(self) -> np.ndarray:
        """Shape (n_movies,), whether the model knows the movie."""
        known = np.zeros(self.n_movies, bool)
        known[self.movies] = True
        return known

    def preferences(self, rated: sparse.csr_array) -> sparse.csr_array:
        """Ratings of users, shape (U, n_movies), as preferences for the movies the model knows: shape (U, K)."""
        own = rated[:, self.movies]
        return sparse.csr_array((self.preference(own.data), own.indices, own.indptr), shape=own.shape)

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Scores of all movies from users' ratings, shape (U, n_movies), float32; 0 where a movie is not known."""
        scores = np.zeros((rated.shape[0], self.n_movies), np.float32)
        scores[:, self.movies] = self.preferences(rated) @ self.weights
        return scores

    def contributions(self, rated: np.ndarray, ratings: np.ndarray, movies: np.ndarray) -> np.ndarray:
        """What each of one user's ratings adds to its scores of some movies: exact, the sums are the scores.

        Args:
            rated: the movies that the user has rated, shape (R,), int.
            ratings: of them, shape (R,).
            movies: shape (P,), int.

        Returns:
            Shape (R, P); 0 where one of both movies is not known.
        """
        (row, own_known), (column, known) = self._places(rated), self._places(movies)
        added = self.preference(ratings)[:, None] * self.weights[np.ix_(row, column)]
        return np.where(own_known[:, None] & known, added, 0)

    def _places(self, movies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the weights for movies, any where one is not known; and whether it is."""
        places = np.searchsorted(self.movies, movies).clip(0, len(self.movies) - 1)
        return places, self.movies[places] == movies

    def save(self, folder: Path) -> None:
        """Write weights.parquet (movie, weights) and model.json."""
        weights = pl.Series(self.weights, dtype=pl.Array(pl.Float32, len(self.movies)))
        pl.DataFrame({"movie": self.movies, "weights": weights}).write_parquet(folder / "weights.parquet")
        facts = {"n_movies": self.n_movies, "preference": asdict(self.preference), "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "EASEModel":
        """Read what `save` wrote."""
        table = pl.read_parquet(folder / "weights.parquet")
        facts = json.loads((folder / "model.json").read_text())
        return cls(
            weights=table["weights"].to_numpy(),
            movies=table["movie"].to_numpy(),
            n_movies=facts["n_movies"],
            preference=Preference(**facts["preference"]),
            index=facts["index"],
        )


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    reg: Setting = AUTO,
    neutral_offset: Setting = AUTO,
    max_movies: int = 6000,
) -> EASEModel:
    """Fit EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data") to preferences.

    Args:
        ratings: user, movie, rating.
        index: the dense index the ids come from.
        reg: L2 regularisation of the weights; see `automatic_reg`.
        neutral_offset: standard deviations from the mean rating to the one that is neither liked nor disliked; auto is
            half a one below.
        max_movies: the most rated movies that the model knows. Time grows with the cube of their number, memory with
            the square: 6,000 take 0.4 GB while fitting and 144 MB afterwards.
    """
    _, rated = user_movie_matrix(ratings, n_movies=index.n_movies)
    preference = Preference.of(ratings, neutral_offset=resolved(neutral_offset, _NEUTRAL_OFFSET))
    counts = np.bincount(rated.indices, minlength=index.n_movies)
    by_count = np.argsort(-counts, kind="stable")[:max_movies]
    movies = np.sort(by_count[counts[by_count] > 0]).astype(np.int32)
    model = EASEModel(np.empty((0, 0), np.float32), movies, index.n_movies, preference, index.fingerprint)
    weights = item_weights(model.preferences(rated), reg=resolved(reg, automatic_reg(rated.shape[0], rated.nnz)))
    return EASEModel(weights, movies, index.n_movies, preference, index.fingerprint)


def automatic_reg(n_users: int, n_ratings: int) -> float:
    """The regularisation for so many users with so many ratings: 3,000 for those of case study A.

    It grows with the users, as the sums over common users that it is weighed against, and with the root of how much a
    user has rated.
    """
    return _ANCHOR_REG * math.sqrt(n_users / ANCHOR_USERS * n_ratings / ANCHOR_RATINGS)


def item_weights(matrix: sparse.csr_array, *, reg: float) -> np.ndarray:
    """The weights B with zero diagonal that minimise |X - XB|² + reg |B|²: shape (K, K), float32.

    Args:
        matrix: X, shape (U, K); an empty cell is a zero.
        reg: above 0.

    Raises:
        ValueError: the regularisation is too small for the precision of float32.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += reg
    # By Cholesky and in float32: half the time of a general inverse in half the memory.
    factor, failed_at = linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    if failed_at:
        raise ValueError(f"EASE cannot be solved with a regularisation (reg) of {reg:g}; set a larger one")
    half, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(half) + np.tril(half, -1).T
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights
