"""Item-based nearest neighbours: ranks movies by how many users liked them together with the user's liked movies.

This is the classical baseline of top-N recommendation, which a model must beat to be worth its cost. Neighbours of
residual ratings, which predict ratings, are in `item_neighbours`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.features.matrices import user_movie_matrix

# Movies whose similarities are computed at a time.
_BLOCK = 512


@dataclass(frozen=True)
class ItemKNNModel:
    """Similarities of each movie to its nearest neighbours.

    Attributes:
        similarities: shape (n_movies, n_movies), CSR, float32: the row is a liked movie, the column a movie that it
            adds a score to.
        relevant_from: lowest rating that counts as liked.
        index: fingerprint of the id map that the model was fitted with.
    """

    similarities: sparse.csr_array
    relevant_from: float
    index: str

    @property
    def movie_known(self) -> np.ndarray:
        """Whether any liked movie can add a score to each movie, shape (n_movies,)."""
        return np.bincount(self.similarities.indices, minlength=self.similarities.shape[1]) > 0

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Score all movies from users' ratings by sums of similarities, shape (U, n_movies), float32."""
        return (liked(rated, self.relevant_from) @ self.similarities).toarray()

    def contributions(self, rated: np.ndarray, ratings: np.ndarray, movies: np.ndarray) -> np.ndarray:
        """Return the part of a movie's score that each rating of one user adds.

        Args:
            rated: movies that the user has rated, shape (R,), int.
            ratings: their ratings, shape (R,).
            movies: movies to explain, shape (P,), int.

        Returns:
            Shape (R, P).
        """
        similar = self.similarities[rated][:, movies].toarray()
        return np.where((ratings >= self.relevant_from)[:, None], similar, 0)

    def save(self, folder: Path) -> None:
        """Write similarities.parquet (movie, neighbour, similarity) and model.json."""
        cells = self.similarities.tocoo()
        table = pl.DataFrame({"movie": cells.row, "neighbour": cells.col, "similarity": cells.data})
        table.write_parquet(folder / "similarities.parquet")
        facts = {"n_movies": cells.shape[0], "relevant_from": self.relevant_from, "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "ItemKNNModel":
        """Read the files that `save` writes."""
        facts = json.loads((folder / "model.json").read_text())
        n_movies = facts.pop("n_movies")
        table = pl.read_parquet(folder / "similarities.parquet")
        cells = (table["similarity"].to_numpy(), (table["movie"].to_numpy(), table["neighbour"].to_numpy()))
        return cls(sparse.csr_array(cells, shape=(n_movies, n_movies)), **facts)


def liked(rated: sparse.csr_array, relevant_from: float) -> sparse.csr_array:
    """Return ones where a rating is at least `relevant_from`, in the shape of the ratings, float32."""
    ones = rated.astype(np.float32, copy=True)
    ones.data = (rated.data >= relevant_from).astype(np.float32)
    ones.eliminate_zeros()
    return ones


def fit(ratings: nw.LazyFrame, *, index: Index, neighbours: int = 500, shrinkage: float = 10.0) -> ItemKNNModel:
    """Compute cosine similarities of liked movies (Sarwar et al. 2001; Deshpande and Karypis 2004).

    Args:
        ratings: user, movie, rating.
        index: id map of users and movies.
        neighbours: number of most similar movies that score a movie.
        shrinkage: added to the denominator, so that a movie with few users is no close neighbour by chance.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> columns = {"user": [0, 0, 1, 1, 2], "movie": [0, 1, 0, 1, 2], "rating": [5.0, 5.0, 5.0, 5.0, 1.0]}
        >>> model = fit(lazy(pl.DataFrame(columns)), index=Index(3, 3, "test"), shrinkage=2.0)
        >>> model.similarities.toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    limit = relevant_from(ratings)
    _, rated = user_movie_matrix(ratings, n_movies=index.n_movies)
    by_movie = sparse.csr_array(liked(rated, limit).T)
    norms = np.sqrt(np.diff(by_movie.indptr))
    blocks = (
        _nearest(by_movie, norms, np.arange(start, min(start + _BLOCK, index.n_movies)), neighbours, shrinkage)
        for start in range(0, index.n_movies, _BLOCK)
    )
    # `_nearest` has one row per scored movie; scoring needs the transpose, with one row per liked movie.
    similarities = sparse.csr_array(sparse.vstack(list(blocks)).T, dtype=np.float32)
    return ItemKNNModel(similarities, limit, index.fingerprint)


def _nearest(
    by_movie: sparse.csr_array, norms: np.ndarray, movies: np.ndarray, neighbours: int, shrinkage: float
) -> sparse.csr_array:
    """Return the similarities of a block of movies to their nearest neighbours, shape (len(movies), n_movies)."""
    together = (by_movie[movies] @ by_movie.T).toarray()
    similar = together / (np.outer(norms[movies], norms) + max(shrinkage, 1e-9))
    similar[np.arange(len(movies)), movies] = 0
    if neighbours < similar.shape[1]:
        least = np.partition(similar, -neighbours, axis=1)[:, -neighbours]
        similar[similar < least[:, None]] = 0
    return sparse.csr_array(similar)
