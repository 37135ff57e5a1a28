"""Segments (case study B): the items, users and shares of each segment of the LDA model.

`models` fits the LDA model. The methods are in `recommender.models.segments`. Groups by attributes are `clusters`.
"""

from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.home.versions import STATE_FOLDER, AssetDamagedError, AssetStore, TableWithState, load
from recsys_assets.orchestration.assets.common import LAST, TABLE_KINDS, pictures, pipeline_asset, plotted
from recsys_assets.orchestration.io_managers import AssetIOManager
from recsys_assets.recommender.data.frames import in_memory, lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.models.segments import ComparedSegments, SegmentModel, SizedSegments
from recsys_assets.recommender.registry.derived import SEGMENT_RATINGS, USER_SEGMENTS
from recsys_assets.recommender.report import charts, segment_charts


@pipeline_asset(group="segments", kinds=TABLE_KINDS, op_tags=LAST)
def segment_items(
    context: dg.AssetExecutionContext,
    segment_model: SegmentModel,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    user_segments: nw.LazyFrame,
) -> nw.LazyFrame:
    """The first items of each segment by probability, and the first by lift: P(item | segment) / P(item).

    The segment cards in the metadata show both lists and the users of the segment.
    """
    Index.of(users, items).require(segment_model.index, "segment_model")
    listed = lazy(segments.top_items(segment_model, items, train_histories))
    context.add_output_metadata(pictures("segment cards", segment_charts.segment_sheets, listed, user_segments, users))
    return listed


@pipeline_asset(group="segments", kinds=TABLE_KINDS)
def user_segments(
    context: dg.AssetExecutionContext,
    segment_model: SegmentModel,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    test_histories: nw.LazyFrame,
) -> nw.LazyFrame:
    """The affinity of each user to every segment, and the segment of highest affinity.

    Affinities come from the user's history alone, not from the response. The affinities of a user sum to 1.
    """
    Index.of(users, items).require(segment_model.index, "segment_model")
    given = {"segment_model": segment_model, "train_histories": train_histories, "test_histories": test_histories}
    assigned = USER_SEGMENTS.make(given, {})
    # Each use of a Spark frame infers all affinities again.
    drawn = in_memory(assigned)
    context.add_output_metadata(
        pictures("users per segment", segment_charts.users_per_segment, drawn)
        | pictures("three example users", segment_charts.example_affinities, drawn, in_memory(users))
    )
    return assigned


@pipeline_asset(group="segments", kinds=TABLE_KINDS)
def segment_ratings(
    context: dg.AssetExecutionContext,
    train_histories: nw.LazyFrame,
    user_segments: nw.LazyFrame,
    items: nw.LazyFrame,
) -> nw.LazyFrame:
    """Number and mean of the train users' ratings per (segment, item). A pair without ratings has no row."""
    rated = SEGMENT_RATINGS.make({"train_histories": train_histories, "user_segments": user_segments}, {})
    context.add_output_metadata(pictures("mean rating by segment", segment_charts.rating_by_segment, rated, items))
    return rated


@pipeline_asset(group="segments", kinds=TABLE_KINDS, op_tags=LAST)
def segment_shares(
    context: dg.AssetExecutionContext,
    segment_model: SegmentModel,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    user_segments: nw.LazyFrame,
    io_manager: dg.ResourceParam[AssetIOManager],
) -> TableWithState:
    """The share of each segment in the users' affinity, beside the share of the matching segment of the previous fit.

    The numbers of segments change with every fit. Segments of two fits are therefore matched by the similarity of their
    item distributions. A low similarity means that the matching segment has another taste. A fit on slightly different
    ratings moves shares by itself. A segment without a match has nulls in the columns of the other fit. After the first
    fit, no segment has a match.

    This asset stores the previous segments in its own state, so that they do not depend on older versions of other
    assets. If the segments have not changed (a retry, a refresh without new ratings), the comparison with the last
    different segments stays.
    """
    index = Index.of(users, items)
    index.require(segment_model.index, "segment_model")
    present = SizedSegments.of(segment_model, user_segments, items, n_users=index.n_users)
    before = _last_compared(context, io_manager.store)
    compared = before.followed_by(present) if before else ComparedSegments(present)
    context.add_output_metadata(_shift(compared.table))
    return TableWithState(lazy(compared.table), compared)


def _last_compared(context: dg.AssetExecutionContext, store: AssetStore) -> ComparedSegments | None:
    """The state of this asset; None before the first refresh, and if the state cannot be read."""
    path = context.asset_key.path
    if not store.has(path):
        return None
    try:
        return load(ComparedSegments, store.current(path) / STATE_FOLDER)
    except AssetDamagedError as error:
        context.log.warning(f"The segments of the refresh before cannot be read, so there is no comparison: {error}")
        return None


def _shift(segment_shares: pl.DataFrame) -> dict[str, Any]:
    """Metadata of the shares: the chart, and the numbers that the UI plots if there is a previous fit."""
    picture = pictures("shares", charts.segment_shares, lazy(segment_shares))
    moved = segments.share_shift(segment_shares)
    if moved is None:
        return {**picture}
    which, shift = segments.largest_shift(segment_shares)
    return {
        "share of the affinity that moved": plotted(moved),
        "largest shift": plotted(abs(shift)),
        "largest shift of": which,
        "mean similarity of partners": plotted(segment_shares.select(pl.col("similarity").mean()).item() or 0.0),
        **picture,
    }


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The segments of a kind of data; a mean rating per segment needs ratings."""
    rated = [] if kind.is_events else [segment_ratings]
    return [segment_items, user_segments, *rated, segment_shares]
