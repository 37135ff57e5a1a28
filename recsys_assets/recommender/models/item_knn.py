"""Item-based nearest neighbours: what to show, by how many users liked an item together with those of a user.

The classical baseline of top-N recommendation, which a model must beat to be worth its cost.
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

# Rows of similarities that are worked out at a time.
_BLOCK = 512


@dataclass(frozen=True)
class ItemKNNModel:
    """Similarities of each movie to its nearest neighbours.

    Attributes:
        similarities: shape (n_movies, n_movies), sparse float32: row, a liked movie; column, the movie it speaks for.
        relevant_from: the lowest rating that counts as liked.
        index: fingerprint of the dense index it was fitted with.
    """

    similarities: sparse.csr_array
    relevant_from: float
    index: str

    @property
    def movie_known(self) -> np.ndarray:
        """Shape (n_movies,), whether the movie is a neighbour of another."""
        return np.bincount(self.similarities.indices, minlength=self.similarities.shape[1]) > 0

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Scores of all movies from users' ratings, shape (U, n_movies), float32: sums of similarities."""
        return (liked(rated, self.relevant_from) @ self.similarities).toarray()

    def contributions(self, rated: np.ndarray, ratings: np.ndarray, movies: np.ndarray) -> np.ndarray:
        """What each of one user's ratings, shape (R,), adds to its scores of some movies, shape (P,): shape (R, P)."""
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
        """Read what `save` wrote."""
        facts = json.loads((folder / "model.json").read_text())
        n_movies = facts.pop("n_movies")
        table = pl.read_parquet(folder / "similarities.parquet")
        cells = (table["similarity"].to_numpy(), (table["movie"].to_numpy(), table["neighbour"].to_numpy()))
        return cls(sparse.csr_array(cells, shape=(n_movies, n_movies)), **facts)


def liked(rated: sparse.csr_array, relevant_from: float) -> sparse.csr_array:
    """Ones where a rating is at least `relevant_from`, in the shape of the ratings, float32."""
    ones = rated.astype(np.float32, copy=True)
    ones.data = (rated.data >= relevant_from).astype(np.float32)
    ones.eliminate_zeros()
    return ones


def fit(ratings: nw.LazyFrame, *, index: Index, neighbours: int = 500, shrinkage: float = 10.0) -> ItemKNNModel:
    """Cosine similarities of the movies that users liked (Sarwar et al. 2001; Deshpande and Karypis 2004).

    Args:
        ratings: user, movie, rating.
        index: the dense index the ids come from.
        neighbours: the most similar movies that each movie is scored by.
        shrinkage: added to the denominator, so that movies with few users are no close neighbours by chance.
    """
    limit = relevant_from(ratings)
    _, rated = user_movie_matrix(ratings, n_movies=index.n_movies)
    by_movie = sparse.csr_array(liked(rated, limit).T)
    norms = np.sqrt(np.diff(by_movie.indptr))
    blocks = (
        _nearest(by_movie, norms, np.arange(start, min(start + _BLOCK, index.n_movies)), neighbours, shrinkage)
        for start in range(0, index.n_movies, _BLOCK)
    )
    # One row for each movie that is scored; what speaks for it is read by column.
    similarities = sparse.csr_array(sparse.vstack(list(blocks)).T, dtype=np.float32)
    return ItemKNNModel(similarities, limit, index.fingerprint)


def _nearest(
    by_movie: sparse.csr_array, norms: np.ndarray, movies: np.ndarray, neighbours: int, shrinkage: float
) -> sparse.csr_array:
    """Similarities of a block of movies to their nearest neighbours, shape (len(movies), n_movies)."""
    together = (by_movie[movies] @ by_movie.T).toarray()
    similar = together / (np.outer(norms[movies], norms) + max(shrinkage, 1e-9))
    similar[np.arange(len(movies)), movies] = 0
    if neighbours < similar.shape[1]:
        least = np.partition(similar, -neighbours, axis=1)[:, -neighbours]
        similar[similar < least[:, None]] = 0
    return sparse.csr_array(similar)
