"""Retries a failed run of the command line from failure, in a new process, if `retries` allows it.

The daemon does the same for runs that Dagster launched. The process whose JVM died cannot retry by itself, because it
keeps a dead gateway.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import dagster as dg

from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.code_location import REPOSITORY_TAG, adopt
from recsys_assets.orchestration.dagster_internals import (
    MAX_RETRIES_TAG,
    PARENT_RUN_ID_TAG,
    RETRY_ON_ASSET_OR_OP_FAILURE_TAG,
    ROOT_RUN_ID_TAG,
)
from recsys_assets.orchestration.launcher import process_tag

# Without this tag, the daemon of a served home would retry a command's run that a person has stopped.
NEVER_BY_A_DAEMON = {MAX_RETRIES_TAG: "0"}
_POLL_SECONDS = 0.5
# Less than the grace period of the command itself (`ending`).
_GRACE_SECONDS = 5.0


def has_lost_its_jvm(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the run failed because its JVM died, so that a new process may succeed."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.tags.get(RETRY_ON_ASSET_OR_OP_FAILURE_TAG) == "true"


def resume(instance: dg.DagsterInstance, run_id: str, watch: Callable[[dg.DagsterEvent], None]) -> bool:
    """Execute the steps that a failed run has left undone, in a new process that inherits the caller's home lock.

    Args:
        instance: Dagster instance of the home in the environment.
        run_id: id of the failed run.
        watch: called with each event of the new run.

    Returns:
        Whether the new run succeeded.

    Raises:
        KeyboardInterrupt: a signal has asked this process to end; the new process is ended first.
    """
    child = start(["-m", __name__, run_id])
    again: dg.DagsterRun | None = None
    seen = 0
    is_running = True
    try:
        while is_running:
            is_running = child.poll() is None
            again = again or next(iter(instance.get_runs(dg.RunsFilter(tags={PARENT_RUN_ID_TAG: run_id}))), None)
            events = [entry.dagster_event for entry in instance.all_logs(again.run_id)] if again else []
            for event in filter(None, events[seen:]):
                watch(event)
            seen = len(events)
            time.sleep(_POLL_SECONDS * is_running)
    except KeyboardInterrupt:
        _end(child)
        raise
    return child.returncode == 0


def start(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start a Python process that inherits the home's lock, so that no other run takes the home while it works."""
    # The child inherits the file descriptor of the lock, which is the only inheritable one.
    return subprocess.Popen([sys.executable, "-W", "ignore", *arguments], close_fds=False)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the process, by SIGKILL after the grace period: it must not outlive the home's lock."""
    child.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    finally:
        child.kill()
        child.wait()


def job_again(name: str) -> dg.JobDefinition:
    """A job of the home in the environment, without lock, for a process whose parent holds the home's lock."""
    return build_defs().resolve_job_def(name).with_executor_def(dg.in_process_executor)


def _main(run_id: str) -> int:
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        job = dg.build_reconstructable_job(__spec__.name, job_again.__name__, reconstructable_args=(run.job_name,))
        # The logger of the parent run exists in the parent process only.
        config = {section: values for section, values in run.run_config.items() if section != "loggers"}
        # Without the parent's range of batches, raw tables would not know which batches to read.
        tags = {name: value for name, value in run.tags.items() if name.startswith("dagster/asset_partition_range_")}
        # These tags let the UI show both runs as one group, and let the parent process find this run.
        tags |= {PARENT_RUN_ID_TAG: run_id, ROOT_RUN_ID_TAG: run.root_run_id or run_id}
        tags |= {**NEVER_BY_A_DAEMON, **REPOSITORY_TAG, **process_tag()}
        options = dg.ReexecutionOptions.from_failure(run_id, instance)
        with dg.execute_job(
            job, instance=instance, run_config=config, tags=tags, reexecution_options=options
        ) as result:
            adopt(instance, result.run_id)
            return int(not result.success)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
