"""Transitions: ranks the next item by how often it was rated soon after the user's last items.

The order of a user's ratings says more about the next one than their values do.
"""

from dataclasses import dataclass
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.models.stored import StoredModel

# A rating counts for nothing after this many half-lives.
_HALF_LIVES = 10


class TransitionSettings(Section):
    """Transitions: which items are rated soon after another item (case study B)."""

    tried: ClassVar = {"window": (5, 10, 20), "half_life": (0.75, 1.5, 3.0, 6.0)}

    window: int = Field(10, ge=1, description="Number of later ratings that count.")
    decay: float = Field(0.9, gt=0, le=1, description="Factor of the weight per further step.")
    backwards: float = Field(0.5, ge=0, le=1, description="Weight of transitions in the opposite order.")
    popularity_exponent: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Discount of frequent items: transitions to an item are divided by its frequency to this power.",
    )
    shrinkage: float = Field(
        10.0, ge=0, description="Transitions to no item that are added to each item's transitions."
    )
    half_life: float = Field(1.5, gt=0, description="Number of the user's ratings after which an item's weight halves.")


@dataclass(frozen=True)
class TransitionModel(StoredModel):
    """Transition weights between items.

    Attributes:
        weights: shape (n_items, n_items), CSR, float32: from the row's item to the column's item.
        half_life: number of ratings after which an item of the history weighs half as much.
        index: fingerprint of the id map that the model was fitted with.
    """

    weights: sparse.csr_array
    half_life: float
    index: str
    matrices: ClassVar = {"weights": ("item", "next", "weight")}

    def recent(self, ratings: nw.LazyFrame) -> tuple[np.ndarray, sparse.csr_array]:
        """Return the users with a rating, ascending, and the recency of their items, shape (users, n_items).

        The last item of a user has the recency 1.

        Args:
            ratings: user, item, timestamp, batch, row.
        """
        rows = _in_order(ratings)
        back = pl.len().over("user") - 1 - pl.int_range(pl.len()).over("user")
        weighed = rows.with_columns(weight=0.5 ** (back / self.half_life))
        recent = weighed.filter(pl.col("weight") > 0.5**_HALF_LIVES)
        users, row = np.unique(recent["user"].to_numpy(), return_inverse=True)
        cells = (recent["weight"].to_numpy().astype(np.float32), (row, recent["item"].to_numpy()))
        return users, sparse.csr_array(cells, shape=(len(users), self.weights.shape[0]))

    def scores(self, recent: sparse.csr_array) -> np.ndarray:
        """Score all items from rows of `recent`, shape (U, n_items), float32."""
        return (recent @ self.weights).toarray()

    @property
    def item_known(self) -> np.ndarray:
        """Whether each item has followed another one, shape (n_items,)."""
        return np.bincount(self.weights.indices, minlength=self.weights.shape[1]) > 0


def fit(
    histories: nw.LazyFrame,
    *,
    index: Index,
    settings: TransitionSettings,
) -> TransitionModel:
    """Count which items were rated within a window after which, with nearer ones weighted higher.

    This is a first-order Markov chain (Rendle et al. 2010) with a window, smoothed twice: row sums are shrunk, and
    items that follow everything are discounted.

    Args:
        histories: user, item, timestamp, batch, row; ordered by time, then batch, then row.
        index: id map of users and items.
        settings: window, weights and smoothing.
    """
    rows = _in_order(histories)
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    shape = (index.n_items, index.n_items)
    counts = sparse.csr_array(shape, dtype=np.float32)
    for step in range(1, min(settings.window, len(user) - 1) + 1):
        same = user[step:] == user[:-step]
        weight = np.full(same.sum(), settings.decay ** (step - 1), np.float32)
        counts = counts + sparse.csr_array((weight, (item[:-step][same], item[step:][same])), shape=shape)
    counts = counts + settings.backwards * counts.T
    leaving, coming = counts.sum(axis=1), counts.sum(axis=0)
    shrinkage = max(settings.shrinkage, 1e-9)
    by_row = sparse.diags_array(1 / (leaving + shrinkage))
    by_column = sparse.diags_array((coming + shrinkage) ** -settings.popularity_exponent)
    weights = sparse.csr_array(by_row @ counts @ by_column).astype(np.float32)
    return TransitionModel(weights, settings.half_life, index.fingerprint)


def _in_order(ratings: nw.LazyFrame) -> pl.DataFrame:
    columns = ("user", "item", "timestamp", "batch", "row")
    return to_polars(ratings, *columns).sort("user", "timestamp", "batch", "row")
