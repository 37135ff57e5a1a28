"""Segments of taste (case study B): the LDA model, what it says of users and movies, and predictions from it.

Who trains it and which rating is the response belongs to the splitting stage; scores belong to evaluation.
"""

from recsys_assets.recommender.segments.model import SegmentModel, fit
from recsys_assets.recommender.segments.profiles import (
    affinities,
    assign,
    counted_ratings,
    empty_cells,
    largest_affinity_error,
    memberships,
    ratings_by_segment,
    top_movies,
)
from recsys_assets.recommender.segments.ratings import segment_mean_predictions, user_bias_predictions
from recsys_assets.recommender.segments.residuals import SegmentResidualModel, fit_residuals

__all__ = [
    "SegmentModel",
    "SegmentResidualModel",
    "affinities",
    "assign",
    "counted_ratings",
    "empty_cells",
    "fit",
    "fit_residuals",
    "largest_affinity_error",
    "memberships",
    "ratings_by_segment",
    "segment_mean_predictions",
    "top_movies",
    "user_bias_predictions",
]
