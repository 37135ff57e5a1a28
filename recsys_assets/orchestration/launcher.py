"""Dagster's default run launcher with a health check: does the process of a run still live?

Without the health check, a run whose process died together with the daemon and the code server would stay STARTED and
block the queue for ever. `retries` decides whether a failed run is retried.
"""

import time

import dagster as dg
import psutil

from recsys_assets.orchestration.dagster_internals import CheckRunHealthResult, WorkerStatus

# Tag of a run with the identity of its process; see `_identity`.
_PROCESS_TAG = "recsys/process"
# A process that started this much later than the run recorded its PID is another process that reused the PID.
_CLOCK_SLACK_SECONDS = 60
# A run is STARTED a moment before it records its PID.
_RECORDED_WITHIN_SECONDS = 60


class ProcessCheckingRunLauncher(dg.DefaultRunLauncher):
    """The default launcher with a health check.

    The health check sees processes of this machine only. That is enough, because a home with SQLite has no others.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Tell run monitoring that this launcher has a health check."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """The health of a run: RUNNING while the process with the recorded PID lives."""
        return worker_health(self._instance, run)


def worker_health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> CheckRunHealthResult:
    """Whether the process of a started run lives, by the PID that the run recorded.

    A run that recorded its success and was killed before its status was set is marked as successful.
    """
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
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_SUCCESS):
        # The process was killed between two databases: its success is recorded, but its status is not set.
        if entry.dagster_event:
            instance.run_storage.handle_run_event(run.run_id, entry.dagster_event)
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
    return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {pid} is gone")


def fail_dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark started runs without a living process as failed, as run monitoring does if a daemon runs.

    Returns:
        The runs that were marked as failed.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dead = [run for run in started if worker_health(instance, run).status == WorkerStatus.FAILED]
    for run in dead:
        instance.report_run_failed(run, "The process of the run is gone.")
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
    """The run tag that identifies this process as the process of a run, even if the clock is changed."""
    return {_PROCESS_TAG: _identity(psutil.Process())}


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
