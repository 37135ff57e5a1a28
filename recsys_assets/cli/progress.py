"""Progress of a run on the terminal: the running asset, durations, remaining steps, failures and their reasons.

At the end it says which stages took longest and how much memory the run needed.

The events come from `orchestration.run_events`.
"""

import logging
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from recsys_assets.cli.memory import PeakMemory
from recsys_assets.cli.terminal import seconds

_NAME_WIDTH = 44
_LIVE_WIDTH = 100
_STAGES_NAMED = 5


class RunProgress:
    """Prints one line per step of a run, and a live line below them on a terminal.

    Attributes:
        failures: failures in words.
    """

    def __init__(self, out: Console, log: Path) -> None:
        self.failures: list[str] = []
        self._out, self._log = out, log
        self._running = self._stage = ""
        self._seconds = defaultdict[str, float](float)
        self._memory = PeakMemory(lambda: self._running)
        self._notes: list[str] = []
        self._planned = self._begun = self._done = 0
        self._started = self._step_started = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
        self._live = Progress(*columns, TimeElapsedColumn(), console=out, transient=True, disable=not out.is_terminal)
        self._task = self._live.add_task("loading", total=None)

    def __enter__(self) -> "RunProgress":
        self._live.start()
        self._memory.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._memory.__exit__(kind, error, trace)
        took = seconds(time.monotonic() - self._started)
        if self.failures:
            waiting = self._planned - self._begun
            told = f"{self._done} of {self._planned} done in {took}, {self._begun - self._done} failed"
            self._out.print(told + (f", {waiting} not started because of it" if waiting else ""), style="red")
            self._tell_needs()
            self.failures.append(f"The whole log: {self._log}")
        elif error is None:
            self._out.print(f"All {self._planned} done in {took}", style="green")
            self._tell_needs()

    def announce(self, title: str) -> None:
        """The next run begins: print its title. Steps that the run before has not begun are not begun any more."""
        self._planned = self._begun
        self._out.print(title, style="bold")

    def begin_again(self, title: str) -> None:
        """Failed steps are retried, together with the steps that they have kept from starting."""
        self.failures.clear()
        self._begun = self._done
        self.announce(title)

    def plan(self, n_steps: int) -> None:
        """A process is about to execute this many more steps."""
        self._planned += n_steps
        self._live.update(self._task, total=self._planned)

    def begin(self, step: str, stage: str) -> None:
        """A step of a stage begins."""
        self._running, self._stage = step, stage
        self._notes, self._step_started = [], time.monotonic()
        self._begun += 1
        self._live.update(self._task, description=f"{self._running:<{_NAME_WIDTH}}")
        if not self._out.is_terminal:
            # The line stays open until the step ends, so that the log shows the running step at any time.
            self._out.print(f"{self._position} {self._running:<{_NAME_WIDTH}}", end="")
            self._out.file.flush()

    def end(self, *, succeeded: bool) -> None:
        """The running step has ended."""
        self._done += succeeded
        duration = time.monotonic() - self._step_started
        self._seconds[self._stage] += duration
        took = seconds(duration)
        line = Text.assemble(("✓", "green") if succeeded else ("✗", "red"), f" {took:>10}")
        if self._out.is_terminal:
            line = Text.assemble((f"{self._position} ", "dim"), f"{self._running:<{_NAME_WIDTH}}", line)
        self._out.print(line)
        for note in self._notes:
            self._out.print(Text(f"      {note}", "yellow"))
        self._live.update(self._task, completed=self._done)

    def fail(self, why: str) -> None:
        """Something failed."""
        self.failures.append(why)

    def note(self, level: int, message: str) -> None:
        """The running step logs a message."""
        if level >= logging.WARNING:
            self._notes.append(message)
        elif level == logging.INFO:
            # The live line shows the message until the next one. The log keeps it.
            self._live.update(self._task, description=message[:_LIVE_WIDTH])

    def _tell_needs(self) -> None:
        """Print the seconds of the longest stages, and the peak memory with the step that needed it."""
        stages = sorted(self._seconds.items(), key=lambda stage: -stage[1])
        named = [f"{stage} {seconds(took)}" for stage, took in stages[:_STAGES_NAMED]]
        if others := stages[_STAGES_NAMED:]:
            named.append(f"others {seconds(sum(took for _, took in others))}")
        if named:
            self._out.print(f"Time by stage: {', '.join(named)}", soft_wrap=True)
        during = f", in {self._memory.during}" if self._memory.during else ""
        self._out.print(f"Peak memory: {self._memory.peak}{during}", soft_wrap=True)

    @property
    def _position(self) -> str:
        return f"{self._begun:>{len(str(self._planned))}}/{self._planned}"
