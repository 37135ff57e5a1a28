"""Audience: the id maps, user features and clusters that a served model was fitted with.

The audience is stored with the model, so the model can recommend after the id maps of the home have changed, and to
users who came later. Scoring items belongs in `ranking`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.index import renumber

_FILES = ("users", "items", "features")


@dataclass(frozen=True)
class Audience:
    """Id maps, user features and clusters, each sorted by dense id.

    Attributes:
        users: columns user, user_id, cluster.
        items: columns item, item_id.
        features: table user_features.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    features: pl.DataFrame

    @classmethod
    def of(cls, tables: Mapping[str, nw.LazyFrame]) -> "Audience":
        """The audience from the tables users, items, user_features and user_clusters."""
        users = to_polars(tables["users"], "user", "user_id")
        with_cluster = users.join(to_polars(tables["user_clusters"]), on="user").sort("user")
        items = to_polars(tables["items"], "item", "item_id").sort("item")
        return cls(with_cluster, items, to_polars(tables["user_features"]).sort("user"))

    @property
    def tables(self) -> dict[str, nw.LazyFrame]:
        """The tables users, items, user_features and user_clusters, as input of a ranker."""
        tables = {
            "users": self.users.select("user", "user_id"),
            "items": self.items,
            "user_features": self.features,
            "user_clusters": self.users.select("user", "cluster"),
        }
        return {name: lazy(table) for name, table in tables.items()}

    def number(self, user_id: str) -> int | None:
        """The dense id of a user; None for a user who came after the fit."""
        found = self.users.filter(user_id=user_id)["user"]
        return int(found[0]) if len(found) else None

    def with_newcomer(self, user_id: str, features: pl.DataFrame) -> "Audience":
        """Returns the audience with one new user, who gets the last dense id and the cluster with the nearest mean.

        Args:
            user_id: original id of the new user.
            features: one row of table user_features, or no row if nothing is known about the user. Columns unknown at
                the fit are ignored. Missing features are 0: the mean of a number, no category.
        """
        own = self.features.clear(1).fill_null(0).with_columns(user=pl.lit(len(self.users), pl.Int32))
        if len(features):
            shared = [name for name in features.columns if name in own.columns and name != "user"]
            own = own.with_columns(features.select(shared).cast(pl.Float64).get_columns())
        together = pl.concat([self.features, own], how="vertical_relaxed")
        row = {"user": len(self.users), "user_id": user_id, "cluster": self._nearest_cluster(own)}
        users = pl.concat([self.users, pl.DataFrame([row], schema=self.users.schema)])
        return replace(self, users=users, features=together)

    def _nearest_cluster(self, features: pl.DataFrame) -> int:
        cluster = self.users["cluster"].to_numpy()
        known, own = (table.drop("user").to_numpy() for table in (self.features, features))
        numbers = np.unique(cluster)
        if not own.size:
            return int(numbers[0])
        means = np.array([known[cluster == number].mean(axis=0) for number in numbers])
        return int(numbers[np.argmin(((means - own) ** 2).sum(axis=1))])

    def ratings(self, ratings: pl.LazyFrame, users: pl.LazyFrame, items: pl.LazyFrame) -> pl.LazyFrame:
        """Ratings with the dense ids of this audience; users and items outside the audience are dropped.

        Args:
            ratings: table ratings.
            users: table users: the id map of the users in `ratings`.
            items: table items: the id map of the items in `ratings`.
        """
        of_users = renumber(ratings, "user", users, self.users.lazy())
        return renumber(of_users, "item", items, self.items.lazy())

    def catalogue(self, items: pl.DataFrame) -> pl.DataFrame:
        """Table items with the dense ids of this audience. Later items follow. A removed item has nothing but its id.

        Args:
            items: table items, with the dense ids of the home.
        """
        later = items.select("item_id").join(self.items, on="item_id", how="anti", maintain_order="left")
        ids = pl.concat([self.items.select("item_id"), later]).with_row_index("item").cast({"item": pl.Int32})
        return ids.join(items.drop("item"), on="item_id", how="left", maintain_order="left")

    def save(self, folder: Path) -> None:
        """Write one Parquet file per table."""
        for name in _FILES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")

    @classmethod
    def load(cls, folder: Path) -> "Audience":
        """Read what `save` wrote."""
        return cls(*(pl.read_parquet(folder / f"{name}.parquet") for name in _FILES))
