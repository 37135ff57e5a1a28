"""Ingest: raw tables per landed batch, and the users, items and ratings that they merge into.

Batches are judged in `home.batches`. The merge is in `recommender.ingest.merge`. `landing_watch` decides when a batch
is ingested.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
import narwhals as nw

from recsys_assets.home.batches import RAW_TABLES, Accepted, Batch, forget_refusal, record_refusal, refused_batches
from recsys_assets.home.data_kind import keep_kind, kept_kind, known_kind
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.landed import fingerprint
from recsys_assets.home.layout import Home
from recsys_assets.home.merged import MergedWith
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import TableWithState
from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pipeline_asset, tables_of_one_step
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.orchestration.verdicts import UnreadBatchesError, read_each
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
ACCEPTED = "batches_are_accepted"
# The check lists this many batches and counts the rest.
_NAMED = 20
_FIRST = dg.AssetKey(RAW_TABLES[0])
# Names and releases of the batches before this one. A range of batches is one run, so earlier batches of the same run
# count as well: without them, two releases of MovieLens in one run would pass.
_Known = list[tuple[str, str | None]]


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


def _newest(instance: dg.DagsterInstance, batch: str) -> dg.EventLogRecord | None:
    """The newest materialization of `rejected_rows` for a batch."""
    wanted = dg.AssetRecordsFilter(asset_key=_FIRST, asset_partitions=[batch])
    return next(iter(instance.fetch_materializations(wanted, limit=1).records), None)


def releases(instance: dg.DagsterInstance) -> Iterator[tuple[str, str | None]]:
    """Name and MovieLens release of each known batch; the release is None for other data."""
    for name in instance.get_dynamic_partitions(str(BATCHES.name)):
        record = _newest(instance, name)
        materialization = record.asset_materialization if record else None
        recorded = materialization.metadata.get(RELEASE) if materialization else None
        yield name, str(recorded.value) if recorded else None


@tables_of_one_step(
    group="ingest",
    tables={
        "rejected_rows": "The rejected rows of each batch, with file, line, reason and text. A batch with too many "
        "rejected rows (`data.max_rejected_share`) is refused, before any of its rows are stored.",
        "raw_ratings": "The ratings of each batch with the ids of the source. Bad rows are in `rejected_rows`.",
        "raw_users": "The users that each batch describes, with their attributes. A batch without described users "
        "has no rows.",
        "raw_items": "The items that each batch describes, with title, year and genres. A batch without described "
        "items has no rows.",
    },
    partitions_def=BATCHES,
    settings=("data",),
    check_specs=[
        dg.AssetCheckSpec(
            ACCEPTED,
            asset="rejected_rows",
            description="Every landed batch was accepted when batches were last read. Execute the check to look again.",
        )
    ],
)
def raw_tables(
    context: dg.AssetExecutionContext, home: HomeResource, settings: SettingsParam
) -> Iterator[dg.Output[Batches] | dg.AssetCheckResult]:
    """The raw tables of every batch of the run: each batch is judged once, before any batch is stored.

    Raises:
        UnreadBatchesError: some batches cannot be read. The step then stores nothing of any batch.
    """
    if not context.selected_asset_keys:
        yield _judgement(home.folders, {})
        return
    known = _Known(
        (name, release) for name, release in releases(context.instance) if name not in context.partition_keys
    )
    kind = known_kind(home.folders, settings.data)
    facts = dict[str, Mapping[str, str | int]]()

    def read(name: str) -> Batch:
        try:
            # Hashing comes before judging: any other error here is a fault of the system and not of the batch.
            content = fingerprint(home.folders.batch(name))
            batch = Batch.open(home.folders, name, settings.data, home.scratch)
            accepted = batch.accept(content, known, settings.data.max_rejected_share, kind)
        except SourceError as error:
            record_refusal(home.folders, name, str(error))
            raise
        keep_kind(home.folders, batch.tables.kind)
        forget_refusal(home.folders, name)
        known.append((name, accepted.release))
        context.log.debug(f"Batch {name} is accepted: {accepted.format}, {accepted.ratings:,} ratings")
        if accepted.cleaned:
            context.log.warning(f"Batch {name}: control characters removed from {accepted.cleaned:,} texts")
        if accepted.not_rated:
            context.log.info(f"Batch {name}: {accepted.not_rated:,} rows without a rating are left out")
        facts[name] = _facts(accepted)
        return batch

    batches, verdicts = read_each(context, read)
    is_checked = bool(context.selected_asset_check_keys)
    if verdicts:
        if is_checked:
            yield _judgement(home.folders, verdicts)
        raise UnreadBatchesError(verdicts.values())
    for table in RAW_TABLES:
        if (key := dg.AssetKey(table)) not in context.selected_asset_keys:
            continue
        for name, found in facts.items():
            context.add_asset_metadata(found, asset_key=key, partition_key=name)
        yield dg.Output({name: _table(batch, table, facts[name]) for name, batch in batches.items()}, table)
    # A result belongs to the materialization before it.
    if is_checked:
        yield _judgement(home.folders, {})


def _table(batch: Batch, table: str, facts: Mapping[str, str | int]) -> nw.LazyFrame:
    if table == "rejected_rows" and not facts[_REJECTED]:
        # Unless it is a plain CSV, looking for them takes as long as storing the ratings.
        return lazy(empty(TABLES[table]))
    return lazy(batch.table(table))


def _judgement(home: Home, unread: Iterable[str]) -> dg.AssetCheckResult:
    """Whether every landed batch is accepted.

    The result quotes no row, because it stays in the run history.

    Args:
        home: the home with the landing folder.
        unread: batches that this run could not read.
    """
    names = sorted({*refused_batches(home), *unread})
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return dg.AssetCheckResult(
        check_name=ACCEPTED,
        asset_key=_FIRST,
        passed=not names,
        # The run that cannot read a batch fails. The runs after it go on without the batch.
        severity=dg.AssetCheckSeverity.WARN,
        description=f"not read: {listed}; `recsys-assets batches` says why" if names else None,
        metadata={"refused batches": len(names)},
    )


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


ASSETS = [raw_tables, users, items, ratings]
