"""Dagster's default run launcher with a health check: does the process of a run still live?

Without the health check, a run whose process died together with the daemon and the code server would stay STARTED and
block the queue for ever. `retries` decides whether a failed run is retried.

A process of another machine or container cannot be seen from here. If a code server of another host has started it,
that server is asked; else the home's lock tells, which every run holds while it works. A command that holds the lock
itself knows that no run of another host is at work.
"""

import json
import socket
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from recsys_assets.home.layout import Home
from recsys_assets.home.lock import is_locked
from recsys_assets.orchestration.dagster_internals import (
    GRPC_INFO_TAG,
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    CheckRunHealthResult,
    DagsterGrpcClient,
    DagsterUserCodeUnreachableError,
    WorkerStatus,
)

# Tag of a run with the identity of its process; see `_identity`. The UI does not show tags that begin like this.
_PROCESS_TAG = ".dagster/recsys_process"
# Tag of a run with the name of the machine or container of its process.
_HOST_TAG = ".dagster/recsys_host"
# Hosts of a code server in the same container, whose processes are seen from here.
_HERE = ("localhost", "127.0.0.1", "::1", None)
_ANSWER_SECONDS = 10
# A process that started this much later than the run recorded its PID is another process that reused the PID.
_CLOCK_SLACK_SECONDS = 60
# A run is STARTED a moment before it records its PID.
_RECORDED_WITHIN_SECONDS = 60
# The daemon connects to code servers once a minute, and tries once to retry a failed run. Before it knows a code server
# that has just started, the retry would be lost.
_CONNECTED_WITHIN_SECONDS = 120


class ProcessCheckingRunLauncher(dg.DefaultRunLauncher):
    """The default launcher with a health check."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # When the code server of a run on another host first denied that it executes the run, by run.
        self._denied_since: dict[str, float] = {}

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Tell run monitoring that this launcher has a health check."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """The health of a run: RUNNING while the process with the recorded PID lives, or could not be retried yet."""
        found = worker_health(self._instance, run)
        if found.status != WorkerStatus.FAILED or _code_server(run).get("host") in _HERE:
            self._denied_since.pop(run.run_id, None)
            return found
        now = time.monotonic()
        if now - self._denied_since.setdefault(run.run_id, now) < _CONNECTED_WITHIN_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._denied_since[run.run_id]
        return found


def worker_health(
    instance: dg.DagsterInstance, run: dg.DagsterRun, *, is_lock_ours: bool = False
) -> CheckRunHealthResult:
    """Whether the process of a started run lives, by the PID that the run recorded.

    A run that recorded its success and was killed before its status was set is marked as successful.

    Args:
        instance: the instance with the run.
        run: the run.
        is_lock_ours: whether this process holds the home's lock.
    """
    elsewhere = _elsewhere(instance, run, is_lock_ours=is_lock_ours)
    if elsewhere is not None:
        return elsewhere if elsewhere.status == WorkerStatus.RUNNING else _unless_done(instance, run, elsewhere)
    recorded = _recorded_process(instance, run.run_id)
    if recorded is None:
        record = instance.get_run_record_by_id(run.run_id)
        started = (record.start_time if record else None) or time.time()
        if time.time() - started < _RECORDED_WITHIN_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "the run has recorded no process")
    pid, when = recorded
    if _lives(pid, when, run.tags.get(_PROCESS_TAG, "")):
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    return _unless_done(instance, run, CheckRunHealthResult(WorkerStatus.FAILED, f"its process {pid} has ended"))


def _unless_done(
    instance: dg.DagsterInstance, run: dg.DagsterRun, failed: CheckRunHealthResult
) -> CheckRunHealthResult:
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_SUCCESS):
        # The process was killed between two databases: its success is recorded, but its status is not set.
        if entry.dagster_event:
            instance.run_storage.handle_run_event(run.run_id, entry.dagster_event)
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
    return failed


def _elsewhere(instance: dg.DagsterInstance, run: dg.DagsterRun, *, is_lock_ours: bool) -> CheckRunHealthResult | None:
    """The health of a run whose process is on another host; None for a run on this one."""
    server = _code_server(run)
    if server.get("host") not in _HERE:
        return _as_its_server_says(server, run)
    host = run.tags.get(_HOST_TAG, socket.gethostname())
    if host == socket.gethostname():
        return None
    is_done_for = is_lock_ours and _had_the_lock(instance, run)
    if is_locked(Home(Path(instance.root_directory).parent)) and not is_done_for:
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    return CheckRunHealthResult(WorkerStatus.FAILED, f"no process works on the home, and its own was on {host}")


def _code_server(run: dg.DagsterRun) -> dict[str, Any]:
    """The address of the code server that started a run; empty for a run of the command line."""
    return dict(json.loads(run.tags.get(GRPC_INFO_TAG, "{}")))


def _had_the_lock(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run has begun a step, for which it took the lock, and has been silent since.

    A run records its end a moment after it releases the lock.
    """
    entries = instance.all_logs(run.run_id)
    has_begun = any(entry.dagster_event_type == dg.DagsterEventType.STEP_START for entry in entries)
    return has_begun and time.time() - entries[-1].timestamp > _RECORDED_WITHIN_SECONDS


def _as_its_server_says(server: dict[str, Any], run: dg.DagsterRun) -> CheckRunHealthResult:
    client = DagsterGrpcClient(host=server["host"], port=server.get("port"), use_ssl=bool(server.get("use_ssl", False)))
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=_ANSWER_SECONDS)
    except DagsterUserCodeUnreachableError:
        # The code server is restarting, or the network is down. The next answer of the code server tells.
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    if dg.deserialize_value(answer, CanCancelExecutionResult).can_cancel:
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    return CheckRunHealthResult(
        WorkerStatus.FAILED, f"the code server at {server['host']} does not execute it any more"
    )


def fail_dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark started runs without a living process as failed, as run monitoring does if a daemon runs.

    The caller holds the home's lock.

    Returns:
        The runs that were marked as failed.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dead = [run for run in started if worker_health(instance, run, is_lock_ours=True).status == WorkerStatus.FAILED]
    for run in dead:
        instance.report_run_failed(run, "The process of the run has ended.")
    return dead


def _recorded_process(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """PID of a run and time of recording (seconds since 1970), from the run's first event with a PID."""
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    for event in events:
        found = event.dagster_event.engine_event_data.metadata.get("pid") if event.dagster_event else None
        if found is not None:
            return int(str(found.value)), event.timestamp
    return None


def process_tag() -> dict[str, str]:
    """The run tags that identify this process as the process of a run, even if the clock is changed."""
    return {_PROCESS_TAG: _identity(psutil.Process()), _HOST_TAG: socket.gethostname()}


def _identity(process: psutil.Process) -> str:
    """PID, and a hash of the PID and the start time of the process, counted from the start of the machine."""
    return f"{process.pid} {hash(process)}"


def _lives(pid: int, recorded_at: float, tagged: str) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # A retry has the tag of the retried run until its own process sets the tag.
        if tagged.partition(" ")[0] == str(pid):
            return tagged == _identity(process)
        return process.create_time() <= recorded_at + _CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False
