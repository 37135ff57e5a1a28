"""What a run shows while it works: which asset, how long each took, what is left, and what failed and why.

Dagster's events come through a logger of its own kind; which runs are launched belongs to `launch`.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import dagster as dg
from dagster._core.events import JobFailureData
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from recsys_assets.cli.terminal import seconds
from recsys_assets.orchestration.ending import remind
from recsys_assets.orchestration.failures import is_of_a_check, reason
from recsys_assets.recommender.data.characters import visible

_NAME_WIDTH = 44
_LIVE_WIDTH = 100


class _VisibleFormatter(logging.Formatter):
    """Messages quote rows and names of files, and somebody will look at the log with `cat`."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, with signs in the place of what a terminal obeys."""
        return visible(super().format(record))


class RunProgress(logging.Handler):
    """Turns the events of runs into lines on a terminal, with a live line below them where the cursor can move.

    Attributes:
        assets: what to call each step.
        failures: what failed, in words.
    """

    logger_name = "terminal"

    def __init__(self, out: Console, log: Path) -> None:
        super().__init__()
        self.assets: Mapping[str, str] = {}
        self.failures: list[str] = []
        self._out, self._log = out, log
        self._running: str | None = None
        self._notes: list[str] = []
        self._planned = self._begun = self._done = 0
        self._started = self._step_started = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
        self._live = Progress(*columns, TimeElapsedColumn(), console=out, transient=True, disable=not out.is_terminal)
        self._task = self._live.add_task("loading", total=None)

    @property
    def logger(self) -> dg.LoggerDefinition:
        """For `Definitions(loggers=…)`: events come here, and every record goes to the log file."""

        @dg.logger
        def terminal(_: dg.InitLoggerContext) -> logging.Logger:
            to_file = logging.FileHandler(self._log, encoding="utf-8")
            to_file.setFormatter(_VisibleFormatter("%(asctime)s %(levelname)s %(message)s"))
            logger = logging.Logger(self.logger_name)
            logger.handlers = [to_file, self]
            return logger

        return terminal

    def __enter__(self) -> "RunProgress":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        took = seconds(time.monotonic() - self._started)
        if self.failures:
            waiting = self._planned - self._begun
            told = f"{self._done} of {self._planned} done in {took}, {self._begun - self._done} failed"
            self._out.print(told + (f", {waiting} not begun because of it" if waiting else ""), style="red")
            self.failures.append(f"The whole log: {self._log}")
        elif error is None:
            self._out.print(f"All {self._planned} done in {took}", style="green")

    def announce(self, title: str) -> None:
        """Say what the next run does."""
        self._out.print(title, style="bold")

    def emit(self, record: logging.LogRecord) -> None:
        """One record of Dagster's log."""
        facts = record.dagster_meta  # type: ignore[attr-defined]
        event: dg.DagsterEvent | None = facts["dagster_event"]
        if event is not None:
            self.take(event)
        # Steps that cannot begin are logged as errors of their own; the failure before them says it all.
        elif facts["step_key"] == self._running:
            self._note(record.levelno, facts["orig_message"])

    def _note(self, level: int, message: str) -> None:
        if level >= logging.WARNING:
            self._notes.append(message)
        elif level == logging.INFO:
            # Shown until the next line or the end of the step; the log keeps it.
            self._live.update(self._task, description=message[:_LIVE_WIDTH])

    def take(self, event: dg.DagsterEvent) -> None:
        """One event of a run, of this process or of another."""
        if event.event_type == dg.DagsterEventType.LOGS_CAPTURED:
            self._planned += len(event.logs_captured_data.step_keys or [])
            self._live.update(self._task, total=self._planned)
        elif event.event_type == dg.DagsterEventType.STEP_START:
            self._begin(str(event.step_key))
            remind()
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            self._done += 1
            self._end("✓", "green")
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            error = event.step_failure_data.error
            if not is_of_a_check(error):
                self.failures.append(f"{self._asset} failed: {reason(error)}")
            self._end("✗", "red")
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._judge(event.asset_check_evaluation_data)
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE and not self.failures:
            # Outside of any step: resources, say.
            failure = event.event_specific_data
            cause = failure.error if isinstance(failure, JobFailureData) else None
            self.failures.append(f"The run failed: {reason(cause)}")

    def begin_again(self, title: str) -> None:
        """What failed is tried again, with what could not begin because of it."""
        self.failures.clear()
        self._planned = self._begun = self._done
        self.announce(title)

    @property
    def _asset(self) -> str:
        return self.assets.get(self._running or "", self._running or "")

    @property
    def _position(self) -> str:
        return f"{self._begun:>{len(str(self._planned))}}/{self._planned}"

    def _begin(self, step: str) -> None:
        self._running, self._notes, self._step_started = step, [], time.monotonic()
        self._begun += 1
        self._live.update(self._task, description=f"{self._asset:<{_NAME_WIDTH}}")
        if not self._out.is_terminal:
            # The line is ended when the asset is: a log that is read meanwhile shows what runs.
            self._out.print(f"{self._position} {self._asset:<{_NAME_WIDTH}}", end="")
            self._out.file.flush()

    def _end(self, sign: str, style: str) -> None:
        took = seconds(time.monotonic() - self._step_started)
        line = Text.assemble((sign, style), f" {took:>10}")
        if self._out.is_terminal:
            line = Text.assemble((f"{self._position} ", "dim"), f"{self._asset:<{_NAME_WIDTH}}", line)
        self._out.print(line)
        for note in self._notes:
            self._out.print(Text(f"      {note}", "yellow"))
        self._live.update(self._task, completed=self._done)
        self._running = None

    def _judge(self, check: dg.AssetCheckEvaluation) -> None:
        if check.passed:
            return
        told = f"check {check.check_name} of {check.asset_key.to_user_string()} failed: {check.description or ''}"
        if check.severity == dg.AssetCheckSeverity.ERROR:
            self.failures.append(told)
        self._notes.append(told)
