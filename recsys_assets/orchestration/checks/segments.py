"""Asset checks of segments beyond the declared tables: affinities are shares, and every rating is counted once.

Rules that follow from the declared tables are in `declared`.
"""

import dagster as dg
import narwhals as nw

from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.models.segments import SegmentModel

# Affinities are float32: the rounding error of a sum of 20 affinities is smaller than this.
_ROUNDING = 1e-5


@dg.asset_check(asset="user_segments", blocking=True)
def affinities_sum_to_one(user_segments: nw.LazyFrame) -> dg.AssetCheckResult:
    """The affinities of each user sum to 1."""
    error = segments.largest_affinity_error(user_segments)
    return dg.AssetCheckResult(
        passed=error <= _ROUNDING,
        metadata={"actual: largest distance from one": float(f"{error:.2g}"), "threshold": f"{_ROUNDING:g}"},
    )


@dg.asset_check(
    asset="segment_ratings", additional_ins={"train_histories": dg.AssetIn("train_histories")}, blocking=True
)
def counts_sum_to_ratings(segment_ratings: nw.LazyFrame, train_histories: nw.LazyFrame) -> dg.AssetCheckResult:
    """Every rating of the train users' histories is counted in exactly one (segment, item) pair."""
    counted, expected = segments.counted_ratings(segment_ratings, train_histories)
    return dg.AssetCheckResult(
        passed=counted == expected, metadata={"actual": counted, "threshold": f"exactly {expected:,}"}
    )


@dg.asset_check(
    asset="segment_ratings",
    additional_ins={"segment_model": dg.AssetIn("segment_model"), "items": dg.AssetIn("items")},
)
def empty_cells(segment_ratings: nw.LazyFrame, segment_model: SegmentModel, items: nw.LazyFrame) -> dg.AssetCheckResult:
    """Number of (segment, item) pairs without a rating, for which the segment's mean predicts nothing.

    This check informs: it warns only if no pair has a rating.
    """
    n_items = row_count(items)
    empty = segments.empty_cells(segment_ratings, n_segments=segment_model.n_segments, n_items=n_items)
    cells = segment_model.n_segments * n_items
    return dg.AssetCheckResult(
        passed=empty < cells,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"actual": empty, "share of all cells": f"{empty / cells:.1%}", "threshold": f"below {cells:,}"},
    )


def checks_of(kind: DataKind) -> list[dg.AssetChecksDefinition]:
    """The checks of the segments of a kind of data."""
    return [affinities_sum_to_one, *([] if kind.is_events else [counts_sum_to_ratings, empty_cells])]
