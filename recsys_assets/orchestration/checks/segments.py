"""What must hold of segments beyond their declared tables: affinities are shares, and every rating is counted once."""

import dagster as dg
import narwhals as nw

from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.models.segments import SegmentModel

# Affinities are float32: the sum of 20 of them is off by less than this.
_ROUNDING = 1e-5


@dg.asset_check(asset="user_segments", blocking=True)
def affinities_sum_to_one(user_segments: nw.LazyFrame) -> dg.AssetCheckResult:
    """Each user's affinities are shares: they sum to one."""
    error = segments.largest_affinity_error(user_segments)
    return dg.AssetCheckResult(
        passed=error <= _ROUNDING,
        metadata={"actual: largest distance from one": error, "expected": 0.0, "threshold": _ROUNDING},
    )


@dg.asset_check(
    asset="segment_ratings", additional_ins={"train_histories": dg.AssetIn("train_histories")}, blocking=True
)
def counts_sum_to_ratings(segment_ratings: nw.LazyFrame, train_histories: nw.LazyFrame) -> dg.AssetCheckResult:
    """Every rating in the train users' histories is counted in exactly one (segment, movie)."""
    counted, expected = segments.counted_ratings(segment_ratings, train_histories)
    return dg.AssetCheckResult(
        passed=counted == expected, metadata={"actual": counted, "expected": expected, "threshold": 0}
    )


@dg.asset_check(
    asset="segment_ratings",
    additional_ins={"segment_model": dg.AssetIn("segment_model"), "movies": dg.AssetIn("movies")},
)
def empty_cells(
    segment_ratings: nw.LazyFrame, segment_model: SegmentModel, movies: nw.LazyFrame
) -> dg.AssetCheckResult:
    """How many (segment, movie) pairs nobody has rated: there the segment's mean predicts nothing. Informs only."""
    n_movies = row_count(movies)
    empty = segments.empty_cells(segment_ratings, n_segments=segment_model.n_segments, n_movies=n_movies)
    cells = segment_model.n_segments * n_movies
    return dg.AssetCheckResult(
        passed=empty < cells,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"actual": empty, "share of all cells": empty / cells, "threshold": cells},
    )


CHECKS = [affinities_sum_to_one, counts_sum_to_ratings, empty_cells]
