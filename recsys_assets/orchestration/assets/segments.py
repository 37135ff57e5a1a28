"""Segments (case study B): what the LDA model says of movies and users. The model itself is made by `models`."""

from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.home.versions import STATE_FOLDER, AssetStore, TableWithState
from recsys_assets.orchestration.assets.common import LAST, TABLE_KINDS, pictures, pipeline_asset
from recsys_assets.orchestration.io_managers import AssetIOManager
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.models.segments import ComparedSegments, SegmentModel, SizedSegments
from recsys_assets.recommender.registry.derived import SEGMENT_RATINGS, USER_SEGMENTS
from recsys_assets.recommender.report import charts, segment_charts


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
    context.add_output_metadata(pictures("segment cards", segment_charts.segment_sheets, listed, user_segments, users))
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
    given = {"segment_model": segment_model, "train_histories": train_histories, "test_histories": test_histories}
    assigned = USER_SEGMENTS.make(given, {})
    context.add_output_metadata(
        pictures("users per segment", segment_charts.users_per_segment, assigned)
        | pictures("three example users", segment_charts.example_affinities, assigned, users)
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
    rated = SEGMENT_RATINGS.make({"train_histories": train_histories, "user_segments": user_segments}, {})
    context.add_output_metadata(pictures("mean rating by segment", segment_charts.rating_by_segment, rated, movies))
    return rated


@pipeline_asset(group="segments", kinds=TABLE_KINDS, op_tags=LAST)
def segment_shares(
    context: dg.AssetExecutionContext,
    segment_model: SegmentModel,
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    user_segments: nw.LazyFrame,
    io_manager: dg.ResourceParam[AssetIOManager],
) -> TableWithState:
    """Each segment's share of the users' affinity, beside that of its partner in the refresh before.

    Two fits number their segments otherwise, so partners are found by the similarity of their movies, by the movies'
    own ids. A fit on slightly other ratings moves shares by itself; a low similarity says that the partner is another
    taste. Segments, or segments of before, without a partner have none in the table; in the first refresh, all.

    What the next refresh is compared with is kept in this asset alone, whatever becomes of older versions. If nothing
    has changed since it was made (the same run again, this asset by itself, a refresh without new ratings), it stays
    compared with the last segments that were others: "before" never means the same segments.
    """
    index = Index.of(users, movies)
    index.require(segment_model.index, "segment_model")
    present = SizedSegments.of(segment_model, user_segments, movies, n_users=index.n_users)
    before = _last_compared(context, io_manager.store)
    compared = before.followed_by(present) if before else ComparedSegments(present)
    context.add_output_metadata(_shift(compared.table))
    return TableWithState(lazy(compared.table), compared)


def _last_compared(context: dg.AssetExecutionContext, store: AssetStore) -> ComparedSegments | None:
    """What this asset holds; None before the first refresh, and where it cannot be read any more."""
    path = context.asset_key.path
    if not store.has(path):
        return None
    try:
        return ComparedSegments.load(store.current(path) / STATE_FOLDER)
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        context.log.warning(f"The segments of the refresh before cannot be read, so there is no comparison: {error}")
        return None


def _shift(segment_shares: pl.DataFrame) -> dict[str, Any]:
    """The numbers that the UI plots over materializations, where there is something before, and the picture."""
    picture = pictures("shares", charts.segment_shares, lazy(segment_shares))
    moved = segments.share_shift(segment_shares)
    if moved is None:
        return {**picture}
    which, shift = segments.largest_shift(segment_shares)
    return {
        "share of the affinity that moved": moved,
        "largest shift": abs(shift),
        "largest shift of": which,
        "mean similarity of partners": float(segment_shares.select(pl.col("similarity").mean()).item() or 0.0),
        **picture,
    }


ASSETS = [segment_movies, user_segments, segment_ratings, segment_shares]
