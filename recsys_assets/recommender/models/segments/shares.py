"""Compares the segments' shares of the users' affinity with the previous refresh: the table `segment_shares`.

Segment numbers of two fits have nothing in common, so segments are matched by their item distributions first.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.models.segments.model import SegmentModel
from recsys_assets.recommender.models.segments.profiles import affinities

_NAMED_BY = 2
_PRESENT, _PREVIOUS = "present", "previous"
_ITEMS_FILE, _SEGMENTS_FILE = "items.parquet", "segments.json"


@dataclass(frozen=True, eq=False)
class SizedSegments:
    """The segments of one fit, reduced to the quantities that a comparison with another fit needs.

    Attributes:
        names: titles of each segment's first items by probability.
        shares: mean affinity of the users with a history, shape (n_segments,), float64; sums to 1.
        item_ids: source ids of the M' known items. Source ids are kept because dense ids may differ in the next
            fit.
        probabilities: probability of each item in each segment, shape (n_segments, M'), float32.
    """

    names: tuple[str, ...]
    shares: np.ndarray
    item_ids: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(
        cls, model: SegmentModel, user_segments: nw.LazyFrame, items: nw.LazyFrame, *, n_users: int
    ) -> "SizedSegments":
        """Extract the compared quantities from a fitted model.

        Args:
            model: the fitted segments.
            user_segments: table user_segments of this model.
            items: item, item_id, title; the id stands for a missing title.
            n_users: number of all users, with or without a history.
        """
        catalogue = to_polars(items.select("item", "item_id", name=nw.coalesce("title", "item_id"))).sort("item")
        known = catalogue[model.items]
        probabilities = model.item_probabilities[:, model.items].astype(np.float32)
        first = np.argsort(-probabilities, axis=1, kind="stable")[:, :_NAMED_BY]
        total = affinities(user_segments, n_users=n_users, n_segments=model.n_segments).sum(axis=0, dtype=np.float64)
        return cls(
            names=tuple(" · ".join(known["name"][columns]) for columns in first),
            shares=total / total.sum(),
            item_ids=known["item_id"].to_numpy(),
            probabilities=probabilities,
        )

    def is_same_as(self, other: "SizedSegments") -> bool:
        """Return whether both hold the same segments with the same shares; titles do not count."""
        return (
            np.array_equal(self.item_ids, other.item_ids)
            and np.array_equal(self.probabilities, other.probabilities)
            and np.array_equal(self.shares, other.shares)
        )

    def similarity(self, other: "SizedSegments") -> np.ndarray:
        """Return the Bhattacharyya coefficients of the item distributions of two fits.

        The coefficient, 0 to 1, is Σ √(p q) over the items that both fits know, with each distribution scaled to sum
        to 1 over them. It equals 1 minus the squared Hellinger distance (Bhattacharyya 1943). It is 0 if the fits have
        no item in common.

        Returns:
            Shape (n_segments, n_segments of the other fit), float64.
        """
        _, mine, others = np.intersect1d(self.item_ids, other.item_ids, return_indices=True)
        return np.minimum(_roots(self.probabilities[:, mine]) @ _roots(other.probabilities[:, others]).T, 1.0)

    def save(self, folder: Path) -> None:
        """Write items.parquet and segments.json."""
        by_item = {"item_id": self.item_ids.tolist(), "probabilities": self.probabilities.T}
        pl.DataFrame(by_item, schema_overrides={"item_id": pl.String}).write_parquet(folder / _ITEMS_FILE)
        facts = {"names": self.names, "shares": self.shares.tolist()}
        (folder / _SEGMENTS_FILE).write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "SizedSegments":
        """Read the files that `save` writes."""
        facts = json.loads((folder / _SEGMENTS_FILE).read_text())
        by_item = pl.read_parquet(folder / _ITEMS_FILE)
        return cls(
            names=tuple(facts["names"]),
            shares=np.array(facts["shares"]),
            item_ids=by_item["item_id"].to_numpy(),
            probabilities=by_item["probabilities"].to_numpy().T,
        )


def _roots(probabilities: np.ndarray) -> np.ndarray:
    """Return the square roots of the rows scaled to sum to 1; a row of zeros stays zero."""
    totals = probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.sqrt(np.divide(probabilities, totals, out=np.zeros(probabilities.shape), where=totals > 0))


@dataclass(frozen=True, eq=False)
class ComparedSegments:
    """The segments of the present fit and of the fit before it. The next refresh needs no more.

    Attributes:
        present: segments of the last fit.
        previous: segments of the last fit that differed; None for the first fit.
    """

    present: SizedSegments
    previous: SizedSegments | None = None

    def followed_by(self, present: SizedSegments) -> "ComparedSegments":
        """Return the comparison after another fit; it stays the same if the fit gave the same segments."""
        return ComparedSegments(present, self.previous if present.is_same_as(self.present) else self.present)

    @property
    def table(self) -> pl.DataFrame:
        """The table `segment_shares`: one row per present segment, then one per previous segment without a partner.

        The matching maximises the sum of similarities (Kuhn 1955) and gives each segment at most one partner. A segment
        has no partner if the other fit has fewer segments or no item in common with it.
        """
        now = _rows(self.present)
        before = _rows(self.previous) if self.previous else now.clear()
        pairs = _partners(self.present.similarity(self.previous) if self.previous else np.empty((0, 0)))
        return (
            now.join(pairs, on="segment", how="left")
            .join(before.select(pl.all().name.prefix("previous_")), on="previous_segment", how="full", coalesce=True)
            .sort("segment", "previous_segment", nulls_last=True)
            .select(*TABLES["segment_shares"].columns)
        )

    def save(self, folder: Path) -> None:
        """Write the files of `SizedSegments` into one folder per fit."""
        for name, sized in ((_PRESENT, self.present), (_PREVIOUS, self.previous)):
            if sized is not None:
                (folder / name).mkdir()
                sized.save(folder / name)

    @classmethod
    def load(cls, folder: Path) -> "ComparedSegments":
        """Read the files that `save` writes."""
        previous = folder / _PREVIOUS
        return cls(SizedSegments.load(folder / _PRESENT), SizedSegments.load(previous) if previous.exists() else None)


def _rows(segments: SizedSegments) -> pl.DataFrame:
    numbers = np.arange(len(segments.shares), dtype=np.int32)
    return pl.DataFrame({"segment": numbers, "share": segments.shares, "name": segments.names})


def _partners(similarity: np.ndarray) -> pl.DataFrame:
    """Return segment, previous_segment and similarity of every pair of partners."""
    from scipy.optimize import linear_sum_assignment

    segment, previous = (places.astype(np.int32) for places in linear_sum_assignment(similarity, maximize=True))
    pairs = {"segment": segment, "previous_segment": previous, "similarity": similarity[segment, previous]}
    return pl.DataFrame(pairs).filter(pl.col("similarity") > 0)


def share_shift(segment_shares: pl.DataFrame) -> float | None:
    """Return the total variation distance: the share of the users' affinity that moved to another segment.

    A segment without a partner counts whole, as new or as gone. None if there is no previous fit.
    """
    if segment_shares["previous_share"].is_null().all():
        return None
    return float(segment_shares.select(_moved().abs().sum() / 2).item())


def largest_shift(segment_shares: pl.DataFrame) -> tuple[str, float]:
    """Return the segment whose share moved most, in words, and by how much.

    Args:
        segment_shares: table segment_shares with a previous fit.
    """
    row = segment_shares.with_columns(moved=_moved()).sort(pl.col("moved").abs(), descending=True).row(0, named=True)
    if row["segment"] is None:
        return f"{row['previous_name']}, which was segment {row['previous_segment']} and is none any more", row["moved"]
    return f"segment {row['segment']}, {row['name']}", row["moved"]


def _moved() -> pl.Expr:
    return pl.col("share").fill_null(0) - pl.col("previous_share").fill_null(0)
