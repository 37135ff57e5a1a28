"""Segments of users by taste (case study B): the LDA model, tables of users and items, and predictions from segments.

Clusters, which group users by attributes, are in `features/clusters`. The splits that train segments are in
`data/splitting`, the scores in `evaluation`.
"""

from recsys_assets.recommender.models.segments.model import SegmentModel, SegmentSettings, fit
from recsys_assets.recommender.models.segments.profiles import (
    affinities,
    assign,
    counted_ratings,
    empty_cells,
    largest_affinity_error,
    memberships,
    ratings_by_segment,
    top_items,
)
from recsys_assets.recommender.models.segments.ratings import segment_mean_predictions, user_bias_predictions
from recsys_assets.recommender.models.segments.residuals import (
    SegmentResidualModel,
    SegmentResidualSettings,
    fit_residuals,
)
from recsys_assets.recommender.models.segments.shares import ComparedSegments, SizedSegments, largest_shift, share_shift

__all__ = [
    "ComparedSegments",
    "SegmentModel",
    "SegmentResidualModel",
    "SegmentResidualSettings",
    "SegmentSettings",
    "SizedSegments",
    "affinities",
    "assign",
    "counted_ratings",
    "empty_cells",
    "fit",
    "fit_residuals",
    "largest_affinity_error",
    "largest_shift",
    "memberships",
    "ratings_by_segment",
    "segment_mean_predictions",
    "share_shift",
    "top_items",
    "user_bias_predictions",
]
