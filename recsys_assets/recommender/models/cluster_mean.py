"""Cluster mean: the mean rating of each item in each cluster of users, shrunk towards the item's overall mean.

Raw means per cluster are worse than the item mean as soon as clusters are small, because most cells hold few ratings.
The clusters are made in `features/clusters`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.models import item_mean
from recsys_assets.recommender.models.item_mean import ItemMeanSettings


class ClusterMeanSettings(Section):
    """Rating model: mean rating per cluster of users and item."""

    tried: ClassVar = {"shrinkage": (20.0, 50.0, 100.0, 200.0)}

    shrinkage: float = Field(
        50.0,
        ge=0,
        description="Shrinkage of cells: ratings at the item's mean that are added to each (cluster, item) pair.",
    )
    item_shrinkage: float = Field(
        10.0,
        ge=0,
        description="Shrinkage of item means: ratings at the global mean that are added to each item's ratings.",
    )


@dataclass(frozen=True)
class ClusterMeanModel:
    """Shrunk mean rating of every (cluster, item).

    Attributes:
        means: shape (n_clusters, n_items), float32.
        clusters: cluster of each user, shape (n_users,).
        params: parameters of the fit.
        index: fingerprint of the id map that the model was fitted with.
    """

    means: np.ndarray
    clusters: np.ndarray
    params: Mapping[str, float]
    index: str

    def of(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Predict the ratings of pairs by dense id: shape (P,), float32."""
        return self.means[self.clusters[user], item]

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, item): user, item, prediction."""
        rows = to_polars(pairs, "user", "item")
        return rows.with_columns(prediction=pl.Series(self.of(rows["user"].to_numpy(), rows["item"].to_numpy())))

    def save(self, folder: Path) -> None:
        """Write means.parquet (one row per item), clusters.parquet and model.json."""
        width = pl.Array(pl.Float32, len(self.means))
        means = pl.Series("means", np.ascontiguousarray(self.means.T), dtype=width)
        pl.DataFrame(means).write_parquet(folder / "means.parquet")
        pl.DataFrame({"cluster": self.clusters}).write_parquet(folder / "clusters.parquet")
        (folder / "model.json").write_text(json.dumps({"params": dict(self.params), "index": self.index}))

    @classmethod
    def load(cls, folder: Path) -> "ClusterMeanModel":
        """Read the files that `save` writes."""
        means = pl.read_parquet(folder / "means.parquet")["means"].to_numpy().T
        clusters = pl.read_parquet(folder / "clusters.parquet")["cluster"].to_numpy()
        return cls(means, clusters, **json.loads((folder / "model.json").read_text()))


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_clusters: nw.LazyFrame,
    settings: ClusterMeanSettings,
) -> ClusterMeanModel:
    """Compute the mean per (cluster, item), shrunk towards the item mean.

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        user_clusters: table user_clusters; all users.
        settings: the shrinkage of cells and of item means.
    """
    clusters = to_polars(user_clusters, "user", "cluster").sort("user")["cluster"].to_numpy()
    rows = to_polars(ratings, "user", "item", "rating").sort("user", "item")
    n_clusters = int(clusters.max()) + 1
    cell = clusters[rows["user"].to_numpy()].astype(np.int64) * index.n_items + rows["item"].to_numpy()
    size = n_clusters * index.n_items
    total = np.bincount(cell, rows["rating"].cast(pl.Float64).to_numpy(), size).reshape(n_clusters, -1)
    counts = np.bincount(cell, minlength=size).reshape(n_clusters, -1)
    of_items = ItemMeanSettings(shrinkage=settings.item_shrinkage)
    means = item_mean.fit(ratings, index=index, settings=of_items).means
    # With shrinkage 0, the smallest positive weight avoids 0 / 0 in an empty cell.
    weight = max(settings.shrinkage, np.finfo(np.float64).tiny)
    shrunk = (total + weight * means) / (counts + weight)
    return ClusterMeanModel(shrunk.astype(np.float32), clusters, settings.model_dump(), index.fingerprint)
