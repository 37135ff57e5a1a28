"""Launches runs as Dagster does by default, and tells run monitoring whether the process of a run still lives.

Without that answer a run whose process died together with the daemon and the code server stays STARTED, and blocks the
queue for ever.
"""

import time

import dagster as dg
import psutil

from recsys_assets.orchestration.dagster_internals import CheckRunHealthResult, WorkerStatus

# A process that began this much later than the run says is another one that was given the same number.
_CLOCK_SLACK_SECONDS = 60
# A run is STARTED a moment before it records its process.
_RECORDED_WITHIN_SECONDS = 60


class ProcessCheckingRunLauncher(dg.DefaultRunLauncher):
    """The default launcher with a health check. It sees processes of this machine only, as SQLite homes have."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring asks at all."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Running as long as the process that the run recorded lives."""
        return worker_health(self._instance, run)


def worker_health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> CheckRunHealthResult:
    """Whether the process that executes a started run lives, by the run's own record of it.

    A run that has recorded its success without being marked as successful is marked.
    """
    recorded = _recorded_process(instance, run.run_id)
    if recorded is None:
        record = instance.get_run_record_by_id(run.run_id)
        started = (record.start_time if record else None) or time.time()
        if time.time() - started < _RECORDED_WITHIN_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "the run has recorded no process")
    pid, when = recorded
    if _lives(pid, when):
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_SUCCESS):
        # Killed after it had recorded its end and before it had set its status, which lies in another database.
        if entry.dagster_event:
            instance.run_storage.handle_run_event(run.run_id, entry.dagster_event)
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
    return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {pid} is gone")


def fail_dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark started runs without a living process as failed: what run monitoring does where no daemon runs.

    Returns:
        The runs that were marked.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dead = [run for run in started if worker_health(instance, run).status == WorkerStatus.FAILED]
    for run in dead:
        instance.report_run_failed(run, "The process of the run is gone.")
    return dead


def _recorded_process(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Process id, and when it was recorded (seconds since 1970), from the first event of the run that has one."""
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    for event in events:
        found = event.dagster_event.engine_event_data.metadata.get("pid") if event.dagster_event else None
        if found is not None:
            return int(str(found.value)), event.timestamp
    return None


def _lives(pid: int, recorded_at: float) -> bool:
    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return not dead and process.create_time() <= recorded_at + _CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False
