"""Prunes the run history of a home: runs with their events and logs, and the ticks of sensors and schedules.

Sensors, staleness and checks read the newest materialization of each asset and batch, and the newest results of each
check. These events stay when their run is deleted; they become runless, like events that a person reports in the UI.
Dagster's own `delete_run` would delete them too, and would leave the run's database file and logs behind.

The run history is in SQLite files of the home or in PostgreSQL (`postgres_history`).
"""

import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from sqlalchemy.engine import Connection

from recsys_assets.home.layout import Home
from recsys_assets.home.running import HistorySettings
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.orchestration.assets.ingest import MERGED_FROM, RELEASE, SOURCE_FINGERPRINT
from recsys_assets.orchestration.checks.results import FACTS, needed_evaluations
from recsys_assets.orchestration.dagster_internals import (
    RUNLESS_JOB_NAME,
    RUNLESS_RUN_ID,
    SQLITE_BUSY_TIMEOUT_SECONDS,
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    InstigatorType,
    JobTickTable,
    LocalComputeLogManager,
    RunTagsTable,
    SqlEventLogStorage,
    SqlEventLogStorageTable,
    SqliteEventLogStorage,
    SqlRunStorage,
    SqlScheduleStorage,
    StepMaterializationData,
    TickStatus,
    replace_record,
)
from recsys_assets.orchestration.landing_watch import SENSOR
from recsys_assets.orchestration.postgres_history import erase_deleted_rows, is_postgres, size

# A tick that requested nothing repeats the tick before, and the sensors of a home make 50,000 ticks a day.
_IDLE_TICKS_KEPT = timedelta(hours=6)
_IDLE = (TickStatus.SKIPPED.value, TickStatus.FAILURE.value)
# Metadata that code reads back. An erased history keeps these, numbers and Dagster's own metadata.
_READ_BACK = {SOURCE_FINGERPRINT, MERGED_FROM, RELEASE}
# The newest event of each of these types is the state of an asset.
_OF_STATE = (
    dg.DagsterEventType.ASSET_MATERIALIZATION.value,
    dg.DagsterEventType.FRESHNESS_STATE_CHANGE.value,
)
# Sensors and daemons continue from the id of the last event. If that event were deleted, SQLite would reuse its id.
_PLACEHOLDER = dg.EventLogEntry(
    error_info=None,
    level=logging.INFO,
    user_message="The events before this one were deleted.",
    run_id=RUNLESS_RUN_ID,
    timestamp=0.0,
    step_key=None,
    job_name=RUNLESS_JOB_NAME,
    dagster_event=None,
)
# SQLite refuses a statement with too many variables.
_IDS_PER_STATEMENT = 10_000
# VACUUM rewrites the whole database, so it runs only if more than this share of the pages is free.
_WORTH_SHRINKING = 0.25
# Folders of DAGSTER_HOME with the databases of SQLite.
_SQLITE_FOLDERS = ("history", "schedules")
# Runs that have not started yet.
_NOT_BEGUN = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED)
_EVENTS, _CHECKS = SqlEventLogStorageTable, AssetCheckExecutionsTable


@dataclass(frozen=True)
class Pruned:
    """Result of pruning.

    Attributes:
        runs: number of deleted runs.
        ticks: number of deleted ticks.
        freed: bytes that were freed on disk.
    """

    runs: int
    ticks: int
    freed: int


def prune_history(instance: dg.DagsterInstance, keep: HistorySettings) -> Pruned:
    """Delete old runs and ticks that requested nothing.

    A finished run is deleted if it ended more than `keep_days` ago or is not among the newest `keep_runs`. Unfinished
    runs and the runs that they retry stay. A failed run stays while one of its materializations is the newest of its
    asset, because the sensors ask how that run ended. Pruning may be stopped at any moment and repeated, also while the
    home is served.
    """
    return _Pruning(instance, keep.keep_days, keep.keep_runs).done()


def prune_where_possible(instance: dg.DagsterInstance, home: Home) -> str:
    """Prune as the home's settings say; returns a message for the log, or an empty string.

    A full disk or a locked database is reported in the message and raises no error, because the caller has other work
    to finish. The next pruning tries again.
    """
    try:
        pruned = prune_history(instance, Settings.load(home).history)
    except (OSError, sqlite3.Error, db.exc.SQLAlchemyError, SettingsError) as error:
        return f"The run history was not pruned: {type(error).__name__}: {error}"
    except Exception as error:
        # dagster-postgres wraps the errors of a server that is gone in its own error class.
        if not isinstance(error.__cause__, db.exc.SQLAlchemyError):
            raise
        return f"The run history was not pruned: {error}: {error.__cause__}"
    return f"Run history pruned: {pruned.runs} runs, {pruned.ticks} ticks, {pruned.freed:,} bytes" * bool(
        pruned.runs or pruned.ticks
    )


def erase_history(instance: dg.DagsterInstance) -> Pruned:
    """Delete all runs that have begun, all ticks, and every text and chart in the remaining events and cursors.

    The newest materialization of each asset and batch and the newest results of each check remain, with numbers,
    versions and the metadata that the pipeline reads back. No deleted byte stays in a file of SQLite or in a table of
    PostgreSQL. No other process may use the instance during this call.

    Raises:
        sqlite3.OperationalError, sqlalchemy.exc.OperationalError: another process uses the instance.
    """
    return _Pruning(instance, keep_days=0, keep_runs=0, facts_only=True).done()


def erase_history_of(home: Home) -> None:
    """Erase the run history of a home; `erase_history` says what remains.

    Raises:
        OSError: another process uses the run history.
    """
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        try:
            erase_history(instance)
        except (sqlite3.OperationalError, db.exc.OperationalError) as error:
            raise OSError(f"{error}. End the process that uses it, such as `dg dev`, and repeat the command") from error


class _Pruning:
    """One pruning of an instance.

    Args:
        instance: the instance with the run history.
        keep_days: age in days up to which finished runs stay.
        keep_runs: number of the newest finished runs that may stay.
        facts_only: whether to erase texts and charts from the remaining events, and deleted bytes from the files.
    """

    def __init__(
        self, instance: dg.DagsterInstance, keep_days: float, keep_runs: int, facts_only: bool = False
    ) -> None:
        events, runs, ticks = instance.event_log_storage, instance.run_storage, instance.schedule_storage
        assert isinstance(events, SqlEventLogStorage)
        assert isinstance(runs, SqlRunStorage)
        assert isinstance(ticks, SqlScheduleStorage)
        self._instance, self._events, self._runs, self._ticks = instance, events, runs, ticks
        self._keep_runs, self._facts_only = keep_runs, facts_only
        self._now = datetime.now(UTC).replace(tzinfo=None)
        self._before = self._now - timedelta(days=keep_days)

    def done(self) -> Pruned:
        """Delete in an order that allows an interrupted pruning to be repeated."""
        before = self._bytes()
        with self._events.index_connection() as connection:
            needed = _newest_of_state(connection)
        evaluations = self._needed_evaluations()
        expired = self._expired(needed)
        for run_id in (*expired, RUNLESS_RUN_ID):
            with self._events.index_transaction() as connection:
                self._delete_events(connection, run_id, needed)
                self._delete_evaluations(connection, run_id, evaluations)
        for run_id in expired:
            with self._runs.connect() as connection:
                # Dagster does not delete the tags of a run on SQLite.
                connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id == run_id))
            self._runs.delete_run(run_id)
            self._instance.compute_log_manager.delete_logs(prefix=[run_id])
        ticks = self._delete_ticks()
        self._delete_leftovers()
        if self._facts_only:
            self._erase_texts(evaluations)
            self._erase_quotes()
        for connect in (self._events.index_connection, self._runs.connect, self._ticks.connect):
            with connect() as connection:
                database = connection.engine.url.database if connection.dialect.name == "sqlite" else None
            if database:
                _shrink(Path(database), at_any_rate=self._facts_only)
        if self._facts_only:
            with self._events.index_connection() as connection:
                if is_postgres(connection):
                    erase_deleted_rows(connection)
        return Pruned(len(expired), ticks, before - self._bytes())

    def _bytes(self) -> int:
        """Bytes of the run history on disk."""
        with self._events.index_connection() as connection:
            in_database = size(connection) if is_postgres(connection) else 0
        return in_database + _bytes_below(Path(self._instance.root_directory))

    def _expired(self, needed: Collection[int]) -> list[str]:
        """Ids of the runs to delete."""
        records = self._instance.get_run_records()
        runs = [record.dagster_run for record in records]
        if self._facts_only:
            # No run is at work, so one that has begun and not ended was killed.
            return [run.run_id for run in runs if run.status not in _NOT_BEGUN]
        kept = {
            run_id for run in runs if not run.is_finished for run_id in (run.run_id, run.root_run_id, run.parent_run_id)
        }
        makers = self._makers(needed)
        kept |= {run.run_id for run in runs if run.run_id in makers and run.status != dg.DagsterRunStatus.SUCCESS}
        finished = [record for record in records if record.dagster_run.is_finished]
        return [
            record.dagster_run.run_id
            for place, record in enumerate(finished)
            if record.dagster_run.run_id not in kept and (place >= self._keep_runs or _ended(record) < self._before)
        ]

    def _makers(self, needed: Collection[int]) -> set[str]:
        """Ids of the runs that the events belong to."""
        asked = db.select(_EVENTS.c.run_id).distinct()
        with self._events.index_connection() as connection:
            return {
                run_id
                for part in _in_parts(needed)
                for (run_id,) in connection.execute(asked.where(_EVENTS.c.id.in_(part)))
            }

    def _needed_evaluations(self) -> set[int]:
        with self._events.index_connection() as connection:
            found = connection.execute(db.select(_CHECKS.c.asset_key, _CHECKS.c.check_name).distinct()).fetchall()
        keys = [dg.AssetCheckKey(key, name) for asset, name in found if (key := dg.AssetKey.from_db_string(asset))]
        return {needed for key in keys for needed in needed_evaluations(self._instance, key)}

    def _delete_events(self, connection: Connection, run_id: str, needed: Collection[int]) -> None:
        """Delete the events of a run from the index of all runs. Needed events stay and become runless."""
        of_run = _EVENTS.c.run_id == run_id
        if run_id == RUNLESS_RUN_ID:
            of_run &= _EVENTS.c.timestamp < self._before
        ids = [id_ for (id_,) in connection.execute(db.select(_EVENTS.c.id).where(of_run))]
        last = connection.execute(db.select(db.func.max(_EVENTS.c.id))).scalar()
        for part in _in_parts(id_ for id_ in ids if id_ not in needed and id_ != last):
            connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(part)))
            connection.execute(_EVENTS.delete().where(_EVENTS.c.id.in_(part)))
        for id_ in ids:
            if id_ in needed:
                self._take_run_away(connection, id_)
            elif id_ == last:
                _replace(connection, id_, _PLACEHOLDER, dagster_event_type=None, asset_key=None, partition=None)
        if run_id != RUNLESS_RUN_ID:
            last_of_asset = AssetKeyTable.c.last_run_id == run_id
            connection.execute(AssetKeyTable.update().where(last_of_asset).values(last_run_id=None))

    def _take_run_away(self, connection: Connection, id_: int) -> None:
        """Make an event runless; with `facts_only`, also erase its texts and charts."""
        stored = connection.execute(db.select(_EVENTS.c.event).where(_EVENTS.c.id == id_)).scalar_one()
        entry = dg.deserialize_value(stored, dg.EventLogEntry)
        event = entry.dagster_event
        assert event is not None
        data = event.event_specific_data
        if isinstance(data, StepMaterializationData) and self._facts_only:
            data = StepMaterializationData(_facts_of(data.materialization))
        runless = dg.EventLogEntry(
            error_info=None,
            level=entry.level,
            user_message="",
            run_id=RUNLESS_RUN_ID,
            timestamp=entry.timestamp,
            step_key=None,
            job_name=RUNLESS_JOB_NAME,
            dagster_event=dg.DagsterEvent(event.event_type_value, RUNLESS_JOB_NAME, event_specific_data=data),
        )
        _replace(connection, id_, runless)
        if event.is_step_materialization and event.asset_key:
            _renew_asset(connection, event.asset_key, dg.EventLogRecord(id_, runless))

    def _delete_evaluations(self, connection: Connection, run_id: str, needed: Collection[int]) -> None:
        found = connection.execute(db.select(_CHECKS.c.id).where(_CHECKS.c.run_id == run_id)).fetchall()
        for part in _in_parts(id_ for (id_,) in found if id_ not in needed):
            connection.execute(_CHECKS.delete().where(_CHECKS.c.id.in_(part)))

    def _erase_texts(self, evaluations: Collection[int]) -> None:
        """Erase the texts of check results, also of those whose run was deleted by an earlier pruning."""
        for part in _in_parts(evaluations):
            with self._events.index_transaction() as connection:
                asked = db.select(_CHECKS.c.id, _CHECKS.c.evaluation_event).where(_CHECKS.c.id.in_(part))
                for id_, stored in connection.execute(asked).fetchall():
                    values = {"evaluation_event": _facts_of_evaluation(stored)}
                    connection.execute(_CHECKS.update().where(_CHECKS.c.id == id_).values(**values))

    def _delete_ticks(self) -> int:
        """Delete old ticks and return their number.

        The newest tick stays, because a schedule continues from it.
        """
        newest = db.select(db.func.max(JobTickTable.c.id)).group_by(JobTickTable.c.selector_id)
        if self._facts_only:
            newest = newest.where(JobTickTable.c.type == InstigatorType.SCHEDULE.value)
        idle_before = max(self._before, self._now - _IDLE_TICKS_KEPT)
        is_old = (JobTickTable.c.timestamp < self._before) | (
            JobTickTable.c.status.in_(_IDLE) & (JobTickTable.c.timestamp < idle_before)
        )
        is_done = JobTickTable.c.status != TickStatus.STARTED.value
        deletion = JobTickTable.delete().where(is_old & is_done & JobTickTable.c.id.not_in(newest))
        with self._ticks.connect() as connection:
            return int(connection.execute(deletion).rowcount)

    def _erase_quotes(self) -> None:
        """Erase what quotes rows outside of runs and ticks.

        The cursor of `landing_sensor` says why batches were refused; without it, the next tick hashes all batches.
        Heartbeats hold the last errors of the daemons, which write new ones when they start.
        """
        for state in self._instance.all_instigator_state():
            data: Any = state.instigator_data
            if state.instigator_name == SENSOR and data and data.cursor:
                self._instance.update_instigator_state(state.with_data(data._replace(cursor=None)))
        if self._runs.get_daemon_heartbeats():
            self._runs.wipe_daemon_heartbeats()

    def _delete_leftovers(self) -> None:
        """Delete databases and logs of deleted runs, also of runs that were deleted in the UI, and old sensor logs."""
        events, logs = self._events, self._instance.compute_log_manager
        if isinstance(events, SqliteEventLogStorage):
            # Databases are listed before runs, because a new run exists before its database: in the other order, the
            # database of a run that starts in between would be deleted.
            databases = [Path(events.path_for_shard(run_id)) for run_id in events.get_all_run_ids()]
            known = self._known_runs()
            for database in databases:
                if database.stem not in known:
                    for ending in ("", "-wal", "-shm"):
                        database.with_name(database.name + ending).unlink(missing_ok=True)
            if (of_no_run := Path(events.path_for_shard(RUNLESS_RUN_ID))).exists():
                with events.run_connection(RUNLESS_RUN_ID) as connection:
                    connection.execute(_EVENTS.delete().where(_EVENTS.c.timestamp < self._before))
                _shrink(of_no_run, at_any_rate=self._facts_only)
        elif self._facts_only:
            # Records in SQLite, from before the home used PostgreSQL.
            for name in _SQLITE_FOLDERS:
                shutil.rmtree(Path(self._instance.root_directory) / name, ignore_errors=True)
        if isinstance(logs, LocalComputeLogManager) and (folder := Path(logs._base_dir)).is_dir():
            of_runs = [path for path in folder.iterdir() if path.is_dir()]
            known = self._known_runs()
            for path in of_runs:
                if path.name not in known:
                    _delete_old_files(path, self._before)

    def _known_runs(self) -> set[str]:
        return {run.run_id for run in self._instance.get_runs()}


def _newest_of_state(connection: Connection) -> set[int]:
    """Ids of the newest event per type, asset and partition, for the types that hold the state of an asset."""
    of_one = (_EVENTS.c.dagster_event_type, _EVENTS.c.asset_key, _EVENTS.c.partition)
    asked = db.select(db.func.max(_EVENTS.c.id)).where(_EVENTS.c.dagster_event_type.in_(_OF_STATE)).group_by(*of_one)
    return {id_ for (id_,) in connection.execute(asked)}


def _replace(connection: Connection, id_: int, entry: dg.EventLogEntry, **columns: None) -> None:
    values = {"event": dg.serialize_value(entry), "run_id": entry.run_id, "step_key": None, **columns}
    connection.execute(_EVENTS.update().where(_EVENTS.c.id == id_).values(**values))


def _renew_asset(connection: Connection, key: dg.AssetKey, record: dg.EventLogRecord) -> None:
    """Replace Dagster's second copy of an asset's last materialization."""
    of_asset = AssetKeyTable.c.asset_key == key.to_string()
    held = connection.execute(db.select(AssetKeyTable.c.last_materialization).where(of_asset)).scalar()
    if held and dg.deserialize_value(held, dg.EventLogRecord).storage_id == record.storage_id:
        values = {"last_materialization": dg.serialize_value(record)}
        connection.execute(AssetKeyTable.update().where(of_asset).values(**values))


def _facts_of(materialization: dg.AssetMaterialization) -> dg.AssetMaterialization:
    """A materialization with only numbers, Dagster's own metadata and the metadata that code reads back."""
    numbers = (dg.IntMetadataValue, dg.FloatMetadataValue, dg.BoolMetadataValue)
    kept = {
        name: value
        for name, value in materialization.metadata.items()
        if name in _READ_BACK or name.startswith("dagster/") or isinstance(value, numbers)
    }
    return materialization.with_metadata(kept)


def _facts_of_evaluation(stored: str) -> str:
    """A check result without its texts about single rows."""
    entry = dg.deserialize_value(stored, dg.EventLogEntry)
    event = entry.dagster_event
    assert event is not None
    evaluation = event.asset_check_evaluation_data
    facts = {name: value for name, value in evaluation.metadata.items() if name == FACTS}
    data = replace_record(evaluation, metadata=facts, description=None)
    return dg.serialize_value(
        entry._replace(user_message="", dagster_event=event._replace(event_specific_data=data, message=""))
    )


def _ended(record: dg.RunRecord) -> datetime:
    ended = record.end_time or record.update_timestamp.timestamp()
    return datetime.fromtimestamp(ended, UTC).replace(tzinfo=None)


def _in_parts(ids: Iterable[int]) -> Iterator[list[int]]:
    left = iter(ids)
    while part := list(islice(left, _IDS_PER_STATEMENT)):
        yield part


def _delete_old_files(folder: Path, before: datetime) -> None:
    oldest = before.replace(tzinfo=UTC).timestamp()
    for place, folders, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            if path.stat().st_mtime < oldest:
                path.unlink()
        for path in (Path(place, name) for name in folders):
            with suppress(OSError):
                path.rmdir()


def _shrink(path: Path, at_any_rate: bool) -> None:
    """Free the unused pages of a SQLite database.

    Raises:
        sqlite3.OperationalError: `at_any_rate` is set and another process uses the database.
    """
    with closing(sqlite3.connect(path, timeout=SQLITE_BUSY_TIMEOUT_SECONDS, isolation_level=None)) as database:
        (pages,), (free,) = (database.execute(f"PRAGMA {of}").fetchone() for of in ("page_count", "freelist_count"))
        if at_any_rate or free > pages * _WORTH_SHRINKING:
            database.execute("VACUUM")
        is_busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy and at_any_rate:
            raise sqlite3.OperationalError(f"{path} is used by another process")


def _bytes_below(folder: Path) -> int:
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            # Dagster may delete one of its files at any time.
            with suppress(FileNotFoundError):
                found += os.lstat(Path(place, name)).st_size
    return found


def _main() -> None:
    """Prune the home of the environment (RECSYS_HOME, DAGSTER_HOME)."""
    with dg.DagsterInstance.get() as instance:
        if told := prune_where_possible(instance, Home.resolve()):
            print(told, file=sys.stderr)


if __name__ == "__main__":
    _main()
