"""EASE: ranks movies by item-item weights that have a closed form (Steck 2019, arXiv:1905.03375).

The weights are one dense matrix of movies by movies, which is fast and hard to beat where it fits in memory. A larger
catalogue is cut to its most rated movies; the model does not know the others.
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
    """Weights between the movies that the model knows.

    Attributes:
        weights: shape (K, K), float32, with zero diagonal: liking the row's movie adds the weight to the score of the
            column's movie.
        movies: dense ids of the known movies, shape (K,), int32, ascending.
        n_movies: size of the catalogue.
        preference: how ratings become preferences.
        index: fingerprint of the id map that the model was fitted with.
    """

    weights: np.ndarray
    movies: np.ndarray
    n_movies: int
    preference: Preference
    index: str

    @property
    def movie_known(self) -> np.ndarray:
        """Whether the model knows each movie, shape (n_movies,)."""
        known = np.zeros(self.n_movies, bool)
        known[self.movies] = True
        return known

    def preferences(self, rated: sparse.csr_array) -> sparse.csr_array:
        """Turn ratings, shape (U, n_movies), into preferences for the known movies, shape (U, K)."""
        own = rated[:, self.movies]
        return sparse.csr_array((self.preference(own.data), own.indices, own.indptr), shape=own.shape)

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Score all movies from users' ratings, shape (U, n_movies), float32; 0 for an unknown movie."""
        scores = np.zeros((rated.shape[0], self.n_movies), np.float32)
        scores[:, self.movies] = self.preferences(rated) @ self.weights
        return scores

    def contributions(self, rated: np.ndarray, ratings: np.ndarray, movies: np.ndarray) -> np.ndarray:
        """Return the part of a movie's score that each rating of one user adds; the parts sum exactly to the score.

        Args:
            rated: movies that the user has rated, shape (R,), int.
            ratings: their ratings, shape (R,).
            movies: movies to explain, shape (P,), int.

        Returns:
            Shape (R, P); 0 if either movie is unknown.
        """
        (row, own_known), (column, known) = self._places(rated), self._places(movies)
        added = self.preference(ratings)[:, None] * self.weights[np.ix_(row, column)]
        return np.where(own_known[:, None] & known, added, 0)

    def _places(self, movies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each movie's row in the weights, any row if it is unknown, and whether it is known."""
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
        """Read the files that `save` writes."""
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
        index: id map of users and movies.
        reg: L2 regularisation of the weights; `auto` is `automatic_reg`.
        neutral_offset: standard deviations from the mean rating to the neutral one, which is neither liked nor
            disliked; `auto` is -0.5.
        max_movies: number of movies that the model knows, the most rated ones. Time grows with its cube, memory with
            its square: 6,000 movies take 0.4 GB during the fit and 144 MB afterwards.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> columns = {"user": [0, 0, 1, 1, 2], "movie": [0, 1, 0, 1, 2], "rating": [5.0, 5.0, 4.0, 4.0, 1.0]}
        >>> model = fit(lazy(pl.DataFrame(columns)), index=Index(3, 3, "test"), reg=1.0)
        >>> new_user = sparse.csr_array(np.array([[5.0, 0.0, 0.0]]))
        >>> int(model.scores(new_user).argmax())
        1
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
    """Return the regularisation for the size of the data: 3,000 for case study A.

    It is proportional to the number of users, like the sums over common users in the Gram matrix, and to the root of
    the ratings per user.
    """
    return _ANCHOR_REG * math.sqrt(n_users / ANCHOR_USERS * n_ratings / ANCHOR_RATINGS)


def item_weights(matrix: sparse.csr_array, *, reg: float) -> np.ndarray:
    """Return the weights B with zero diagonal that minimise |X - XB|² + reg |B|²: shape (K, K), float32.

    Args:
        matrix: X, shape (U, K); an empty cell is a zero.
        reg: above 0.

    Raises:
        ValueError: the regularisation is too small for the precision of float32.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += reg
    # Cholesky in float32 takes half the time and half the memory of a general inverse.
    factor, failed_at = linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    if failed_at:
        raise ValueError(f"EASE cannot be solved with a regularisation (reg) of {reg:g}; set a larger one")
    half, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(half) + np.tril(half, -1).T
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights
