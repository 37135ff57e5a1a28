"""A home that is served by real processes, for tests and benchmarks of the automation."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import psutil

from recsys_assets.home.layout import Home
from recsys_assets.orchestration.sensors import UNFINISHED

Found = TypeVar("Found")
FITS = {"cluster_ratings", "als_adjusted_model", "als_unadjusted_model", "implicit_als_model"}
STEP_BEGUN = dg.DagsterEventType.STEP_START
SELECTOR = {"repositoryLocationName": "recsys_assets", "repositoryName": "__repository__"}
_ROOT = Path(__file__).parent.parent
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_REEXECUTE = """mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


class TimeoutWaitingError(Exception):
    """Something that should have happened has not."""


def wait_for(what: str, found: Callable[[], Found | None], seconds: float = 900) -> Found:
    """Ask until there is an answer that counts. The time is a limit for what never happens, not for a slow machine."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.3)
    raise TimeoutWaitingError(f"{what} has not happened within {seconds:.0f} s")


@dataclass
class Served:
    """A home, the process that `serve` became, and the address of its UI."""

    home: Home
    process: subprocess.Popen[bytes]
    address: str

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """What the webserver answers to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        asked = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=300) as stream:
            answer = json.load(stream)
        assert not answer.get("errors"), answer["errors"]
        return dict(answer["data"])

    def launch(self, job: str, assets: list[str] | None = None, **tags: str) -> str:
        """A run as the UI's launch button makes it; returns its id."""
        selector: dict[str, Any] = {**SELECTOR, "jobName": job}
        if assets is not None:
            selector |= {"assetSelection": [{"path": name.split("/")} for name in assets], "assetCheckSelection": []}
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": listed}}
        return _run_id(self.query(_LAUNCH, params=params)["launchRun"])

    def reexecute(self, run_id: str) -> str:
        """A re-execution from failure as the UI's button makes it; returns its id."""
        params = {"parentRunId": run_id, "strategy": "FROM_FAILURE"}
        return _run_id(self.query(_REEXECUTE, params=params)["launchRunReexecution"])

    def ended(self, run_id: str) -> str:
        """Wait for a run; its status."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

        def status() -> str | None:
            found = self.query(query, id=run_id)["runOrError"]["status"]
            return str(found) if found in ("SUCCESS", "FAILURE", "CANCELED") else None

        return wait_for(f"the end of run {run_id}", status)

    def steps(self, run_id: str) -> set[str]:
        """The steps of a run that succeeded."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { stepStats { stepKey status } } } }"
        stats = self.query(query, id=run_id)["runOrError"]["stepStats"]
        return {step["stepKey"] for step in stats if step["status"] == "SUCCESS"}

    def family(self) -> list[psutil.Process]:
        """Every process of the instance."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


def _run_id(answer: dict[str, Any]) -> str:
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(home: Home, *arguments: str) -> Iterator[Served]:
    """`recsys-assets serve` of a home, from the moment it answers; every process of it is gone afterwards."""
    port = free_port()
    program = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]
    command = [*program, "serve", "--home", str(home.path), "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=_ROOT)
    instance = Served(home, process, f"http://127.0.0.1:{port}")
    family: list[psutil.Process] = []

    def answers() -> bool:
        if process.poll() is not None:
            raise TimeoutWaitingError(f"serve has ended: {process.stdout.read().decode()}")  # type: ignore[union-attr]
        try:
            sensors = "query($s: RepositorySelector!) { sensorsOrError(repositorySelector: $s) { __typename } }"
            return instance.query(sensors, s=SELECTOR)["sensorsOrError"]["__typename"] == "Sensors"
        except (OSError, AssertionError):
            return False

    try:
        wait_for("the webserver's first answer", answers)
        yield instance
    finally:
        if process.poll() is None:
            family = instance.family()
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            process.kill()
        for left in psutil.wait_procs(family, timeout=15)[1]:
            left.kill()


def unfinished_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs under way or waiting."""
    return list(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))


def retry_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Wait for the daemon's retry of a failed run; its id."""
    again = dg.RunsFilter(tags={"dagster/parent_run_id": run_id})
    [retry] = wait_for(f"the retry of run {run_id}", lambda: instance.get_runs(again))
    return retry.run_id


def worker_of(home: Home, run_id: str) -> int:
    """The process that executes a run."""
    from recsys_assets.orchestration.launcher import _recorded_process

    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        found = wait_for("a process recorded by the run", lambda: _recorded_process(instance, run_id))
    assert found[0] != os.getpid()
    return found[0]


def steps_of(
    instance: dg.DagsterInstance, run_id: str, of_type: dg.DagsterEventType = dg.DagsterEventType.STEP_SUCCESS
) -> dict[str, float]:
    """Steps of a run with an event of a type, and when it was; by default those that succeeded."""
    return {str(event.step_key): event.timestamp for event in instance.all_logs(run_id, of_type=of_type)}


def kill_jvm(home: Home, run_id: str, worker: int) -> str | None:
    """Kill the JVM of a worker when it is fitting with Spark, and not for the first time; the step that was hit."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        begun, ended = steps_of(instance, run_id, STEP_BEGUN), steps_of(instance, run_id)
    if not FITS & {*ended}:
        # Its session is only starting.
        return None
    for step in FITS & ({*begun} - {*ended}):
        for process in psutil.Process(worker).children(recursive=True):
            if process.name() == "java":
                process.kill()
                return step
    return None
