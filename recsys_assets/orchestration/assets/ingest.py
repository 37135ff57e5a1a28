"""Ingest: raw tables per landed batch, and the users, items and ratings that they merge into.

Batches are judged in `home.batches`. The merge is in `recommender.ingest.merge`. `landing_watch` decides when a batch
is ingested.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
import narwhals as nw

from recsys_assets.home.batches import Accepted, Batch, forget_refusal, record_refusal
from recsys_assets.home.data_kind import keep_kind, kept_kind, known_kind
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.landed import fingerprint
from recsys_assets.home.layout import Home
from recsys_assets.home.merged import MergedWith
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import TableWithState
from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pipeline_asset
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.orchestration.verdicts import read_each
from recsys_assets.recommender.data.frames import empty, lazy
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.leaving_out import sample_users, without_users

Batches = dict[str, nw.LazyFrame]
# Metadata that tells the sensor whether a landed batch has changed since it was ingested.
SOURCE_FINGERPRINT = "source fingerprint"
# Metadata that tells a run whether `ratings` is up to date: its batches, its excluded users, its settings.
MERGED_FROM = "merged from"
_FORMAT, _SCALE, RELEASE = "format", "rating scale", "MovieLens release"
_REJECTED, _CLEANED, _NOT_RATED = "rejected rows", "cleaned texts", "rows that are not rated"
# Metadata of an accepted batch, recorded with each of its raw tables.
_FACTS = {SOURCE_FINGERPRINT, _FORMAT, _SCALE, RELEASE, _REJECTED, _CLEANED, _NOT_RATED}
# Names and releases of the batches before this one. A range of batches is one run, so earlier batches of the same run
# count as well: without them, two releases of MovieLens in one run would pass.
_Known = list[tuple[str, str | None]]


def _read(context: dg.AssetExecutionContext, home: HomeResource, settings: Settings) -> Batches:
    """The table of this asset for every batch of the run.

    The first step of a run, `rejected_rows`, judges each batch. Later steps take over its result.

    Raises:
        UnreadBatchesError: some batches cannot be read. The step then stores nothing of any batch.
    """
    table, known = (
        context.asset_key.path[-1],
        _Known((name, release) for name, release in releases(context.instance) if name not in context.partition_keys),
    )
    kind = known_kind(home.folders, settings.data)

    def judged(batch: Batch, content: str) -> Mapping[str, str | int]:
        accepted = batch.accept(content, known, settings.data.max_rejected_share, kind)
        keep_kind(home.folders, batch.tables.kind)
        forget_refusal(home.folders, batch.name)
        known.append((batch.name, accepted.release))
        context.log.debug(f"Batch {batch.name} is accepted: {accepted.format}, {accepted.ratings:,} ratings")
        if accepted.cleaned:
            context.log.warning(f"Batch {batch.name}: control characters removed from {accepted.cleaned:,} texts")
        if accepted.not_rated:
            context.log.info(f"Batch {batch.name}: {accepted.not_rated:,} rows without a rating are left out")
        return _facts(accepted)

    def read(name: str) -> nw.LazyFrame:
        # Hashing comes before judging: an I/O error here is a fault of the system and not of the batch.
        source, found = home.folders.batch(name), _found_in_this_run(context, name)
        content = "" if found else fingerprint(source)
        try:
            batch = Batch.open(home.folders, name, settings.data, home.scratch)
            facts = found or judged(batch, content)
        except SourceError as error:
            record_refusal(home.folders, name, str(error))
            raise
        context.add_asset_metadata(facts, asset_key=context.asset_key, partition_key=name)
        if table == "rejected_rows" and not facts[_REJECTED]:
            # Unless it is a plain CSV, looking for them takes as long as storing the ratings.
            return lazy(empty(TABLES[table]))
        return lazy(batch.table(table))

    return read_each(context, read)


def _facts(accepted: Accepted) -> Mapping[str, str | int]:
    facts: dict[str, str | int] = {
        SOURCE_FINGERPRINT: accepted.fingerprint,
        _FORMAT: accepted.format,
        _REJECTED: accepted.rejected,
        _CLEANED: accepted.cleaned,
    }
    if accepted.not_rated:
        facts[_NOT_RATED] = accepted.not_rated
    if accepted.low is not None:
        facts[_SCALE] = f"{accepted.low:g} to {accepted.high:g}"
    return facts | ({RELEASE: accepted.release} if accepted.release else {})


def _found_in_this_run(context: dg.AssetExecutionContext, batch: str) -> Mapping[str, dg.MetadataValue]:
    """Metadata of a batch that `rejected_rows` recorded in this run, or in the run that this run retries."""
    record = _newest(context.instance, batch) if context.asset_key != rejected_rows.key else None
    run = context.run
    if record is None or record.run_id not in (run.run_id, run.parent_run_id, run.root_run_id):
        return {}
    materialization = record.asset_materialization
    assert materialization is not None
    return {name: value for name, value in materialization.metadata.items() if name in _FACTS}


def _newest(instance: dg.DagsterInstance, batch: str) -> dg.EventLogRecord | None:
    """The newest materialization of `rejected_rows` for a batch."""
    wanted = dg.AssetRecordsFilter(asset_key=rejected_rows.key, asset_partitions=[batch])
    return next(iter(instance.fetch_materializations(wanted, limit=1).records), None)


def releases(instance: dg.DagsterInstance) -> Iterator[tuple[str, str | None]]:
    """Name and MovieLens release of each known batch; the release is None for other data."""
    for name in instance.get_dynamic_partitions(str(BATCHES.name)):
        record = _newest(instance, name)
        materialization = record.asset_materialization if record else None
        recorded = materialization.metadata.get(RELEASE) if materialization else None
        yield name, str(recorded.value) if recorded else None


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, settings=("data",))
def rejected_rows(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The rejected rows of each batch, with file, line, reason and text.

    This asset is the first of the raw tables. A batch with too many rejected rows (`data.max_rejected_share`) is
    refused here, before any of its rows are stored.
    """
    return _read(context, home, settings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, deps=[rejected_rows], settings=("data",))
def raw_ratings(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The ratings of each batch with the ids of the source. Bad rows are in `rejected_rows`."""
    return _read(context, home, settings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, deps=[rejected_rows], settings=("data",))
def raw_users(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The users that each batch describes, with their attributes. A batch without described users has no rows."""
    return _read(context, home, settings)


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, partitions_def=BATCHES, deps=[rejected_rows], settings=("data",))
def raw_items(context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam) -> Batches:
    """The items that each batch describes, with title, year and genres. A batch without described items has no rows."""
    return _read(context, home, settings)


def _of_others(batches: Batches, home: HomeResource) -> list[nw.LazyFrame]:
    """The rows of each batch without the users on the exclusion list."""
    forgotten = forgotten_users(home.folders)
    return [without_users(rows, forgotten) for rows in batches.values()]


def merged_from(batches: Iterable[str], home: Home, settings: Settings) -> dict[str, object]:
    """The inputs of `ratings` as its metadata records them: batches in order, number of excluded users, settings."""
    return {
        "batches": list(batches),
        "forgotten": len(forgotten_users(home)),
        **MergedWith.of(home, settings).settings,
    }


def rests_on(instance: dg.DagsterInstance) -> Mapping[str, Any]:
    """The recorded inputs of the stored `ratings`, in the form of `merged_from`; empty if none are recorded."""
    records = instance.fetch_materializations(dg.AssetKey("ratings"), limit=1).records
    materialization = records[0].asset_materialization if records else None
    recorded = materialization.metadata.get(MERGED_FROM) if materialization else None
    return recorded.value if isinstance(recorded, dg.JsonMetadataValue) and isinstance(recorded.value, dict) else {}


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, settings=("data",))
def users(raw_users: Batches, raw_ratings: Batches, home: HomeResource, settings: SettingsParam) -> nw.LazyFrame:
    """The users of all batches, each with its dense id.

    Dense ids are assigned in the order of a user's first batch, then of its id in the source. Attributes come from the
    newest batch that describes the user. Users on the exclusion list are left out. With `data.sample.share` below 1,
    only a share of the users is kept, chosen by a hash of the dense id.
    """
    everybody = merge.index_users(_of_others(raw_users, home), _of_others(raw_ratings, home))
    return sample_users(everybody, **settings.data.sample.model_dump())


@pipeline_asset(group="ingest", kinds=TABLE_KINDS)
def items(raw_items: Batches, raw_ratings: Batches, home: HomeResource) -> nw.LazyFrame:
    """The items of all batches, rated or not, each with its dense id.

    Dense ids are assigned in the order of an item's first batch, then of its id in the source.
    """
    return merge.index_items(list(raw_items.values()), _of_others(raw_ratings, home))


@pipeline_asset(group="ingest", kinds=TABLE_KINDS, settings=("data",))
def ratings(
    context: dg.AssetExecutionContext,
    raw_ratings: Batches,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    home: HomeResource,
    settings: SettingsParam,
) -> TableWithState:
    """The latest rating per (user, item) of all batches; for events, the damped sum of their weights.

    If timestamps tie, the later batch counts, then the later row. The data version covers ids, ratings and timestamps
    but not the order of rows. The same batch sent again with its rows in another order therefore changes nothing. Of
    events, `n_events` counts them, and `timestamp` is the time of the last one. Where there are several times,
    `known_ratings` and `known_n_events` say what was known from each time in `known_timestamps` on.
    """
    rests_on = merged_from(raw_ratings, home.folders, settings)
    context.add_output_metadata({MERGED_FROM: dg.MetadataValue.json(rests_on)})
    batches = list(raw_ratings.values())
    if kept_kind(home.folders).is_events:
        merged = merge.add_up_events(batches, users, items, damping=settings.data.event_damping)
    else:
        merged = merge.merge_ratings(batches, users, items)
    return TableWithState(merged, MergedWith.of(home.folders, settings))


ASSETS = [rejected_rows, raw_ratings, raw_users, raw_items, users, items, ratings]
