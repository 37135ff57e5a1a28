import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import psutil
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._grpc.utils import default_sensor_grpc_timeout
from filelock import FileLock

import recsys_assets
from recsys_assets.errors import RunFailedError
from recsys_assets.home import versions as storage
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import SettingsError
from recsys_assets.home.versions import AssetMissingError, AssetStore
from recsys_assets.orchestration import backfill, clock, launcher
from recsys_assets.orchestration.assets.models import MODEL_TYPES
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.clock import forget_the_future
from recsys_assets.orchestration.dagster_internals import (
    GRPC_INFO_TAG,
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    DagsterUserCodeUnreachableError,
)
from recsys_assets.orchestration.landing_watch import RAW
from recsys_assets.orchestration.launcher import (
    _HOST_TAG,
    _PROCESS_TAG,
    ProcessCheckingRunLauncher,
    fail_dead_runs,
    process_tag,
    worker_health,
)
from recsys_assets.orchestration.locking import locked_executor
from recsys_assets.orchestration.planning import Launch
from recsys_assets.orchestration.repeats import CONTENT_TAG
from recsys_assets.orchestration.retries import decide_on_retry, is_lost_jvm, is_permanent
from recsys_assets.recommender.data.index import IndexMismatchError
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets_tests import killed
from recsys_assets_tests.conftest import FAST_SETTINGS
from recsys_assets_tests.running import copied, table


def _home(folder: Path, small_data) -> Home:
    home = Home(folder)
    home.prepare()
    home.settings_file.write_text(FAST_SETTINGS)
    small_data.write(home.landing / killed.BATCH)
    return home


def _done(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Steps of a run whose end is recorded."""
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return [str(event.step_key) for event in events]


@pytest.mark.slow
def test_a_worker_killed_at_every_stage_loses_nothing_and_repeats_nothing(materialized_home, small_data, tmp_path):
    """After a crash, or just in another home, tables and scores would be others, or hours of work be done again.

    One home, whose worker is killed once in each stage and each time takes up what was left; in the end it is compared
    with the shared home, which nothing disturbed.
    """
    home = _home(tmp_path / "home", small_data)
    stage_of = killed.stages(home)
    command = [sys.executable, "-m", "recsys_assets_tests.killed", str(home.path), *{*stage_of.values()}]
    with (home.path / "workers.log").open("wb") as log:
        ran = subprocess.run(command, stdout=log, stderr=log, cwd=Path(__file__).parent.parent, check=False)
    assert ran.returncode == 0, (home.path / "workers.log").read_text()[-3000:]
    assert not [*home.scratch.iterdir()], "what killed workers left behind is still there"
    deaths = json.loads((home.path / "deaths.json").read_text())
    assert sorted(stage_of[asset] for asset in deaths) == sorted({*stage_of.values()})
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        done = [step for run in instance.get_runs() for step in _done(instance, run.run_id)]
        statuses = [run.status.value for run in instance.get_runs()]
    assert sorted(done) == sorted({*done}), "a step that was done was done again"
    assert len(done) == len(build_defs(home=home).resolve_job_def(killed.JOB).nodes)
    assert statuses == ["SUCCESS", *["FAILURE"] * len(deaths)]
    for asset in sorted({*stage_of} & {*TABLES} - {key.path[-1] for key in RAW}):
        assert table(home, asset).equals(table(materialized_home, asset)), asset


# Dead runs


def _started_run(home: Home, instance: dg.DagsterInstance, pid: int) -> dg.DagsterRun:
    """A run that says it is executed by the process `pid`."""
    run = instance.create_run_for_job(
        build_defs(home=home).resolve_job_def("refresh"), status=dg.DagsterRunStatus.STARTED
    )
    instance.report_engine_event("Started", run, EngineEventData.in_process(pid))
    return run


def _say(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType, when: float) -> None:
    """Record an event of a run, and nothing else that follows from it."""
    instance.event_log_storage.store_event(
        dg.EventLogEntry(
            user_message="",
            level="debug",
            run_id=run.run_id,
            timestamp=when,
            error_info=None,
            job_name=run.job_name,
            dagster_event=dg.DagsterEvent(kind.value, run.job_name),
        )
    )


def test_a_run_whose_process_is_gone_is_failed(tmp_path):
    """A run that died with everything else would stay STARTED and block the queue for ever."""
    home = Home(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    with dg.DagsterInstance.ephemeral() as instance:
        alive, dead = (_started_run(home, instance, pid) for pid in (os.getpid(), gone.pid))
        assert [run.run_id for run in fail_dead_runs(instance)] == [dead.run_id]
        assert worker_health(instance, alive).status.value == "RUNNING"


def test_a_run_that_died_after_its_last_word_is_done(tmp_path):
    """A run that had done everything would be shown as failed, and everybody look for what is missing."""
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    with dg.DagsterInstance.ephemeral() as instance:
        run = _started_run(Home(tmp_path), instance, gone.pid)
        _say(instance, run, dg.DagsterEventType.RUN_SUCCESS, time.time())
        assert fail_dead_runs(instance) == []
        assert instance.get_run_by_id(run.run_id).is_success


def test_a_process_number_given_to_another_process_is_seen(tmp_path, monkeypatch):
    """After a reboot some other program has the number of the dead worker, and its run would never end."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = _started_run(Home(tmp_path), instance, os.getpid())
        monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + 3_600)
        assert worker_health(instance, run).status.value == "FAILED"


def test_a_clock_that_is_set_forward_kills_no_run(tmp_path, monkeypatch):
    """A run at work would be taken for dead and done a second time beside itself: its process seems to begin later."""
    with dg.DagsterInstance.ephemeral() as instance:
        mine, anothers = (_started_run(Home(tmp_path), instance, os.getpid()) for _ in "ab")
        instance.add_run_tags(mine.run_id, process_tag())
        instance.add_run_tags(anothers.run_id, {_PROCESS_TAG: f"{os.getpid()} 1"})
        monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + 86_400)
        assert [run.run_id for run in fail_dead_runs(instance)] == [anothers.run_id]


def test_a_run_of_another_container_is_judged_by_the_lock_of_the_home(tmp_path):
    """A daemon in a container of its own would fail runs at work, because it does not see their processes."""
    home = Home(tmp_path)
    home.prepare()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        run = _started_run(home, instance, 2**22 + 1)
        instance.add_run_tags(run.run_id, process_tag() | {_HOST_TAG: "another"})
        with FileLock(home.lock):
            assert fail_dead_runs(instance) == []
        assert [found.run_id for found in fail_dead_runs(instance)] == [run.run_id]


def test_a_killed_run_of_another_machine_is_failed_by_the_next_command(tmp_path):
    """Such a run would stay STARTED for ever without a daemon, because the command takes its own lock for the run's."""
    home = Home(tmp_path)
    home.prepare()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance, FileLock(home.lock):
        killed, at_its_end, waiting = (_started_run(home, instance, 2**22 + 1) for _ in "abc")
        for run in (killed, at_its_end, waiting):
            instance.add_run_tags(run.run_id, process_tag() | {_HOST_TAG: "another"})
        for run, ago in ((killed, 3_600), (at_its_end, 0)):
            _say(instance, run, dg.DagsterEventType.STEP_START, time.time() - ago)
        assert [found.run_id for found in fail_dead_runs(instance)] == [killed.run_id]


def test_a_run_of_another_code_server_is_judged_by_what_that_server_says(tmp_path, monkeypatch):
    """A run whose code server was started anew would block the queue for ever, or a run at work be done twice."""
    with dg.DagsterInstance.ephemeral() as instance:
        answers = [True, DagsterUserCodeUnreachableError("no answer"), False]
        run = _run_of_a_code_server(Home(tmp_path), instance, monkeypatch, answers)
        assert fail_dead_runs(instance) == fail_dead_runs(instance) == []
        assert [found.run_id for found in fail_dead_runs(instance)] == [run.run_id]


def test_a_run_of_a_restarted_code_server_fails_when_it_can_be_retried(tmp_path, monkeypatch):
    """The daemon would fail the run before it is connected to the new code server, and never retry it."""
    clock = iter([0.0, 119.0, 1_000.0, 1_119.0, 1_120.0])
    monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with dg.DagsterInstance.ephemeral() as instance:
        run = _run_of_a_code_server(Home(tmp_path), instance, monkeypatch, [False, False, True, False, False, False])
        asked = ProcessCheckingRunLauncher()
        asked.register_instance(instance)
        found = [asked.check_run_worker_health(run).status.value for _ in range(6)]
    assert found == ["RUNNING"] * 5 + ["FAILED"]


def _run_of_a_code_server(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, answers: list[bool | Exception]
) -> dg.DagsterRun:
    """A run of a code server that gives these answers when it is asked whether it executes the run."""
    given = iter(answers)

    class Server:
        def __init__(self, host: str, port: int, use_ssl: bool) -> None:
            assert (host, port, use_ssl) == ("code", 4000, False)

        def can_cancel_execution(self, request: CanCancelExecutionRequest, timeout: float) -> str:
            assert request.run_id == run.run_id and timeout
            answer = next(given)
            if isinstance(answer, Exception):
                raise answer
            return dg.serialize_value(CanCancelExecutionResult(can_cancel=answer))

    monkeypatch.setattr(launcher, "DagsterGrpcClient", Server)
    run = _started_run(home, instance, os.getpid())
    instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: json.dumps({"host": "code", "port": 4000})})
    stored = instance.get_run_by_id(run.run_id)
    assert stored
    return stored


def test_a_tick_has_time_to_hash_a_large_file(tmp_path, monkeypatch):
    """A landed file of 20 GB is never read, because Dagster gives up every tick that hashes it."""
    monkeypatch.delenv("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", raising=False)
    for name, value in Home(tmp_path).environment.items():
        monkeypatch.setenv(name, value)
    assert default_sensor_grpc_timeout() == 900
    monkeypatch.setenv("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "7200")
    assert Home(tmp_path).environment["DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"] == "7200"


def test_every_home_checks_its_workers(tmp_path):
    """Run monitoring would look at runs and have nobody to ask whether they live."""
    home = Home(tmp_path)
    home.prepare()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.run_launcher.supports_check_run_worker_health
        assert instance.run_monitoring_enabled and instance.run_retries_max_retries == 1
        assert not instance.run_retries_retry_on_asset_or_op_failure


class _IPv6Server(HTTPServer):
    address_family = socket.AF_INET6


def test_a_run_is_launched_at_an_ipv6_address():
    """`backfill` beside `serve --host ::1` fails, because the address that it calls has no brackets."""
    asked: list[str | None] = []

    class Webserver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.headers["Host"])
            self.send_error(503)

        def log_message(self, *_: object) -> None: ...

    try:
        server = _IPv6Server(("::1", 0), Webserver)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://[::1]:{server.server_port}"
        with pytest.raises(RunFailedError, match="did not launch the run"):
            backfill._launched(address, Launch("ingest", "Reading a.csv", ["a.csv"]))
        server.shutdown()
    assert set(asked) == {f"[::1]:{server.server_port}"}


def test_a_clock_that_is_set_back_keeps_the_newest_version(tmp_path, monkeypatch):
    """After the clock is corrected, the version just written would be taken for the oldest and be deleted."""
    store = AssetStore(tmp_path)
    for number in range(6):
        then = datetime.now(UTC) - timedelta(days=number)
        clock = SimpleNamespace(now=lambda _, then=then: then, strptime=datetime.strptime)
        monkeypatch.setattr(storage, "datetime", clock)
        version = store.new_version(["table"], None, f"run{number}")
        (version / "number").write_text(str(number))
        store.switch(version)
        assert (store.current(["table"]) / "number").read_text() == str(number)


def test_versions_of_failed_runs_do_not_displace_good_ones(tmp_path):
    """A reader loses the table that it reads, because runs that failed count as versions."""
    store = AssetStore(tmp_path)

    def write(name: str) -> Path:
        version = store.new_version(["table"], None, name)
        (version / "name").write_text(name)
        return version

    for number in range(3):
        store.switch(write(f"good{number}"))
    for number in range(4):
        write(f"failed{number}")
    store.switch(write("good3"))
    kept = sorted((tmp_path / "table" / "versions").iterdir())
    assert [(each / "name").read_text() for each in kept] == ["good1", "good2", "good3"]


def test_a_clock_that_is_set_back_lets_sensors_and_schedule_tick(tmp_path):
    """What landed would not be read until the clock is where it was, which may take a day or a year."""
    home = Home(tmp_path)
    home.prepare()
    ago, later = time.time() - 60, time.time() + 86_400
    states = {
        "sensor": SensorInstigatorData(last_tick_timestamp=ago, last_tick_start_timestamp=later, cursor="kept"),
        "schedule": ScheduleInstigatorData("0 3 * * 0", start_timestamp=ago, last_iteration_timestamp=later),
    }
    place = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("localhost", 1), "of a test")
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for name, data in states.items():
            kind, origin = InstigatorType(name.upper()), RemoteInstigatorOrigin(place, name)
            instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.RUNNING, data))
            for when in (ago, later):
                tick = TickData(origin.get_id(), name, kind, TickStatus.SKIPPED, when, selector_id=origin.get_id())
                instance.create_tick(tick)
        forget_the_future(instance)
        found = {state.instigator_name: state for state in instance.all_instigator_state()}
        for state in found.values():
            (tick,) = instance.get_ticks(state.instigator_origin_id, state.instigator_origin_id)
            assert tick.timestamp == ago
    sensor, schedule = (found[name].instigator_data for name in states)
    assert sensor.last_tick_start_timestamp < later and (sensor.last_tick_timestamp, sensor.cursor) == (ago, "kept")
    assert schedule.last_iteration_timestamp < later and schedule.start_timestamp == ago


def test_serve_notices_that_the_clock_is_set_back(monkeypatch):
    """The daemon sleeps for as long as the clock was set back, and nothing runs by itself."""
    now = SimpleNamespace(time=lambda: 1_000.0, monotonic=lambda: 0.0)
    monkeypatch.setattr(clock, "time", now)
    ours = clock.Clock()
    for ahead, is_set_back in ((1_000, False), (87_400, False), (87_399, False), (1_000, True), (1_000, False)):
        now.time = lambda ahead=ahead: float(ahead)
        assert ours.was_set_back() == is_set_back


# One run at a time


@dg.op
def _nothing() -> None:
    """Does nothing."""


def trivial_job() -> dg.JobDefinition:
    """A job of one step behind the lock of the home that the environment names."""

    @dg.job(executor_def=locked_executor(dg.in_process_executor, Home.resolve()))
    def trivial() -> None:
        _nothing()

    return trivial


def test_a_run_waits_for_another_of_the_same_home(tmp_path, monkeypatch):
    """The command line and the daemon would write the same assets at the same time."""
    home = Home(tmp_path)
    home.prepare()
    monkeypatch.setenv("RECSYS_HOME", str(home.path))
    ended: list[float] = []

    def run() -> None:
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            with dg.execute_job(dg.reconstructable(trivial_job), instance=instance) as result:
                assert result.success
            ended.append(time.monotonic())

    with FileLock(home.lock):
        worker = threading.Thread(target=run)
        worker.start()
        worker.join(timeout=4)
        assert worker.is_alive() and not ended
        released = time.monotonic()
    worker.join(timeout=60)
    assert ended and ended[0] > released


def refresh_job() -> dg.JobDefinition:
    """The refresh of the home that the environment names, as another process can build it again."""
    return build_defs().resolve_job_def("refresh")


def test_a_run_whose_work_was_done_while_it_waited_ends_without_a_step(first_run, tmp_path, monkeypatch):
    """Beside `serve`, everything that `run` has just computed would be computed again."""
    home = copied(first_run[0], tmp_path / "home")
    monkeypatch.setenv("RECSYS_HOME", str(home.path))
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    with dg.DagsterInstance.get() as instance:
        job = dg.reconstructable(refresh_job)
        with dg.execute_job(job, instance=instance, tags={CONTENT_TAG: "asked for"}) as result:
            assert result.success
            assert not [event for event in result.all_events if event.is_step_start]
    with FileLock(home.lock, timeout=0):
        pass


# What is tried again


class Py4JNetworkError(Exception):
    """As Py4J names it."""


@pytest.mark.parametrize(
    "error", [SourceError("bad"), SettingsError("bad"), IndexMismatchError("old"), AssetMissingError("none")]
)
def test_what_a_person_must_mend_is_never_tried_again(error):
    """A bad file would be read again and again, by one mechanism or another."""
    run = _fail_with(error)
    assert is_permanent(error) and not is_lost_jvm(error)
    assert run.tags["dagster/max_retries"] == "0"
    assert run.tags["dagster/will_retry"] == "false"


@pytest.mark.parametrize(
    "error",
    [
        Py4JNetworkError("gone"),
        RuntimeError("[INVALID_HANDLE.SESSION_NOT_FOUND] The handle is invalid."),
        RuntimeError("<_MultiThreadedRendezvous of RPC that terminated with: status = StatusCode.UNAVAILABLE"),
        ConnectionRefusedError(111, "refused"),
        RuntimeError("org.apache.spark.SparkException: Job 5 cancelled because SparkContext was shut down"),
        RuntimeError("java.lang.IllegalStateException: Cannot call methods on a stopped SparkContext."),
    ],
)
def test_a_dead_jvm_means_another_run(error):
    """A retried step would meet the same dead JVM; a run that is not retried would wait for a person."""
    run = _fail_with(error)
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "true"
    assert run.tags["dagster/will_retry"] == "true"


@pytest.mark.parametrize("hidden", [AssetMissingError("none"), ConnectionRefusedError(111, "refused")])
def test_what_was_handled_on_the_way_decides_nothing(hidden):
    """A lost connection that the code had got over would start a run again, or an old error forbid it."""
    try:
        try:
            raise hidden
        except Exception:
            raise ZeroDivisionError from None
    except ZeroDivisionError as error:
        assert not is_permanent(error) and not is_lost_jvm(error)


def test_an_error_nobody_foresaw_is_not_tried_again():
    """A mistake in the code would be run twice."""
    assert _fail_with(ZeroDivisionError()).tags["dagster/will_retry"] == "false"


def _fail_with(error: Exception) -> dg.DagsterRun:
    @dg.asset(hooks={decide_on_retry})
    def failing() -> None:
        raise RuntimeError("wrapped") from error

    retries = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}}
    with dg.instance_for_test(overrides=retries) as instance:
        result = dg.materialize([failing], instance=instance, raise_on_error=False)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        return run


def test_every_asset_decides_about_its_failures():
    """The JVM's death under an asset without the hook would wait for a person."""
    from recsys_assets.orchestration.assets import ASSETS

    assert all(decide_on_retry in asset.hook_defs for asset in ASSETS)


# What must never be run


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("asset", sorted(MODEL_TYPES))
def test_a_planted_pickle_is_refused(materialized_home, tmp_path, asset):
    """Whoever can write into `assets/` could run any code in the pipeline."""
    version = AssetStore(materialized_home.assets).current([asset])
    names = [path.relative_to(version) for path in version.rglob("*") if path.is_file()]
    assert names
    for number, name in enumerate(names):
        marker, folder = tmp_path / f"trapped-{number}", tmp_path / str(number)
        shutil.copytree(version, folder)
        (folder / name).write_bytes(pickle.dumps(_Trap(marker)))
        with pytest.raises(Exception):  # noqa: B017 - each format has its own error
            MODEL_TYPES[asset].load(folder)
        assert not marker.exists()


def test_no_module_reads_pickles_or_starts_a_shell():
    """A file name or a stored file could be run as a command."""
    modules = Path(recsys_assets.__file__).parent.rglob("*.py")
    forbidden = re.compile(r"import (pickle|joblib|cloudpickle|dill)|shell=True|os\.system|os\.popen|allow_pickle=True")
    assert not [module for module in modules if forbidden.search(module.read_text())]
