"""Bias model: a rating is the global mean plus a user bias plus an item bias.

Biases come from a user's own ratings, so a user without ratings has the bias 0. Models of taste, which explain the rest
of a rating, are in other modules.
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

_N_ITERATIONS = 10


class UserItemBiasSettings(Section):
    """Rating model: global mean, user bias and item bias."""

    tried: ClassVar = {"user_shrinkage": (2.0, 5.0, 10.0), "item_shrinkage": (2.0, 5.0, 20.0)}

    user_shrinkage: float = Field(
        5.0, ge=0, description="Shrinkage of user biases: ratings with bias 0 that are added to each user's ratings."
    )
    item_shrinkage: float = Field(
        5.0, ge=0, description="Shrinkage of item biases: ratings with bias 0 that are added to each item's ratings."
    )


@dataclass(frozen=True)
class BiasModel(StoredModel):
    """Shrunk biases.

    Attributes:
        global_mean: mean of all training ratings.
        user_bias: shape (n_users,), float64; 0 for a user without a training rating.
        item_bias: shape (n_items,), float64; 0 for an item without a training rating.
        index: fingerprint of the id map that the model was fitted with.
    """

    global_mean: float
    user_bias: np.ndarray
    item_bias: np.ndarray
    index: str

    arrays: ClassVar = {"users": {"bias": "user_bias"}, "items": {"bias": "item_bias"}}

    def of(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Predict the ratings of pairs by dense id: shape (P,), float64."""
        return self.global_mean + self.user_bias[user] + self.item_bias[item]

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, item): user, item, prediction."""
        rows = to_polars(pairs, "user", "item")
        predicted = self.of(rows["user"].to_numpy(), rows["item"].to_numpy())
        return rows.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))


def fit(ratings: nw.LazyFrame, *, index: Index, settings: UserItemBiasSettings) -> BiasModel:
    """Fit both biases by alternating least squares (Koren, Bell and Volinsky 2009).

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        settings: the shrinkage of both biases.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> ratings = pl.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [5.0, 4.0, 3.0, 2.0]})
        >>> settings = UserItemBiasSettings(user_shrinkage=0.0, item_shrinkage=0.0)
        >>> model = fit(lazy(ratings), index=Index(2, 2, "test"), settings=settings)
        >>> model.global_mean, model.user_bias.tolist(), model.item_bias.tolist()
        (3.5, [1.0, -1.0], [0.5, -0.5])
    """
    rows = to_polars(ratings, "user", "item", "rating").sort("user", "item")
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    above = rows["rating"].cast(pl.Float64).to_numpy()
    global_mean = float(above.mean()) if len(above) else 0.0
    above = above - global_mean
    user_bias, item_bias = np.zeros(index.n_users), np.zeros(index.n_items)
    for _ in range(_N_ITERATIONS):
        item_bias = _mean(item, above - user_bias[user], index.n_items, settings.item_shrinkage)
        user_bias = _mean(user, above - item_bias[item], index.n_users, settings.user_shrinkage)
    return BiasModel(global_mean, user_bias, item_bias, index.fingerprint)


def _mean(ids: np.ndarray, values: np.ndarray, size: int, shrinkage: float) -> np.ndarray:
    counts = np.bincount(ids, minlength=size)
    return np.bincount(ids, values, size) / np.where(counts > 0, counts + shrinkage, 1)
