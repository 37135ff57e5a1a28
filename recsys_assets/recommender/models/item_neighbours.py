"""Item neighbours: predicts a rating from biases and from the user's residuals on similar items.

Predictions need only the user's ratings, so a new user needs no new fit. Neighbours of liked items, which rank, are in
`item_knn`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.features.matrices import mean_rating, user_item_matrix
from recsys_assets.recommender.models.stored import StoredModel
from recsys_assets.recommender.ranking.rankings import rows_of

# Rounds of alternating means, after which the biases have settled within rounding of ratings.
_ROUNDS = 8


class ItemNeighboursSettings(Section):
    """Item neighbours: predicts a rating from the user's ratings of similar items (case study B)."""

    tried: ClassVar = {"pair_shrinkage": (20.0, 50.0, 100.0), "exponent": (1.0, 2.0, 3.0)}

    item_shrinkage: float = Field(
        5.0, ge=0, description="Shrinkage of item biases: ratings with bias 0 that are added to each item's ratings."
    )
    user_shrinkage: float = Field(
        5.0, ge=0, description="Shrinkage of user biases: ratings with bias 0 that are added to each user's ratings."
    )
    pair_shrinkage: float = Field(
        50.0,
        ge=0,
        description="Shrinkage of similarities: common users without agreement that are added to each pair of items.",
    )
    sum_shrinkage: float = Field(
        0.3,
        ge=0,
        description="Shrinkage of predictions: similarity to items with residual 0 that is added to the user's items.",
    )
    exponent: float = Field(
        2.0, gt=0, description="Exponent of the similarities; a higher one leaves fewer effective neighbours."
    )
    max_items: int = Field(6_000, ge=1, description="Number of items with neighbours, the most rated ones.")


class RatingNeighboursSettings(ItemNeighboursSettings):
    """Rating model: item neighbours on the training ratings of case study A; part of the stack."""


@dataclass(frozen=True)
class ItemNeighboursModel(StoredModel):
    """Biases of items, and similarities of items by residuals.

    Attributes:
        global_mean: mean of the training ratings.
        item_bias: shape (n_items,), float64; 0 for an item without a training rating.
        similarity: shape (K, K), float32, symmetric, not negative, zero diagonal.
        items: items that have similarities, shape (K,), int32, ascending.
        params: parameters of the fit.
        index: fingerprint of the id map that the model was fitted with.
    """

    global_mean: float
    item_bias: np.ndarray
    similarity: np.ndarray
    items: np.ndarray
    params: Mapping[str, Any]
    index: str

    arrays: ClassVar = {
        "similarity": {"item": "items", "similarity": "similarity"},
        "biases": {"bias": "item_bias"},
    }

    @property
    def user_shrinkage(self) -> float:
        """Number of ratings with residual 0 that are added to each user's own."""
        return float(self.params["user_shrinkage"])

    def residuals(self, rated: sparse.csr_array) -> tuple[np.ndarray, sparse.csr_array]:
        """Return the users' biases and the residuals of their ratings.

        Args:
            rated: users by items, shape (U, n_items).

        Returns:
            The biases, shape (U,), and the ratings minus global mean, item bias and user bias, shape (U, n_items).
        """
        above = rated.data - (self.global_mean + self.item_bias[rated.indices])
        counts = np.diff(rated.indptr)
        row = np.repeat(np.arange(len(counts)), counts)
        bias = np.bincount(row, above, len(counts)) / np.maximum(counts + self.user_shrinkage, 1e-9)
        return bias, sparse.csr_array((above - bias[row], rated.indices, rated.indptr), shape=rated.shape)

    def biases(self, user: np.ndarray, item: np.ndarray, rated: nw.LazyFrame) -> np.ndarray:
        """Return global mean plus item bias plus user bias for pairs, shape (P,).

        Args:
            user: dense ids, shape (P,).
            item: dense ids, shape (P,).
            rated: user, item, rating; gives the user biases.
        """
        users, row = np.unique(user, return_inverse=True)
        bias, _ = self.residuals(self._rows(users, rated))
        return self.global_mean + self.item_bias[item] + bias[row]

    def _rows(self, users: np.ndarray, rated: nw.LazyFrame) -> sparse.csr_array:
        return rows_of(users, *user_item_matrix(rated, n_items=len(self.item_bias)))

    def predict(self, pairs: nw.LazyFrame, rated: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, item), without nulls, from `rated` (user, item, rating)."""
        asked = to_polars(pairs, "user", "item").sort("user", "item")
        parts = self.parts(asked["user"].to_numpy(), asked["item"].to_numpy(), rated)
        predicted = self.global_mean + parts["item"] + parts["user"] + parts["neighbours"]
        return asked.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def parts(self, user: np.ndarray, item: np.ndarray, rated: nw.LazyFrame) -> dict[str, np.ndarray]:
        """Return the terms of a prediction above the global mean: `item`, `user` and `neighbours`, each of shape (P,).

        Args:
            user: dense ids, shape (P,).
            item: dense ids, shape (P,).
            rated: user, item, rating.
        """
        users, row = np.unique(user, return_inverse=True)
        bias, residual = self.residuals(self._rows(users, rated))
        neighbours = self._weighed(row, item, residual)
        return {"item": self.item_bias[item], "user": bias[row], "neighbours": neighbours}

    def _weighed(self, row: np.ndarray, item: np.ndarray, residual: sparse.csr_array) -> np.ndarray:
        """Return the mean residual of each pair's user, weighted by the similarity to the pair's item: shape (P,)."""
        from recsys_assets.recommender.models.kernels import fill_neighbour_sums, in_threads

        place = np.full(len(self.item_bias), -1)
        place[self.items] = np.arange(len(self.items))
        own, chosen = residual[:, self.items], np.flatnonzero(place[item] >= 0)
        totals, weights = np.zeros(len(chosen)), np.zeros(len(chosen))
        asked = (row[chosen], place[item[chosen]])
        cells = (own.indptr, own.indices, own.data)
        in_threads(
            lambda begin, end: fill_neighbour_sums(totals, weights, begin, end, *asked, self.similarity, *cells),
            len(chosen),
        )
        neighbours = np.zeros(len(item))
        neighbours[chosen] = totals / np.maximum(weights + self.params["sum_shrinkage"], 1e-9)
        return neighbours


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    settings: ItemNeighboursSettings,
) -> ItemNeighboursModel:
    """Fit biases by alternating shrunk means, then similarities of items by the residuals of their common users.

    The similarity is the cosine of residuals over common users, shrunk by their number (Koren 2010, "Factor in the
    neighbors", section 2.2). Negative similarities are set to 0.

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        settings: shrinkages, power of the similarities, and number of items that get similarities. Memory grows with
            the square of this number, time with the number of pairs of items that users rated.
    """
    _, rated = user_item_matrix(ratings, n_items=index.n_items)
    mean, item_bias = _biases(rated, settings)
    counts = np.bincount(rated.indices, minlength=index.n_items)
    by_count = np.argsort(-counts, kind="stable")[: settings.max_items]
    items = np.sort(by_count[counts[by_count] > 0]).astype(np.int32)
    unrelated = np.zeros((len(items), len(items)), np.float32)
    biased = ItemNeighboursModel(mean, item_bias, unrelated, items, settings.model_dump(), index.fingerprint)
    _, residual = biased.residuals(rated)
    # Cosines have no unit. At variance 1 the squares of residuals fit in float32, whatever the unit of the ratings.
    residual.data /= np.sqrt((residual.data**2).sum() / max(residual.nnz, 1)) or 1.0
    similarity = _similarity(residual[:, items].astype(np.float32), settings.pair_shrinkage)
    return replace(biased, similarity=similarity ** np.float32(settings.exponent))


def _biases(rated: sparse.csr_array, settings: ItemNeighboursSettings) -> tuple[float, np.ndarray]:
    """Return the mean rating and the item biases, shape (n_items,), fitted together with user biases."""
    n_users, n_items = rated.shape
    row, item = np.repeat(np.arange(n_users), np.diff(rated.indptr)), rated.indices
    of_user = np.maximum(np.bincount(row, minlength=n_users) + settings.user_shrinkage, 1e-9)
    of_item = np.maximum(np.bincount(item, minlength=n_items) + settings.item_shrinkage, 1e-9)
    mean = mean_rating(rated)
    above, bias = rated.data - mean, np.zeros(n_items)
    for _ in range(_ROUNDS):
        of_users = np.bincount(row, above - bias[item], n_users) / of_user
        bias = np.bincount(item, above - of_users[row], n_items) / of_item
    return mean, bias


def _similarity(residual: sparse.csr_array, pair_shrinkage: float) -> np.ndarray:
    """Return the shrunk positive cosines of columns over common rows: shape (K, K), float32, zero diagonal."""
    from recsys_assets.recommender.models.kernels import column_products

    given = _ones_like(residual)
    squares = sparse.csr_array((residual.data**2, residual.indices, residual.indptr), shape=residual.shape)
    length, common = column_products(squares, given), column_products(given, given)
    similarity = column_products(residual, residual)
    similarity /= np.sqrt(length * length.T) + np.float32(1e-9)
    similarity *= common / np.maximum(common + np.float32(pair_shrinkage), 1e-9)
    np.fill_diagonal(similarity, 0)
    return np.maximum(similarity, 0, out=similarity)


def _ones_like(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
