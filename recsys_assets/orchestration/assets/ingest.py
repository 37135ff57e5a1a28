"""Ingest: what landed, batch by batch, and the one catalogue it merges into."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
import narwhals as nw

from recsys_assets.home.batches import Accepted, Batch
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.landed import fingerprint
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pipeline_asset
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.orchestration.verdicts import read_each
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.leaving_out import sample_users, without_users

Batches = dict[str, nw.LazyFrame]
# By this the automation knows whether what lies in landing/ is what was ingested.
SOURCE_FINGERPRINT = "source fingerprint"
# By this a run knows whether `ratings` holds what it should: the batches, who was left out, the sample.
MERGED_FROM = "merged from"
_FORMAT, _SCALE, RELEASE = "format", "rating scale", "MovieLens release"
_REJECTED, _CLEANED = "rejected rows", "cleaned texts"
# What is known of a batch that may come in, recorded with each of its raw tables.
_FACTS = {SOURCE_FINGERPRINT, _FORMAT, _SCALE, RELEASE, _REJECTED, _CLEANED}
# A range of batches in order of arrival is read in one go, so a later one must be held against those before it.
_Known = list[tuple[str, str | None]]


def _read(context: dg.AssetExecutionContext, home: HomeResource, settings: Settings) -> Batches:
    """One table of every batch of the run; none if one of them is refused.

    A run judges a batch once, in its first step; the others take over what that has found.
    """
    table, known = context.asset_key.path[-1], _Known(_ingested(context))

    def judged(batch: Batch, content: str) -> Mapping[str, str | int]:
        accepted = batch.accept(content, known, settings.data.max_rejected_share)
        known.append((batch.name, accepted.release))
        context.log.debug(f"Batch {batch.name} is accepted: {accepted.format}, {accepted.ratings:,} ratings")
        if accepted.cleaned:
            context.log.warning(f"Batch {batch.name}: control characters taken out of {accepted.cleaned:,} texts")
        return _facts(accepted)

    def read(name: str) -> nw.LazyFrame:
        # Looked up and hashed before it is judged: what the disk or the system refuses here is no fault of the source.
        source, found = home.folders.batch(name), _found_in_this_run(context, name)
        content = "" if found else fingerprint(source)
        batch = Batch.open(home.folders, name, settings.data, home.scratch)
        facts = found or judged(batch, content)
        context.add_asset_metadata(facts, asset_key=context.asset_key, partition_key=name)
        return lazy(batch.table(table))

    return read_each(context, read)


def _facts(accepted: Accepted) -> Mapping[str, str | int]:
    facts: dict[str, str | int] = {
        SOURCE_FINGERPRINT: accepted.fingerprint,
        _FORMAT: accepted.format,
        _SCALE: f"{accepted.low:g} to {accepted.high:g}",
        _REJECTED: accepted.rejected,
        _CLEANED: accepted.cleaned,
    }
    return facts | ({RELEASE: accepted.release} if accepted.release else {})


def _found_in_this_run(context: dg.AssetExecutionContext, batch: str) -> Mapping[str, dg.MetadataValue]:
    """What the first step of this run, or of the one that it goes on with, has recorded of a batch, if anything."""
    record = _newest(context, batch) if context.asset_key != rejected_rows.key else None
    run = context.run
    if record is None or record.run_id not in (run.run_id, run.parent_run_id, run.root_run_id):
        return {}
    materialization = record.asset_materialization
    assert materialization is not None
    return {name: value for name, value in materialization.metadata.items() if name in _FACTS}


def _newest(context: dg.AssetExecutionContext, batch: str) -> dg.EventLogRecord | None:
    """The newest materialization of `rejected_rows` of a batch."""
    wanted = dg.AssetRecordsFilter(asset_key=rejected_rows.key, asset_partitions=[batch])
    return next(iter(context.instance.fetch_materializations(wanted, limit=1).records), None)


def _ingested(context: dg.AssetExecutionContext) -> Iterator[tuple[str, str | None]]:
    """Name and MovieLens release of the batches that are there and not read in this run."""
    here = set(context.partition_keys)
    for name in context.instance.get_dynamic_partitions(str(BATCHES.name)):
        if name in here:
            continue
        record = _newest(context, name)
        materialization = record.asset_materialization if record else None
        recorded = materialization.metadata.get(RELEASE) if materialization else None
        yield name, str(recorded.value) if recorded else None


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, settings=("data",))
def rejected_rows(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The rows of each batch that break a rule, with file, line, reason and text.

    First of the raw tables: a batch with too many of them is refused before anything of it is stored.
    """
    return _read(context, home, settings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, deps=[rejected_rows], settings=("data",))
def raw_ratings(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The ratings of each batch as they stand in its source, with original ids; bad rows are in `rejected_rows`."""
    return _read(context, home, settings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, deps=[rejected_rows], settings=("data",))
def raw_users(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The users each batch describes, with whatever attributes it gives; no rows where it describes none."""
    return _read(context, home, settings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, deps=[rejected_rows], settings=("data",))
def raw_movies(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The movies each batch describes: title, year, genres."""
    return _read(context, home, settings)


def _of_others(batches: Batches, home: HomeResource) -> list[nw.LazyFrame]:
    """Of every batch, the rows of users who are not to be forgotten."""
    forgotten = forgotten_users(home.folders)
    return [without_users(rows, forgotten) for rows in batches.values()]


def merged_from(batches: Iterable[str], home: Home, settings: Settings) -> dict[str, object]:
    """What `ratings` rests on, as its metadata says: the batches in order, who was left out, the sample."""
    return {
        "batches": list(batches),
        "forgotten": len(forgotten_users(home)),
        "sample": settings.data.sample.model_dump(),
    }


def rests_on(instance: dg.DagsterInstance) -> Mapping[str, Any]:
    """What the stored `ratings` was merged from, in the form of `merged_from`; nothing where that is not known."""
    records = instance.fetch_materializations(dg.AssetKey("ratings"), limit=1).records
    materialization = records[0].asset_materialization if records else None
    recorded = materialization.metadata.get(MERGED_FROM) if materialization else None
    return recorded.value if isinstance(recorded, dg.JsonMetadataValue) and isinstance(recorded.value, dict) else {}


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, settings=("data",))
def users(raw_users: Batches, raw_ratings: Batches, home: HomeResource, settings: SettingsParam) -> nw.LazyFrame:
    """Every user of any batch with a dense index, by first batch, then id; attributes from the newest batch.

    With `[data.sample]` only a share of them, chosen by a hash.
    """
    everybody = merge.index_users(_of_others(raw_users, home), _of_others(raw_ratings, home))
    return sample_users(everybody, **settings.data.sample.model_dump())


@pipeline_asset(group="ingest", kinds=TABLE_KINDS)
def movies(raw_movies: Batches, raw_ratings: Batches, home: HomeResource) -> nw.LazyFrame:
    """The whole catalogue, rated or not, with a dense index, given out by first batch, then id."""
    return merge.index_movies(list(raw_movies.values()), _of_others(raw_ratings, home))


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, settings=("data",))
def ratings(
    context: dg.AssetExecutionContext,
    raw_ratings: Batches,
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    home: HomeResource,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """The latest rating per (user, movie) over all batches: by timestamp, then batch, then row.

    Its data version covers ids, ratings and timestamps but not the order of rows, so that a batch that is sent again
    in another order changes nothing.
    """
    rests_on = merged_from(raw_ratings, home.folders, settings)
    context.add_output_metadata({MERGED_FROM: dg.MetadataValue.json(rests_on)})
    return merge.merge_ratings(list(raw_ratings.values()), users, movies)


ASSETS = [rejected_rows, raw_ratings, raw_users, raw_movies, users, movies, ratings]
