"""Ingest: what landed, batch by batch, and the one catalogue it merges into."""

from collections.abc import Callable

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.assets.common import TABLE_KINDS, pipeline_asset
from recsys_assets.partitions import BATCHES
from recsys_assets.recommender.frames import lazy
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.sources import SourceTables, read_source
from recsys_assets.resources import HomeResource

Batches = dict[str, nw.LazyFrame]


def _read(
    context: dg.AssetExecutionContext, home: HomeResource, table: Callable[[SourceTables], pl.LazyFrame]
) -> Batches:
    """One table of every batch of the run, in their order of arrival."""
    return {
        name: lazy(table(read_source(home.folders.batch(name), scratch=home.scratch / name)))
        for name in context.partition_keys
    }


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES)
def raw_ratings(context: dg.AssetExecutionContext, home: HomeResource) -> Batches:
    """The ratings of each batch as they stand in its source, with original ids; bad rows are in `rejected_rows`."""
    return _read(context, home, lambda source: source.ratings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES)
def raw_users(context: dg.AssetExecutionContext, home: HomeResource) -> Batches:
    """The users each batch describes, with whatever attributes it gives; no rows where it describes none."""
    return _read(context, home, lambda source: source.users)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES)
def raw_movies(context: dg.AssetExecutionContext, home: HomeResource) -> Batches:
    """The movies each batch describes: title, year, genres."""
    return _read(context, home, lambda source: source.movies)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES)
def rejected_rows(context: dg.AssetExecutionContext, home: HomeResource) -> Batches:
    """The rows of each batch that break a rule, with file, line, reason and text."""
    return _read(context, home, lambda source: source.rejected)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS)
def users(raw_users: Batches, raw_ratings: Batches) -> nw.LazyFrame:
    """Every user of any batch with a dense index, by first batch, then id; attributes from the newest batch."""
    return merge.index_users(list(raw_users.values()), list(raw_ratings.values()))


@pipeline_asset(group="ingest", kinds=TABLE_KINDS)
def movies(raw_movies: Batches, raw_ratings: Batches) -> nw.LazyFrame:
    """The whole catalogue, rated or not, with a dense index, given out by first batch, then id."""
    return merge.index_movies(list(raw_movies.values()), list(raw_ratings.values()))


@pipeline_asset(group="ingest", kinds=TABLE_KINDS)
def ratings(raw_ratings: Batches, users: nw.LazyFrame, movies: nw.LazyFrame) -> nw.LazyFrame:
    """The latest rating per (user, movie) over all batches: by timestamp, then batch, then row.

    Its data version covers ids, ratings and timestamps but not the order of rows, so that a batch that is sent again
    in another order changes nothing.
    """
    return merge.merge_ratings(list(raw_ratings.values()), users, movies)


ASSETS = [raw_ratings, raw_users, raw_movies, rejected_rows, users, movies, ratings]
