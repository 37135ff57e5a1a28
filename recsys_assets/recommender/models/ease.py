"""EASE: ranks items by item-item weights that have a closed form (Steck 2019, arXiv:1905.03375).

The weights are one dense matrix of items by items, which is fast and hard to beat where it fits in memory. A larger
catalogue is cut to its most rated items; the model does not know the others.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import linalg, sparse

from recsys_assets.recommender.data.automatic import ANCHOR_RATINGS, ANCHOR_USERS, resolved
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import Preference
from recsys_assets.recommender.data.sections import AnyNumber, Positive, Section
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.ranking.rankings import pairs

_ANCHOR_REG = 3000.0
_NEUTRAL_OFFSET = -0.5
# Rows and columns that are mirrored at a time: 1 MB of float32.
_ROWS_PER_BLOCK = 512


class EASESettings(Section):
    """EASE for top N."""

    tried: ClassVar = {
        "reg": ("auto * 0.1", "auto * 0.3", "auto", "auto * 3"),
        "neutral_offset": ("auto", "0", "-1.5"),
    }

    reg: Positive = Field(
        "auto",
        description="L2 regularisation of the item weights: auto (3,000 for case study A; grows with the root of "
        "users times ratings), a multiple such as 'auto * 0.3', or a number.",
    )
    neutral_offset: AnyNumber = Field(
        "auto",
        description="Neutral rating, neither liked nor disliked, in standard deviations from the mean rating: auto "
        "(-0.5), or a number.",
    )
    max_items: int = Field(
        6_000,
        ge=1,
        description="Number of items that the model knows, the most rated ones; the time of a fit grows with its cube.",
    )


class NextEASESettings(EASESettings):
    """EASE for the next item (case study B). Every rating counts as a preference, even a low one."""

    tried: ClassVar = {"reg": ("auto * 0.3", "auto", "auto * 3.2", "auto * 8")}

    reg: Positive = Field(
        "auto * 3.2",
        description="L2 regularisation of the item weights, as ease.reg; 'auto * 3.2' is 8,000 for case study B.",
    )
    neutral_offset: AnyNumber = Field(
        "-4",
        description="Neutral rating, in standard deviations from the mean rating; at -4, every rating is a preference.",
    )


@dataclass(frozen=True)
class EASEModel:
    """Weights between the items that the model knows.

    Attributes:
        weights: shape (K, K), float32, with zero diagonal: liking the row's item adds the weight to the score of the
            column's item.
        items: dense ids of the known items, shape (K,), int32, ascending.
        n_items: size of the catalogue.
        preference: how ratings become preferences.
        index: fingerprint of the id map that the model was fitted with.
    """

    weights: np.ndarray
    items: np.ndarray
    n_items: int
    preference: Preference
    index: str

    @property
    def item_known(self) -> np.ndarray:
        """Whether the model knows each item, shape (n_items,)."""
        known = np.zeros(self.n_items, bool)
        known[self.items] = True
        return known

    def preferences(self, rated: sparse.csr_array) -> sparse.csr_array:
        """Turn ratings, shape (U, n_items), into preferences for the known items, shape (U, K)."""
        own = rated[:, self.items]
        return sparse.csr_array((self.preference(own.data), own.indices, own.indptr), shape=own.shape)

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Score all items from users' ratings, shape (U, n_items), float32; 0 for an unknown item."""
        scores = np.zeros((rated.shape[0], self.n_items), np.float32)
        scores[:, self.items] = self.preferences(rated) @ self.weights
        return scores

    def contributions(self, rated: sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the part of an item's score that each rating of a user adds; the parts sum exactly to the score.

        Args:
            rated: ratings of some users, shape (B, n_items).
            rows: row of each recommendation, shape (P,).
            items: item of each recommendation, shape (P,).

        Returns:
            One value per pair of `rankings.pairs`; 0 if either item is unknown.
        """
        cell, recommendation = pairs(rated, rows)
        (row, own_known), (column, known) = self._places(rated.indices), self._places(items)
        preference = np.where(own_known, self.preference(rated.data), 0)
        added = preference[cell] * self.weights[row[cell], column[recommendation]]
        added *= known[recommendation]
        return added

    def _places(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each item's row in the weights, any row if it is unknown, and whether it is known."""
        places = np.searchsorted(self.items, items).clip(0, len(self.items) - 1)
        return places, self.items[places] == items

    def save(self, folder: Path) -> None:
        """Write weights.parquet (item, weights) and model.json."""
        weights = pl.Series(self.weights, dtype=pl.Array(pl.Float32, len(self.items)))
        pl.DataFrame({"item": self.items, "weights": weights}).write_parquet(folder / "weights.parquet")
        facts = {"n_items": self.n_items, "preference": asdict(self.preference), "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "EASEModel":
        """Read the files that `save` writes."""
        table = pl.read_parquet(folder / "weights.parquet")
        facts = json.loads((folder / "model.json").read_text())
        return cls(
            weights=table["weights"].to_numpy(),
            items=table["item"].to_numpy(),
            n_items=facts["n_items"],
            preference=Preference(**facts["preference"]),
            index=facts["index"],
        )


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    settings: EASESettings,
) -> EASEModel:
    """Fit EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data") to preferences.

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        settings: regularisation, where `auto` is `automatic_reg`; neutral rating; and the number of items that the
            model knows. Memory grows with its square: 6,000 items take 0.4 GB during the fit and 144 MB afterwards.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> columns = {"user": [0, 0, 1, 1, 2], "item": [0, 1, 0, 1, 2], "rating": [5.0, 5.0, 4.0, 4.0, 1.0]}
        >>> model = fit(lazy(pl.DataFrame(columns)), index=Index(3, 3, "test"), settings=EASESettings(reg=1.0))
        >>> new_user = sparse.csr_array(np.array([[5.0, 0.0, 0.0]]))
        >>> int(model.scores(new_user).argmax())
        1
    """
    _, rated = user_item_matrix(ratings, n_items=index.n_items)
    preference = Preference.of(ratings, neutral_offset=resolved(settings.neutral_offset, _NEUTRAL_OFFSET))
    counts = np.bincount(rated.indices, minlength=index.n_items)
    by_count = np.argsort(-counts, kind="stable")[: settings.max_items]
    items = np.sort(by_count[counts[by_count] > 0]).astype(np.int32)
    model = EASEModel(np.empty((0, 0), np.float32), items, index.n_items, preference, index.fingerprint)
    reg = resolved(settings.reg, automatic_reg(rated.shape[0], rated.nnz))
    weights = item_weights(model.preferences(rated), reg=reg)
    return EASEModel(weights, items, index.n_items, preference, index.fingerprint)


def automatic_reg(n_users: int, n_ratings: int) -> float:
    """Return the regularisation for the size of the data: 3,000 for case study A.

    It is proportional to the number of users, like the sums over common users in the Gram matrix, and to the root of
    the ratings per user.
    """
    return _ANCHOR_REG * math.sqrt(n_users / ANCHOR_USERS * n_ratings / ANCHOR_RATINGS)


def item_weights(matrix: sparse.csr_array, *, reg: float) -> np.ndarray:
    """Return the weights B with zero diagonal that minimise |X - XB|² + reg |B|²: shape (K, K), float32.

    Args:
        matrix: X, shape (U, K); an empty cell is a zero.
        reg: above 0.

    Raises:
        ValueError: the regularisation is too small for the precision of float32.
    """
    from recsys_assets.recommender.models.kernels import column_products

    gram = column_products(matrix, matrix)
    gram[np.diag_indices_from(gram)] += reg
    # Cholesky in float32 takes half the time and half the memory of a general inverse. LAPACK works in place on columns
    # of a symmetric matrix, which the transpose has.
    factor, failed_at = linalg.lapack.spotrf(gram.T, lower=1, overwrite_a=1)
    if failed_at:
        raise ValueError(f"EASE cannot be solved with a regularisation (reg) of {reg:g}; set a larger one")
    half, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    weights = half.T
    _mirror_upper(weights)
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights


def _mirror_upper(matrix: np.ndarray) -> None:
    """Write the upper triangle into the lower one, in blocks that stay in the cache while they are transposed."""
    for start in range(0, len(matrix), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        matrix[rows, :start] = matrix[:start, rows].T
        square = matrix[rows, rows]
        square[:] = np.triu(square) + np.triu(square, 1).T
