import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from recsys_assets.home.layout import Home
from recsys_assets.home.lock import is_locked
from recsys_assets.home.served import served_at
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.repeats import CONTENT_TAG
from recsys_assets_tests.conftest import FAST_SETTINGS
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.running import copied, table
from recsys_assets_tests.served import (
    SELECTOR,
    Served,
    kill_jvm,
    served,
    steps_of,
    unfinished_runs,
    wait_for,
    worker_of,
)

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
AUTOMATION = "\n[automation]\ntick_seconds = 1\nquiet_seconds = 1\n"
PROGRAM = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]
STILL = "\n[automation]\nsensors = false\nschedule = false\n"
CHEAP = ["user_features", "user_clusters"]

pytestmark = pytest.mark.slow


def _served_home(home: Home, folder: Path, settings: str = "") -> Home:
    copy = copied(home, folder)
    copy.settings_file.write_text(FAST_SETTINGS + settings)
    return copy


@pytest.fixture(scope="module")
def quiet(materialized_home, tmp_path_factory) -> Iterator[Served]:
    """A served home in which nothing runs by itself, but for a schedule that is switched on by a test."""
    settings = '\n[automation]\nsensors = false\nschedule = false\ncron = "* * * * *"\n'
    home = _served_home(materialized_home, tmp_path_factory.mktemp("quiet") / "home", settings)
    for number in range(3):
        made_up(n_users=6, n_items=8, first_user=1000 + 10 * number).write(home.landing / f"batch-{number}")
    with served(home) as running:
        yield running


def test_a_dropped_file_becomes_recommendations(materialized_home, tmp_path, capsys):
    """New users would wait for a person to type a command, or be recommended what they have rated."""
    home = _served_home(materialized_home, tmp_path / "home", AUTOMATION)
    new = made_up(n_users=6, n_items=40, first_user=500, seed=3)
    ids = [str(user) for user in new.users["user_id"]]

    def recommended() -> list[dict[str, object]]:
        return table(home, "recommendations").filter(pl.col("user_id").is_in(ids)).to_dicts()

    with served(home):
        dropped = time.monotonic()
        new.write(home.path / "arriving").rename(home.landing / "new")
        found = pl.DataFrame(wait_for("a recommendation for a new user", recommended))
        with capsys.disabled():
            print(f"\nfrom dropped file to recommendations: {time.monotonic() - dropped:.0f} s")
    assert set(found["user_id"]) == set(ids)
    rated = new.ratings.select(pl.col("user_id", "item_id").cast(pl.String))
    assert found.join(rated, on=["user_id", "item_id"]).is_empty()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        jobs = [run.job_name for run in instance.get_runs() if run.tags.get("dagster/sensor_name")]
    assert jobs == ["refresh_served", "ingest"]


def _tells(home: Home, cause: str) -> bool:
    return home.failures.exists() and cause in home.failures.read_text()


def test_a_settings_file_that_is_broken_for_a_while_keeps_nothing_out(tmp_path):
    """A typing error would keep what lands meanwhile out for ever, and failures.log would not say where it is."""
    home, settings = Home(tmp_path / "home"), FAST_SETTINGS + AUTOMATION
    home.prepare()
    home.settings_file.write_text(settings)
    with served(home):
        home.settings_file.write_text(settings + "this is no TOML")
        made_up(n_users=6, n_items=40).write(home.path / "arriving").rename(home.landing / "new")
        wait_for("the cause in failures.log", lambda: _tells(home, str(home.settings_file)))
        home.settings_file.write_text(settings)
        wait_for("the batch", lambda: AssetStore(home.assets).has(["ratings"]), 900)


# What a person does in the UI


def test_everything_for_a_batch_is_one_launch(quiet):
    """The whole pipeline could not be started from the UI."""
    run = quiet.launch("everything", **dict.fromkeys(RANGE, "small"))
    assert quiet.ended(run) == "SUCCESS"
    assert {"ratings", "recommendations", "evaluation_report"} <= quiet.steps(run)


def test_one_asset_and_its_descendants(quiet):
    """After a change of one stage everything would have to be run again."""
    run = quiet.launch("refresh", CHEAP)
    assert quiet.ended(run) == "SUCCESS"
    assert set(CHEAP) <= quiet.steps(run) and "als_adjusted_model" not in quiet.steps(run)


def test_runs_of_the_command_line_are_listed_under_their_job(quiet):
    """The pages Jobs and Timeline would show that nothing ever ran, though `recsys-assets run` made everything."""
    asked = """query($name: String!) { pipelineOrError(params: {pipelineName: $name,
        repositoryLocationName: "recsys_assets", repositoryName: "__repository__"}) { ... on Pipeline {
        runs(limit: 5) { status repositoryOrigin { repositoryLocationName } } } } }"""
    runs = quiet.query(asked, name="everything")["pipelineOrError"]["runs"]
    assert "SUCCESS" in {run["status"] for run in runs}
    # The timeline shows no run without an origin.
    assert all(run["repositoryOrigin"] == {"repositoryLocationName": "recsys_assets"} for run in runs)


def test_three_batches_are_backfilled_by_one_run(quiet):
    """Each batch of a backfill would start a process of its own."""
    before = _runs(quiet.home)
    names = [f"batch-{number}" for number in range(3)]
    command = [*PROGRAM, "backfill", *names, "--home", str(quiet.home.path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (run,) = _runs(quiet.home) - before
    assert f"{quiet.address}/runs/{run}" in printed
    assert quiet.ended(run) == "SUCCESS"
    assert "1000" in set(table(quiet.home, "users")["user_id"])
    assert AssetStore(quiet.home.assets).batches(["raw_ratings"]) == [*names, "small"]


def test_reexecution_runs_only_what_is_missing(quiet):
    """After a failure everything would have to be run again from the start."""
    version = AssetStore(quiet.home.assets).current(["user_partition"])
    shutil.move(version, quiet.home.path / "aside")
    failed = quiet.launch("refresh", [*CHEAP, "test_histories"])
    assert quiet.ended(failed) == "FAILURE"
    shutil.move(quiet.home.path / "aside", version)
    again = quiet.reexecute(failed)
    assert quiet.ended(again) == "SUCCESS"
    assert "test_histories" in quiet.steps(again) and not set(CHEAP) & quiet.steps(again)


def test_a_tick_of_the_schedule_makes_a_run(quiet):
    """The weekly refresh would be a line in the UI and nothing else."""
    start = """mutation($s: ScheduleSelector!) { startSchedule(scheduleSelector: $s) { __typename } }"""
    stop = """mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }"""
    state = """query($s: ScheduleSelector!) { scheduleOrError(scheduleSelector: $s) {
        ... on Schedule { scheduleState { id } } } }"""
    before = _runs(quiet.home)
    selector = {
        "repositoryLocationName": "recsys_assets",
        "repositoryName": "__repository__",
        "scheduleName": "weekly_refresh",
    }
    assert quiet.query(start, s=selector)["startSchedule"]["__typename"] == "ScheduleStateResult"
    (run,) = wait_for("a run by the schedule", lambda: _runs(quiet.home) - before)
    found = quiet.query(state, s=selector)["scheduleOrError"]
    stopped = quiet.query(stop, id=found["scheduleState"]["id"])["stopRunningSchedule"]
    assert stopped["__typename"] == "ScheduleStateResult"
    wait_for("the first steps", lambda: quiet.steps(run))
    end = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
    quiet.query(end, id=run)
    assert quiet.ended(run) == "CANCELED"


def test_a_killed_worker_is_taken_up_by_another_run(quiet):
    """A worker that is killed would leave a run that never ends, or start from the beginning."""
    run = quiet.launch("refresh")
    worker = worker_of(quiet.home, run)
    wait_for("the first steps", lambda: len(quiet.steps(run)) >= 3)
    os.kill(worker, signal.SIGKILL)
    assert quiet.ended(run) == "FAILURE"
    (again,) = wait_for("the retried run", lambda: _runs(quiet.home, parent=run))
    assert quiet.ended(again) == "SUCCESS"
    assert not quiet.steps(run) & quiet.steps(again)


def _runs(home: Home, parent: str | None = None) -> set[str]:
    """The runs there have been, or those that took up another."""
    tags = {"dagster/parent_run_id": parent} if parent else {}
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        return {run.run_id for run in instance.get_runs(dg.RunsFilter(tags=tags))}


# Beside the command line


def test_batches_are_taken_out_and_users_forgotten_beside_serve(materialized_home, tmp_path):
    """The automation would bring back what a person takes out, fail at what is gone, or compute everything twice."""
    home = _served_home(materialized_home, tmp_path / "home", AUTOMATION)
    new = made_up(n_users=6, n_items=40, first_user=500, seed=3)

    def rest() -> bool:
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            return not unfinished_runs(instance)

    def recommended() -> set[str]:
        return set(table(home, "recommendations")["user_id"])

    def command(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*PROGRAM, *words, "--home", str(home.path)], capture_output=True, text=True, check=False)

    with served(home):
        new.write(home.path / "arriving").rename(home.landing / "new")
        wait_for("recommendations for the new users", lambda: "500" in recommended())
        wait_for("rest", rest)
        before = _runs(home)
        for words in (["remove", "new"], ["forget", "7"]):
            ran = command(words)
            assert ran.returncode == 0, ran.stdout + ran.stderr
        refused = command(["compact"])
        assert refused.returncode == 1 and "`serve` runs for this home" in refused.stderr
        # Several ticks of the sensors, so that what they could ask for is asked for.
        ticks = time.monotonic() + 10
        wait_for("rest after the commands", lambda: time.monotonic() > ticks and rest())
    assert recommended() == {str(user) for user in range(1, 61)} - {"7"}
    assert "7" not in set(table(home, "users")["user_id"])
    assert home.landed_batches() == AssetStore(home.assets).batches(["raw_ratings"]) == ["small"]
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert list(instance.get_dynamic_partitions("batches")) == ["small"]
        runs = [run for run in instance.get_runs() if run.run_id not in before]
    assert {run.status.value for run in runs} == {"SUCCESS"}
    asked = [run for run in runs if run.tags.get("dagster/sensor_name")]
    assert not [run for run in asked if run.job_name == "refresh"], "what the commands had computed was computed again"
    assert not home.failures.exists()
    compacted = command(["compact"])
    assert compacted.returncode == 0, compacted.stdout + compacted.stderr


def test_run_beside_serve_recommends_first_and_refreshes_once(materialized_home, tmp_path):
    """With `run` beside `serve` new users would wait for a refresh, and the daemon would do it a second time."""
    # The command line is there before the sensor.
    home = _served_home(
        materialized_home, tmp_path / "home", AUTOMATION.replace("quiet_seconds = 1", "quiet_seconds = 60")
    )
    new = made_up(n_users=6, n_items=40, first_user=500, seed=3)
    before = _runs(home)
    with served(home) as running:
        new.write(home.path / "arriving").rename(home.landing / "new")
        command = [*PROGRAM, "run", "--home", str(home.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            wait_for("run at work", lambda: is_locked(home))
            # As the sensor asks, a moment before `run` has taken the lock.
            late = [
                running.launch(job, **{CONTENT_TAG: "content"}) for job in ("recommend", "refresh_served", "refresh")
            ]
            printed, _ = process.communicate()
        assert process.returncode == 0, printed
        for run in late:
            assert running.ended(run) == "SUCCESS" and not running.steps(run)
        ticks = time.monotonic() + 20
        wait_for("rest", lambda: time.monotonic() > ticks and not is_locked(home))
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert not unfinished_runs(instance)
        done = [(step, when) for run in _runs(home) - before for step, when in steps_of(instance, run).items()]
    ends = {
        name: sorted(when for step, when in done if step == name) for name in ("recommendations", "evaluation_report")
    }
    assert [len(found) for found in ends.values()] == [2, 1]
    (scored,) = (when for step, when in done if step == "evaluation_scores")
    assert ends["recommendations"][0] < min(when for step, when in done if step == "train_ratings") < scored
    assert {"500", "505"} <= set(table(home, "recommendations")["user_id"])


def test_a_run_of_the_command_line_gets_over_a_dead_jvm(materialized_home, tmp_path):
    """Whoever has no daemon would find a failed run in the morning, and start it from the beginning."""
    home = _served_home(materialized_home, tmp_path / "home", STILL)
    before = _runs(home)
    command = [*PROGRAM, "run", "--home", str(home.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        (run,) = wait_for("a run", lambda: _runs(home) - before)
        wait_for("ALS at work", lambda: kill_jvm(home, run, process.pid))
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    (again,) = _runs(home, parent=run)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        first, second = steps_of(instance, run), steps_of(instance, again)
    assert (
        "retrying the remaining steps in a new process" in printed and f"All {len(first) + len(second)} done" in printed
    )
    assert not {*first} & {*second}
    assert table(home, "recommendations").equals(table(materialized_home, "recommendations"))


# The processes


def test_serve_listens_on_this_machine_only_and_once(quiet):
    """Anybody in the network could start runs, or two daemons would do everything twice."""
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in quiet.family()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) == {"127.0.0.1"}
    again = subprocess.run(
        [*PROGRAM, "serve", "--home", str(quiet.home.path)], capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "served already" in again.stderr
    assert f"{quiet.address} by process {quiet.process.pid}" in again.stderr


def test_a_foreign_page_is_refused_by_the_real_webserver(quiet):
    """Any page that somebody has open could delete runs or launch them, or read logs as they are written."""
    mutation = urllib.parse.urlencode({"query": "mutation { setAutoMaterializePaused(paused: true) }"})
    for headers, address in [
        ({}, f"{quiet.address}/graphql?{mutation}"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, f"{quiet.address}/graphql"),
        ({"Origin": "http://evil.example"}, f"{quiet.address}/graphql"),
    ]:
        body = None if "?" in address else mutation.encode()
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=300)
        assert refusal.value.code == 403
    socket = f"{quiet.address.replace('http', 'ws')}/graphql"
    with pytest.raises(InvalidStatus, match="403"):
        connect(socket, origin="http://evil.example", subprotocols=["graphql-ws"])
    with connect(socket, origin=quiet.address, subprotocols=["graphql-ws"]) as own:
        own.send('{"type": "connection_init"}')
        assert json.loads(own.recv()) == {"type": "connection_ack"}


def test_a_run_cannot_be_launched_into_another_folder(quiet, tmp_path):
    """Whoever reaches the launch dialog could overwrite files that are not the home's."""
    launch = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename } }"""
    config = {"resources": {"io_manager": {"config": {"root": str(tmp_path)}}}}
    params = {"selector": {**SELECTOR, "jobName": "recommend"}, "mode": "default", "runConfigData": config}
    assert quiet.query(launch, params=params)["launchRun"]["__typename"] == "RunConfigValidationInvalid"


def test_what_a_killed_serve_has_started_ends_with_it(materialized_home, tmp_path):
    """After the process was killed, its worker would go on, and the home could not be served again."""
    home = _served_home(materialized_home, tmp_path / "home", STILL)
    with served(home) as running:
        run = running.launch("refresh")
        wait_for("the first steps", lambda: len(running.steps(run)) >= 3)
        family = running.family()
        assert worker_of(home, run) in {process.pid for process in family}
        running.process.kill()
        running.process.wait()
        assert not psutil.wait_procs(family, timeout=240)[1]
    with served(home) as running:
        assert running.ended(run) == "FAILURE"
        (again,) = wait_for("the retried run", lambda: _runs(home, parent=run))
        wait_for("its first steps", lambda: running.steps(again))


def test_serve_ends_with_all_its_processes_and_takes_up_what_it_left(materialized_home, tmp_path):
    """After Ctrl-C a worker would go on in the background, or a refresh be lost because the machine was restarted."""
    home = _served_home(materialized_home, tmp_path / "home", STILL)
    with served(home) as running:
        run = running.launch("refresh")
        wait_for("the first steps", lambda: len(running.steps(run)) >= 3)
        _end(running, signal.SIGTERM)
        assert served_at(home) is None
    with served(home) as running:
        assert running.ended(run) == "FAILURE"
        (again,) = wait_for("the retried run", lambda: _runs(home, parent=run))
        wait_for("its first steps", lambda: running.steps(again))
        assert not running.steps(run) & running.steps(again)
        _end(running, signal.SIGINT)


def _end(running: Served, sign: signal.Signals) -> None:
    family = running.family()
    assert len(family) >= 6
    running.process.send_signal(sign)
    assert running.process.wait(timeout=240) == 0
    assert not psutil.wait_procs(family, timeout=1)[1]
