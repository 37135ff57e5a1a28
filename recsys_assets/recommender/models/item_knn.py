"""Item-based nearest neighbours: ranks items by how many users liked them together with the user's liked items.

This is the classical baseline of top-N recommendation, which a model must beat to be worth its cost. Neighbours of
residual ratings, which predict ratings, are in `item_neighbours`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import narwhals as nw
import numpy as np
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models.stored import StoredModel
from recsys_assets.recommender.ranking.rankings import pairs

# Items whose similarities are computed at a time.
_BLOCK = 512


class ItemKNNSettings(Section):
    """Item-based nearest neighbours by cosine similarity: a baseline for lists."""

    neighbours: int = Field(500, ge=1, description="Number of nearest neighbours per item.")
    shrinkage: float = Field(
        10.0,
        ge=0,
        description="Added to the denominator of the cosine: items that few users liked are then no close neighbours "
        "by chance.",
    )


@dataclass(frozen=True)
class ItemKNNModel(StoredModel):
    """Similarities of each item to its nearest neighbours.

    Attributes:
        similarities: shape (n_items, n_items), CSR, float32: the row is a liked item, the column an item that it
            adds a score to.
        relevant_from: lowest rating that counts as liked.
        index: fingerprint of the id map that the model was fitted with.
    """

    similarities: sparse.csr_array
    relevant_from: float
    index: str
    matrices: ClassVar = {"similarities": ("item", "neighbour", "similarity")}

    @property
    def item_known(self) -> np.ndarray:
        """Whether any liked item can add a score to each item, shape (n_items,)."""
        return np.bincount(self.similarities.indices, minlength=self.similarities.shape[1]) > 0

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Score all items from users' ratings by sums of similarities, shape (U, n_items), float32."""
        return (liked(rated, self.relevant_from) @ self.similarities).toarray()

    def contributions(self, rated: sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the part of an item's score that each rating of a user adds; see `EASEModel.contributions`."""
        cell, recommendation = pairs(rated, rows)
        similar = self.similarities[rated.indices[cell], items[recommendation]]
        return similar * (rated.data >= self.relevant_from)[cell]


def liked(rated: sparse.csr_array, relevant_from: float) -> sparse.csr_array:
    """Return ones where a rating is at least `relevant_from`, in the shape of the ratings, float32."""
    ones = rated.astype(np.float32, copy=True)
    ones.data = (rated.data >= relevant_from).astype(np.float32)
    ones.eliminate_zeros()
    return ones


def fit(ratings: nw.LazyFrame, *, index: Index, settings: ItemKNNSettings) -> ItemKNNModel:
    """Compute cosine similarities of liked items (Sarwar et al. 2001; Deshpande and Karypis 2004).

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        settings: number of neighbours; and the shrinkage, which is added to the denominator of the cosine, so that an
            item with few users is no close neighbour by chance.

    Examples:
        >>> import polars as pl
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> columns = {"user": [0, 0, 1, 1, 2], "item": [0, 1, 0, 1, 2], "rating": [5.0, 5.0, 5.0, 5.0, 1.0]}
        >>> settings = ItemKNNSettings(shrinkage=2.0)
        >>> model = fit(lazy(pl.DataFrame(columns)), index=Index(3, 3, "test"), settings=settings)
        >>> model.similarities.toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    limit = relevant_from(ratings)
    _, rated = user_item_matrix(ratings, n_items=index.n_items)
    by_item = sparse.csr_array(liked(rated, limit).T)
    norms = np.sqrt(np.diff(by_item.indptr))
    blocks = (
        _nearest(by_item, norms, np.arange(start, min(start + _BLOCK, index.n_items)), settings)
        for start in range(0, index.n_items, _BLOCK)
    )
    # `_nearest` has one row per scored item; scoring needs the transpose, with one row per liked item.
    similarities = sparse.csr_array(sparse.vstack(list(blocks)).T, dtype=np.float32)
    return ItemKNNModel(similarities, limit, index.fingerprint)


def _nearest(
    by_item: sparse.csr_array, norms: np.ndarray, items: np.ndarray, settings: ItemKNNSettings
) -> sparse.csr_array:
    """Return the similarities of a block of items to their nearest neighbours, shape (len(items), n_items)."""
    together = sparse.csr_array(by_item[items] @ by_item.T)
    row, other = np.repeat(np.arange(len(items)), np.diff(together.indptr)), together.indices
    similar = together.data / (norms[items[row]] * norms[other] + max(settings.shrinkage, 1e-9))
    similar[other == items[row]] = 0
    for start, end in pairwise(together.indptr):
        own = similar[start:end]
        if len(own) > settings.neighbours:
            own[own < np.partition(own, -settings.neighbours)[-settings.neighbours]] = 0
    nearest = sparse.csr_array((similar, other, together.indptr), shape=together.shape)
    nearest.eliminate_zeros()
    return nearest
