"""Models of the task `next_movie` (case study B): the place of a user's latest movie among those not in its history."""

import narwhals as nw
import polars as pl

from recsys_assets.recommender import rankings, segments
from recsys_assets.recommender.frames import row_count
from recsys_assets.recommender.registry.top_n import by_popularity
from recsys_assets.recommender.registry.types import Entry, Fit
from recsys_assets.recommender.segments import SegmentModel

FITS: tuple[Fit, ...] = ()


def _segment_list(
    users: nw.LazyFrame,
    segment_model: SegmentModel,
    user_segments: nw.LazyFrame,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    member = segments.memberships(user_segments, n_users=row_count(users), n_segments=segment_model.n_segments)
    return rankings.by_vectors(member, segment_model.movie_probabilities.T, pairs, rated=rated)


def _segment_mixture(
    users: nw.LazyFrame,
    segment_model: SegmentModel,
    user_segments: nw.LazyFrame,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    affinity = segments.affinities(user_segments, n_users=row_count(users), n_segments=segment_model.n_segments)
    return rankings.by_vectors(affinity, segment_model.movie_probabilities.T, pairs, rated=rated)


ENTRIES = (
    Entry("popularity", "next_movie", by_popularity),
    Entry("segment_list", "next_movie", _segment_list),
    Entry("segment_mixture", "next_movie", _segment_mixture),
)
