"""Segments (case study B): what the LDA model says of movies and users. The model itself is made by `models`."""

import dagster as dg
import narwhals as nw

from recsys_assets.assets.common import LAST, TABLE_KINDS, picture, pipeline_asset
from recsys_assets.recommender import segments
from recsys_assets.recommender.frames import lazy
from recsys_assets.recommender.index import Index
from recsys_assets.recommender.report import segment_charts
from recsys_assets.recommender.segments import SegmentModel


@pipeline_asset(group="segments", kinds=TABLE_KINDS, op_tags=LAST)
def segment_movies(
    context: dg.AssetExecutionContext,
    segment_model: SegmentModel,
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    user_segments: nw.LazyFrame,
) -> nw.LazyFrame:
    """The movies that are first in each segment by probability, or by lift: how many times as probable as in all.

    The cards in the metadata show both lists, and who is in the segment.
    """
    Index.of(users, movies).require(segment_model.index, "segment_model")
    listed = lazy(segments.top_movies(segment_model, movies, train_histories))
    sheets = segment_charts.segment_sheets(listed, user_segments, users)
    context.add_output_metadata({f"segment cards {page}": picture(sheet) for page, sheet in enumerate(sheets, 1)})
    return listed


@pipeline_asset(group="segments", kinds=TABLE_KINDS)
def user_segments(
    context: dg.AssetExecutionContext,
    segment_model: SegmentModel,
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    test_histories: nw.LazyFrame,
) -> nw.LazyFrame:
    """Each user's affinity to every segment, from its history alone, and its segment of highest affinity."""
    Index.of(users, movies).require(segment_model.index, "segment_model")
    assigned = lazy(segments.assign(segment_model, train_histories, test_histories))
    context.add_output_metadata(
        {
            "users per segment": picture(segment_charts.users_per_segment(assigned)),
            "three example users": picture(segment_charts.example_affinities(assigned, users)),
        }
    )
    return assigned


@pipeline_asset(group="segments", kinds=TABLE_KINDS)
def segment_ratings(
    context: dg.AssetExecutionContext,
    train_histories: nw.LazyFrame,
    user_segments: nw.LazyFrame,
    movies: nw.LazyFrame,
) -> nw.LazyFrame:
    """Number and mean of the train users' ratings per (segment, movie); a pair that nobody rated has no row."""
    rated = segments.ratings_by_segment(train_histories, user_segments)
    context.add_output_metadata({"mean rating by segment": picture(segment_charts.rating_by_segment(rated, movies))})
    return rated


ASSETS = [segment_movies, user_segments, segment_ratings]
