"""Turns Dagster's log of a run into calls of a `Watcher`, for runs in this process and in others.

The watcher that prints progress is `cli.progress`.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import dagster as dg

from recsys_assets.orchestration.dagster_internals import JobFailureData
from recsys_assets.orchestration.ending import remind
from recsys_assets.orchestration.failures import asset_name, is_of_a_check, reason
from recsys_assets.recommender.data.characters import visible

# The logger that every job has: a run of the command line can be run again from the UI, whose jobs have no other one.
LOGGER_NAME = "console"


class Watcher(Protocol):
    """Follows runs, one after the other.

    Attributes:
        failures: failures in words.
    """

    failures: list[str]

    def announce(self, title: str) -> None:
        """The next run begins."""

    def begin_again(self, title: str) -> None:
        """Failed steps are retried, together with the steps that they have kept from starting."""

    def plan(self, n_steps: int) -> None:
        """A process is about to execute this many more steps."""

    def begin(self, step: str, stage: str) -> None:
        """A step of a stage begins."""

    def end(self, *, succeeded: bool) -> None:
        """The running step has ended."""

    def fail(self, why: str) -> None:
        """Something failed."""

    def note(self, level: int, message: str) -> None:
        """The running step logs a message."""


class _VisibleFormatter(logging.Formatter):
    """Makes control characters visible: messages quote rows and file names, and `cat` would send them to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with visible signs in the place of control characters."""
        return visible(super().format(record))


class RunEvents(logging.Handler):
    """Passes log records of runs in this process, and events of runs in other processes, to a watcher.

    Args:
        watcher: receives the calls.
        log: log file for every record.
        begun: called with the id of each run of this process when it starts.

    Attributes:
        stages: stage by step; steps without one are checks.
    """

    def __init__(self, watcher: Watcher, log: Path, begun: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.stages: dict[str, str] = {}
        self._watcher, self._log, self._begun = watcher, log, begun
        self._running: str | None = None

    @property
    def logger(self) -> dg.LoggerDefinition:
        """The logger for `Definitions(loggers={LOGGER_NAME: …})`: it writes the log file and calls this handler."""

        @dg.logger
        def terminal(_: dg.InitLoggerContext) -> logging.Logger:
            to_file = logging.FileHandler(self._log, encoding="utf-8")
            to_file.setFormatter(_VisibleFormatter("%(asctime)s %(levelname)s %(message)s"))
            logger = logging.Logger(LOGGER_NAME)
            logger.handlers = [to_file, self]
            return logger

        return terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one record of Dagster's log."""
        facts = record.dagster_meta  # type: ignore[attr-defined]
        event: dg.DagsterEvent | None = facts["dagster_event"]
        if event is not None:
            if event.event_type == dg.DagsterEventType.RUN_START:
                self._begun(facts["run_id"])
            self.take(event)
        # Dagster logs an error for each step that cannot start. Only the failure before them says something new.
        elif facts["step_key"] == self._running:
            self._watcher.note(record.levelno, facts["orig_message"])

    def take(self, event: dg.DagsterEvent) -> None:
        """Handle one event of a run in this process or in another."""
        if event.event_type == dg.DagsterEventType.LOGS_CAPTURED:
            self._watcher.plan(len(event.logs_captured_data.step_keys or []))
        elif event.event_type == dg.DagsterEventType.STEP_START:
            self._running = str(event.step_key)
            self._watcher.begin(self._step, self.stages.get(self._running, "checks"))
            remind()
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            self._end(succeeded=True)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            error = event.step_failure_data.error
            if not is_of_a_check(error):
                self._watcher.fail(f"{self._step} failed: {reason(error)}")
            self._end(succeeded=False)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._judge(event.asset_check_evaluation_data)
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE and not self._watcher.failures:
            # The run failed outside of its steps, for example in a resource.
            failure = event.event_specific_data
            cause = failure.error if isinstance(failure, JobFailureData) else None
            self._watcher.fail(f"The run failed: {reason(cause)}")

    @property
    def _step(self) -> str:
        return asset_name(self._running or "")

    def _end(self, *, succeeded: bool) -> None:
        self._watcher.end(succeeded=succeeded)
        self._running = None

    def _judge(self, check: dg.AssetCheckEvaluation) -> None:
        if check.passed:
            return
        told = f"check {check.check_name} of {check.asset_key.to_user_string()} failed: {check.description or ''}"
        if check.severity == dg.AssetCheckSeverity.ERROR:
            self._watcher.fail(told)
        self._watcher.note(logging.WARNING, told)
