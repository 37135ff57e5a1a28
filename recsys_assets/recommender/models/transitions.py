"""Transitions: ranks the next movie by how often it was rated soon after the user's last movies.

The order of a user's ratings says more about the next one than their values do.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index

# A rating counts for nothing after this many half-lives.
_HALF_LIVES = 10


@dataclass(frozen=True)
class TransitionModel:
    """Transition weights between movies.

    Attributes:
        weights: shape (n_movies, n_movies), CSR, float32: from the row's movie to the column's movie.
        half_life: number of ratings after which a movie of the history weighs half as much.
        index: fingerprint of the id map that the model was fitted with.
    """

    weights: sparse.csr_array
    half_life: float
    index: str

    def recent(self, ratings: nw.LazyFrame) -> tuple[np.ndarray, sparse.csr_array]:
        """Return the users with a rating, ascending, and the recency of their movies, shape (users, n_movies).

        The last movie of a user has the recency 1.

        Args:
            ratings: user, movie, timestamp, batch, row.
        """
        rows = _in_order(ratings)
        back = pl.len().over("user") - 1 - pl.int_range(pl.len()).over("user")
        weighed = rows.with_columns(weight=0.5 ** (back / self.half_life))
        recent = weighed.filter(pl.col("weight") > 0.5**_HALF_LIVES)
        users, row = np.unique(recent["user"].to_numpy(), return_inverse=True)
        cells = (recent["weight"].to_numpy().astype(np.float32), (row, recent["movie"].to_numpy()))
        return users, sparse.csr_array(cells, shape=(len(users), self.weights.shape[0]))

    def scores(self, recent: sparse.csr_array) -> np.ndarray:
        """Score all movies from rows of `recent`, shape (U, n_movies), float32."""
        return (recent @ self.weights).toarray()

    @property
    def movie_known(self) -> np.ndarray:
        """Whether each movie has followed another one, shape (n_movies,)."""
        return np.bincount(self.weights.indices, minlength=self.weights.shape[1]) > 0

    def save(self, folder: Path) -> None:
        """Write weights.parquet (movie, next, weight) and model.json."""
        cells = self.weights.tocoo()
        table = pl.DataFrame({"movie": cells.row, "next": cells.col, "weight": cells.data})
        table.write_parquet(folder / "weights.parquet")
        facts = {"n_movies": self.weights.shape[0], "half_life": self.half_life, "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "TransitionModel":
        """Read the files that `save` writes."""
        facts = json.loads((folder / "model.json").read_text())
        n_movies = facts.pop("n_movies")
        table = pl.read_parquet(folder / "weights.parquet")
        cells = (table["weight"].to_numpy(), (table["movie"].to_numpy(), table["next"].to_numpy()))
        return cls(sparse.csr_array(cells, shape=(n_movies, n_movies)), **facts)


def fit(
    histories: nw.LazyFrame,
    *,
    index: Index,
    window: int = 10,
    decay: float = 0.9,
    backwards: float = 0.5,
    popularity_exponent: float = 0.3,
    shrinkage: float = 10.0,
    half_life: float = 1.5,
) -> TransitionModel:
    """Count which movies were rated within a window after which, with nearer ones weighted higher.

    This is a first-order Markov chain (Rendle et al. 2010) with a window, smoothed twice: row sums are shrunk, and
    movies that follow everything are discounted.

    Args:
        histories: user, movie, timestamp, batch, row; ordered by time, then batch, then row.
        index: id map of users and movies.
        window: number of later ratings that count.
        decay: factor of the weight per step.
        backwards: weight of the opposite order, 0 to 1.
        popularity_exponent: discount of a movie by its own frequency, 0 to 1.
        shrinkage: transitions to no movie that are added to each movie's own.
        half_life: number of ratings after which a movie of the history weighs half as much in a prediction.
    """
    rows = _in_order(histories)
    user, movie = rows["user"].to_numpy(), rows["movie"].to_numpy()
    shape = (index.n_movies, index.n_movies)
    counts = sparse.csr_array(shape, dtype=np.float32)
    for step in range(1, min(window, len(user) - 1) + 1):
        same = user[step:] == user[:-step]
        weight = np.full(same.sum(), decay ** (step - 1), np.float32)
        counts = counts + sparse.csr_array((weight, (movie[:-step][same], movie[step:][same])), shape=shape)
    counts = counts + backwards * counts.T
    leaving, coming = counts.sum(axis=1), counts.sum(axis=0)
    by_row = sparse.diags_array(1 / (leaving + max(shrinkage, 1e-9)))
    by_column = sparse.diags_array((coming + max(shrinkage, 1e-9)) ** -popularity_exponent)
    weights = sparse.csr_array(by_row @ counts @ by_column).astype(np.float32)
    return TransitionModel(weights, half_life, index.fingerprint)


def _in_order(ratings: nw.LazyFrame) -> pl.DataFrame:
    columns = ("user", "movie", "timestamp", "batch", "row")
    return to_polars(ratings, *columns).sort("user", "timestamp", "batch", "row")
