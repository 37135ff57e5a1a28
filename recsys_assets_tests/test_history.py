import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from recsys_assets.home.layout import Home
from recsys_assets.home.running import HistorySettings
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.checks.results import last_good_facts, was_good
from recsys_assets.orchestration.checks.rules import check_keys
from recsys_assets.orchestration.code_location import LOCATION
from recsys_assets.orchestration.dagster_internals import AssetCheckExecutionsTable
from recsys_assets.orchestration.landing_watch import RAW, Cursor, Seen, ingested_content, range_tags
from recsys_assets.orchestration.run_history import erase_history, prune_history, prune_where_possible
from recsys_assets.orchestration.sensors import why_invalid
from recsys_assets_tests.made_up import made_up

MERGED = ("ratings", "users", "items")
# What logs and events say of a person.
QUOTED = "Ada-Lovelace-1815"


class Kept:
    """A home with an instance on the disk, and runs of its ingest job."""

    def __init__(self, home: Home, instance: dg.DagsterInstance) -> None:
        home.prepare()
        self.home, self.instance = home, instance
        self._job = build_defs(home=home, settings=Settings()).resolve_job_def("ingest")

    def ingest(self, batch: str, *, raw_only: bool = False) -> dg.ExecuteInProcessResult:
        """A run that reads one batch and merges all."""
        self.instance.add_dynamic_partitions("batches", [batch])
        return self._job.execute_in_process(
            instance=self.instance,
            tags=range_tags([batch]),
            asset_selection=RAW if raw_only else None,
            raise_on_error=False,
        )

    def runs(self) -> set[str]:
        """The runs that are known."""
        return {run.run_id for run in self.instance.get_runs()}

    def databases(self) -> set[str]:
        """The runs that have a database of their own."""
        return {path.stem for path in (self.home.dagster / "history" / "runs").glob("[!.]*.db")} - {"index"}

    def holding(self, text: str) -> list[Path]:
        """The files of the instance that hold a text."""
        files = (path for path in self.home.dagster.rglob("*") if path.is_file())
        return [path for path in files if text.encode() in path.read_bytes()]

    def newest(self, key: dg.AssetKey, batch: str | None = None) -> dg.EventLogRecord:
        """The newest materialization of an asset or of a batch of it."""
        asked = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[batch] if batch else None)
        [found] = self.instance.fetch_materializations(asked, limit=1).records
        return found

    def known(self, batches: list[str]) -> dict[str, Any]:
        """Everything that sensors, staleness, checks and the command line ask the instance for."""
        one = [(dg.AssetKey(name), None) for name in MERGED]
        records = [
            (key, batch, self.newest(key, batch)) for key, batch in [*one, *((k, b) for k in RAW for b in batches)]
        ]
        checks = [check_keys(dg.AssetKey(name)) for name in MERGED]
        latest = self.instance.get_latest_materialization_events([key for key, _, _ in records])
        return {
            "events": {
                (key.to_user_string(), batch): (record.storage_id, record.timestamp, record.asset_materialization.tags)
                for key, batch, record in records
                if record.asset_materialization
            },
            "latest": {key: event.timestamp for key, event in latest.items() if event},
            "contents": [ingested_content(self.instance, batch) for batch in batches],
            "why_invalid": why_invalid(self.instance),
            "good": [was_good(self.instance, keys) for keys in checks],
            "facts": [last_good_facts(self.instance, key) for keys in checks for key in keys],
            "partitions": [self.instance.get_materialized_partitions(key) for key in RAW],
        }


@pytest.fixture
def kept(tmp_path) -> Iterator[Kept]:
    """An empty home with its instance."""
    home = Home(tmp_path / "home")
    home.prepare()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield Kept(home, instance)


def _land(kept: Kept, name: str, first_user: int) -> str:
    made_up(n_users=6, n_items=8, first_user=first_user).write(kept.home.landing / name)
    return name


def _land_refused(kept: Kept) -> str:
    (kept.home.landing / "refused.csv").write_text("user_id,item_id,rating\n1,2,good\n1,3,bad\n")
    return "refused.csv"


def _tick(instance: dg.DagsterInstance, sensor: str, status: TickStatus, age: timedelta) -> None:
    when = (datetime.now(UTC) - age).timestamp()
    instance.create_tick(
        TickData(
            instigator_origin_id=sensor,
            instigator_name=sensor,
            instigator_type=InstigatorType.SENSOR,
            status=status,
            timestamp=when,
            selector_id=sensor,
            run_ids=["a run"] if status == TickStatus.SUCCESS else [],
            error=SerializableErrorInfo(QUOTED, [], None) if status == TickStatus.FAILURE else None,
            skip_reason=QUOTED if status == TickStatus.SKIPPED else None,
        )
    )


def _remember_refusal(instance: dg.DagsterInstance) -> None:
    """As the landing sensor does in its cursor."""
    cursor = Cursor(batches={"refused.csv": Seen(signature="", since=0, fault=QUOTED)})
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), "__repository__")
    instance.add_instigator_state(
        InstigatorState(
            RemoteInstigatorOrigin(repository, "landing_sensor"),
            InstigatorType.SENSOR,
            InstigatorStatus.RUNNING,
            SensorInstigatorData(cursor=cursor.model_dump_json()),
        )
    )


@pytest.mark.parametrize("erased", [False, True])
def test_what_sensors_and_checks_ask_for_stays_when_the_runs_are_deleted(kept, erased):
    """After pruning every batch would be read again, and everything be trained again, for nothing."""
    batches = [_land(kept, "may", 1), _land(kept, "june", 100)]
    assert all(kept.ingest(batch).success for batch in batches)
    before = kept.known(batches)
    assert all(before["contents"]) and before["good"] == [True, True, True]
    bytes_before = sum(path.stat().st_size for path in kept.home.dagster.rglob("*") if path.is_file())
    newest = next(run.run_id for run in kept.instance.get_runs())

    pruned = erase_history(kept.instance) if erased else prune_history(kept.instance, HistorySettings(keep_runs=1))

    assert kept.known(batches) == before
    assert kept.runs() == kept.databases() == (set() if erased else {newest})
    assert pruned.runs == 1 + erased
    bytes_now = sum(path.stat().st_size for path in kept.home.dagster.rglob("*") if path.is_file())
    assert pruned.freed == bytes_before - bytes_now > 0
    batches.append(_land(kept, "july", 200))
    assert kept.ingest("july").success and kept.known(batches)["good"] == [True, True, True]


def test_no_number_of_an_event_is_given_out_twice(kept):
    """Sensors that go on from the last event they saw would pass over the failures of later runs."""
    _land(kept, "may", 1)
    kept.ingest("may")
    assert not kept.ingest(_land_refused(kept)).success
    failure = dg.DagsterEventType.RUN_FAILURE
    [seen] = kept.instance.fetch_run_status_changes(failure, limit=1).records
    erase_history(kept.instance)
    erase_history(kept.instance)
    kept.ingest("refused.csv")
    [again] = kept.instance.fetch_run_status_changes(failure, limit=5).records
    assert again.storage_id > seen.storage_id


def test_what_a_failed_run_quoted_is_in_no_file_after_erasing(kept):
    """A person who was to be forgotten would stay in logs, events and ticks."""
    _land(kept, "may", 1)
    kept.ingest("may")
    kept.ingest(_land_refused(kept))
    kept.instance.report_engine_event(QUOTED, kept.instance.get_runs()[0])
    told = dg.AssetMaterialization("ratings", metadata={"told": QUOTED})
    kept.instance.report_runless_asset_event(told)
    _tick(kept.instance, "landing_sensor", TickStatus.FAILURE, timedelta(0))
    _remember_refusal(kept.instance)
    errors = [SerializableErrorInfo(QUOTED, [], None)]
    kept.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", None, errors))
    log = kept.home.dagster / "storage" / "__repository__" / "landing_sensor" / "1.err"
    log.parent.mkdir(parents=True)
    log.write_text(QUOTED)
    assert len(kept.holding(QUOTED)) >= 5
    assert any(QUOTED in str(state.instigator_data) for state in kept.instance.all_instigator_state())
    assert QUOTED in str(kept.instance.get_daemon_heartbeats())
    erase_history(kept.instance)
    assert kept.holding(QUOTED) == []


def test_a_check_whose_run_was_pruned_keeps_nothing_that_it_quoted(kept):
    """A person who was to be forgotten would stay in the newest result of a check, which outlives its run."""
    told = dg.AssetCheckEvaluation(dg.AssetKey("ratings"), "plausible_ratings", passed=False, description=QUOTED)
    kept.instance.report_runless_asset_event(told)
    with kept.instance.event_log_storage.index_transaction() as connection:
        connection.execute(AssetCheckExecutionsTable.update().values(run_id="a run that was pruned"))
    assert kept.holding(QUOTED)
    erase_history(kept.instance)
    assert kept.holding(QUOTED) == []


def test_a_run_that_was_killed_keeps_nothing_that_it_quoted(kept):
    """Whoever has a run killed and then forgets a user would keep what the run said of that user."""
    job = build_defs(home=kept.home, settings=Settings()).resolve_job_def("ingest")
    killed = kept.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    kept.instance.report_engine_event(QUOTED, killed)
    waiting = kept.instance.create_run_for_job(job)
    assert kept.holding(QUOTED)
    erase_history(kept.instance)
    assert (kept.holding(QUOTED), kept.runs()) == ([], {waiting.run_id})


def test_a_failed_run_stays_while_its_ratings_were_never_checked(kept):
    """Models would be trained on ratings that nobody has checked, because the run that says so is forgotten."""
    for number, name in enumerate(("may", "june")):
        _land(kept, name, 1 + 100 * number)
        assert kept.ingest(name).success
    [newest, _] = kept.instance.get_runs()
    kept.instance.report_run_failed(newest)
    for name in ("july", "august"):
        _land(kept, name, 300)
        assert kept.ingest(name, raw_only=True).success
    prune_history(kept.instance, HistorySettings(keep_days=0, keep_runs=1))
    assert kept.runs() == {newest.run_id}


def test_ticks_that_asked_for_nothing_go_after_hours(kept):
    """A home that is served and idle would grow by 50 MB a day."""
    for hours in (48, 30, 1):
        for sensor in ("landing_sensor", "retrain_sensor"):
            _tick(kept.instance, sensor, TickStatus.SKIPPED, timedelta(hours=hours))
        _tick(kept.instance, "failure_log", TickStatus.SUCCESS, timedelta(hours=hours))
    _tick(kept.instance, "broken", TickStatus.FAILURE, timedelta(hours=30))
    assert prune_history(kept.instance, HistorySettings()).ticks == 4
    counts = {name: len(kept.instance.get_ticks(name, name)) for name in ("landing_sensor", "failure_log", "broken")}
    assert counts == {"landing_sensor": 1, "failure_log": 3, "broken": 1}, "the newest of each stays"


def test_what_the_ui_leaves_of_a_deleted_run_is_swept(kept):
    """Runs that a person deletes would keep their megabytes."""
    _land(kept, "may", 1)
    run_id = kept.ingest("may").run_id
    kept.instance.delete_run(run_id)
    assert kept.databases() == {run_id}
    prune_history(kept.instance, HistorySettings())
    assert kept.databases() == set()


@pytest.mark.slow
def test_the_process_that_serve_starts_prunes_as_the_settings_say(kept):
    """A home that is served for months would grow without end, whatever its settings say."""
    for number, name in enumerate(("may", "june")):
        _land(kept, name, 1 + 100 * number)
        assert kept.ingest(name).success
    kept.home.settings_file.write_text("[history]\nkeep_runs = 1\n")
    command = [sys.executable, "-W", "ignore", "-m", "recsys_assets.orchestration.run_history"]
    ended = subprocess.run(command, env=os.environ | kept.home.environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, len(kept.runs())) == (0, 1), ended.stderr
    assert "Run history pruned: 1 runs" in ended.stderr


def test_what_cannot_be_pruned_now_is_told_and_ends_nothing(kept):
    """A full disk or a mistake in settings.toml would fail a run whose work is done."""
    kept.home.settings_file.write_text("[history]\nkeep_runs = 0\n")
    assert "was not pruned" in prune_where_possible(kept.instance, kept.home)
    kept.home.settings_file.write_text("")
    (kept.home.dagster / "schedules" / "schedules.db").write_bytes(b"no database" * 1000)
    assert "was not pruned" in prune_where_possible(kept.instance, kept.home)
