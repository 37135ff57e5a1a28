"""Segment residuals: mean residual per (segment, item) after the biases, weighted by affinity and shrunk.

Biases come from `item_neighbours`. The mean of the hard segment, as in case study B, is in `ratings`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel
from recsys_assets.recommender.models.segments.model import SegmentModel


class SegmentResidualSettings(Section):
    """Mean residual of the ratings per segment and item (case study B)."""

    shrinkage: float = Field(
        20.0,
        ge=0,
        description="Shrinkage of residuals: ratings with residual 0 that are added to each (segment, item) pair.",
    )


@dataclass(frozen=True)
class SegmentResidualModel:
    """Residuals of segments.

    Attributes:
        residuals: shape (n_segments, n_items), float32: mean residual of the segment's ratings of the item.
        train_segments: user, affinity; of the users that the model was fitted with.
        index: fingerprint of the id map that the model was fitted with.
    """

    residuals: np.ndarray
    train_segments: pl.DataFrame
    index: str

    def parts(self, user: np.ndarray, item: np.ndarray, user_segments: nw.LazyFrame) -> np.ndarray:
        """Return the segments' part of the ratings of pairs, shape (P,); 0 for users without an affinity.

        Args:
            user: dense ids, shape (P,).
            item: dense ids, shape (P,).
            user_segments: user, affinity.
        """
        users, affinity = _affinities(user_segments, len(self.residuals))
        at = np.searchsorted(users, user)
        found = np.append(users, -1)[at] == user
        weights = np.where(found[:, None], np.vstack([affinity, np.zeros_like(affinity[:1])])[at], 0)
        return np.einsum("ps,ps->p", weights, self.residuals.T[item])

    def save(self, folder: Path) -> None:
        """Write residuals.parquet (one row per segment), users.parquet and model.json."""
        self.train_segments.write_parquet(folder / "users.parquet")
        width = pl.Array(pl.Float32, self.residuals.shape[1])
        pl.DataFrame({"residuals": pl.Series(self.residuals, dtype=width)}).write_parquet(folder / "residuals.parquet")
        (folder / "model.json").write_text(json.dumps({"index": self.index}))

    @classmethod
    def load(cls, folder: Path) -> "SegmentResidualModel":
        """Read the files that `save` writes."""
        residuals = pl.read_parquet(folder / "residuals.parquet")["residuals"].to_numpy()
        facts = json.loads((folder / "model.json").read_text())
        return cls(residuals, pl.read_parquet(folder / "users.parquet"), facts["index"])


def fit_residuals(
    histories: nw.LazyFrame,
    *,
    index: Index,
    segment_model: SegmentModel,
    item_neighbours_model: ItemNeighboursModel,
    settings: SegmentResidualSettings,
) -> SegmentResidualModel:
    """Compute the shrunk mean residual per (segment, item), with each rating weighted by its user's affinity.

    Args:
        histories: user, item, rating; of the train users.
        index: id map of users and items.
        segment_model: infers the affinities of these users. The table user_segments is not used, because it holds the
            test users as well.
        item_neighbours_model: gives the biases.
        settings: the shrinkage.
    """
    users, rated = user_item_matrix(histories, n_items=index.n_items)
    _, residual = item_neighbours_model.residuals(rated)
    affinity = segment_model.transform(rated)
    given = sparse.csr_array((np.ones(rated.nnz, np.float32), rated.indices, rated.indptr), shape=rated.shape)
    summed, weight = (residual.T @ affinity).T, (given.T @ affinity).T
    residuals = (summed / np.maximum(weight + settings.shrinkage, 1e-9)).astype(np.float32)
    affinities = pl.Series(affinity, dtype=pl.Array(pl.Float32, segment_model.n_segments)).arr.to_list()
    return SegmentResidualModel(residuals, pl.DataFrame({"user": users, "affinity": affinities}), index.fingerprint)


def _affinities(user_segments: nw.LazyFrame, n_segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the users, ascending, and their affinities, shape (users, n_segments)."""
    table = to_polars(user_segments, "user", "affinity").sort("user")
    affinity = table["affinity"].cast(pl.List(pl.Float32)).list.to_array(n_segments).to_numpy()
    return table["user"].to_numpy(), affinity
