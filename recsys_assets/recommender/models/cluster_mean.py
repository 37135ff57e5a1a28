"""The mean rating of each movie in each cluster of users, shrunk to the movie's mean over everybody.

Raw means per cluster are worse than the plain item mean as soon as clusters are small: most cells hold few ratings.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import item_mean


@dataclass(frozen=True)
class ClusterMeanModel:
    """Shrunk mean rating of every (cluster, movie).

    Attributes:
        means: shape (n_clusters, n_movies), float32.
        clusters: shape (n_users,), the cluster of everybody.
        params: the parameters of the fit.
        index: fingerprint of the dense index.
    """

    means: np.ndarray
    clusters: np.ndarray
    params: Mapping[str, float]
    index: str

    def of(self, user: np.ndarray, movie: np.ndarray) -> np.ndarray:
        """Predicted ratings of pairs by dense index: shape (P,), float32."""
        return self.means[self.clusters[user], movie]

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predicted ratings for the rows (user, movie) of `pairs`: user, movie, prediction."""
        rows = to_polars(pairs, "user", "movie")
        return rows.with_columns(prediction=pl.Series(self.of(rows["user"].to_numpy(), rows["movie"].to_numpy())))

    def save(self, folder: Path) -> None:
        """Write means.parquet (one row per movie), clusters.parquet and model.json."""
        width = pl.Array(pl.Float32, len(self.means))
        means = pl.Series("means", np.ascontiguousarray(self.means.T), dtype=width)
        pl.DataFrame(means).write_parquet(folder / "means.parquet")
        pl.DataFrame({"cluster": self.clusters}).write_parquet(folder / "clusters.parquet")
        (folder / "model.json").write_text(json.dumps({"params": dict(self.params), "index": self.index}))

    @classmethod
    def load(cls, folder: Path) -> "ClusterMeanModel":
        """Read what `save` wrote."""
        means = pl.read_parquet(folder / "means.parquet")["means"].to_numpy().T
        clusters = pl.read_parquet(folder / "clusters.parquet")["cluster"].to_numpy()
        return cls(means, clusters, **json.loads((folder / "model.json").read_text()))


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_clusters: nw.LazyFrame,
    shrinkage: float = 50.0,
    item_shrinkage: float = 10.0,
) -> ClusterMeanModel:
    """Means per (cluster, movie), shrunk to the item mean by `shrinkage` ratings.

    Args:
        ratings: user, movie, rating.
        index: the dense index the ids come from.
        user_clusters: table user_clusters; everyone.
        shrinkage: ratings at the movie's mean added to each cell's own.
        item_shrinkage: ratings at the global mean added to each movie's own.
    """
    clusters = to_polars(user_clusters, "user", "cluster").sort("user")["cluster"].to_numpy()
    rows = to_polars(ratings, "user", "movie", "rating").sort("user", "movie")
    n_clusters = int(clusters.max()) + 1
    cell = clusters[rows["user"].to_numpy()].astype(np.int64) * index.n_movies + rows["movie"].to_numpy()
    size = n_clusters * index.n_movies
    total = np.bincount(cell, rows["rating"].cast(pl.Float64).to_numpy(), size).reshape(n_clusters, -1)
    counts = np.bincount(cell, minlength=size).reshape(n_clusters, -1)
    means = item_mean.fit(ratings, index=index, shrinkage=item_shrinkage).means
    # The least positive number keeps an empty cell defined without any shrinkage.
    weight = max(shrinkage, np.finfo(np.float64).tiny)
    shrunk = (total + weight * means) / (counts + weight)
    params = {"shrinkage": shrinkage, "item_shrinkage": item_shrinkage}
    return ClusterMeanModel(shrunk.astype(np.float32), clusters, params, index.fingerprint)
