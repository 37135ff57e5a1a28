"""Item mean: the shrunk mean rating per item, the baseline of every score table and the fallback of other models.

Evaluation decides where the fallback replaces a missing prediction.
"""

from dataclasses import dataclass
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.models.stored import StoredModel


class ItemMeanSettings(Section):
    """Item mean: the baseline for ratings, and the fallback of other rating models."""

    shrinkage: float = Field(
        10.0,
        ge=0,
        description="Shrinkage of item means: ratings at the global mean that are added to each item's ratings.",
    )


@dataclass(frozen=True)
class ItemMeanModel(StoredModel):
    """Shrunk mean rating of every item.

    Attributes:
        means: shape (n_items,), float64; the global mean for an item without a training rating.
        global_mean: mean of all training ratings.
        index: fingerprint of the id map that the model was fitted with.
    """

    means: np.ndarray
    global_mean: float
    index: str

    arrays: ClassVar = {"means": {"mean": "means"}}

    @property
    def table(self) -> pl.DataFrame:
        """The means as a table: item, prediction."""
        return pl.DataFrame({"item": np.arange(len(self.means), dtype=np.int32), "prediction": self.means})

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, item): user, item, prediction."""
        rows = to_polars(pairs, "user", "item")
        return rows.with_columns(prediction=pl.Series(self.means[rows["item"].to_numpy()], dtype=pl.Float32))


def fit(ratings: nw.LazyFrame, *, index: Index, settings: ItemMeanSettings) -> ItemMeanModel:
    """Compute the mean rating of each item, shrunk towards the global mean.

    An item with n ratings of sum s gets (s + shrinkage × global mean) / (n + shrinkage).

    Args:
        ratings: item, rating.
        index: id map of users and items.
        settings: the shrinkage.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> ratings = pl.DataFrame({"item": [0, 0, 1], "rating": [4.0, 5.0, 3.0]})
        >>> settings = ItemMeanSettings(shrinkage=1.0)
        >>> fit(lazy(ratings), index=Index(1, 3, "test"), settings=settings).means.round(2).tolist()
        [4.33, 3.5, 4.0]
    """
    rating = nw.col("rating").cast(nw.Float64())
    sums = to_polars(ratings.group_by("item").agg(total=rating.sum(), n=nw.len()).sort("item"))
    total, n = sums["total"].to_numpy(), sums["n"].to_numpy()
    global_mean = float(total.sum() / max(n.sum(), 1))
    means = np.full(index.n_items, global_mean)
    means[sums["item"].to_numpy()] = (total + settings.shrinkage * global_mean) / (n + settings.shrinkage)
    return ItemMeanModel(means=means, global_mean=global_mean, index=index.fingerprint)
