"""Memory that a process and its descendants use, sampled while a run works. `progress` prints the peak."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import psutil

_GIB = 2**30
_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process and its descendants, in bytes. Pages that two processes share count twice.

    Attributes:
        python: of all processes that are not a JVM.
        jvm: of all JVMs.
    """

    python: int
    jvm: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.python + self.jvm

    def __str__(self) -> str:
        split = f" (Python {self.python / _GIB:.1f}, JVM {self.jvm / _GIB:.1f})" if self.jvm else ""
        return f"{self.total / _GIB:.1f} GiB{split}"


def used_by(process: psutil.Process) -> Memory:
    """The memory that a process and its descendants use now; nothing for those that have just ended."""
    python = jvm = 0
    processes = [process]
    with suppress(psutil.NoSuchProcess):
        processes += process.children(recursive=True)
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            is_jvm, used = one.name().startswith("java"), one.memory_info().rss
            python, jvm = (python, jvm + used) if is_jvm else (python + used, jvm)
    return Memory(python, jvm)


class PeakMemory:
    """Samples the memory of this process and its descendants in a thread. A peak between two samples is missed.

    Args:
        doing: returns what the process is doing; called at each new peak.

    Attributes:
        peak: the sample with the largest sum.
        during: what the process was doing then.
    """

    def __init__(self, doing: Callable[[], str]) -> None:
        self.peak = Memory(0, 0)
        self.during = ""
        self._doing = doing
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        here = psutil.Process()
        while True:
            used = used_by(here)
            if used.total > self.peak.total:
                self.peak, self.during = used, self._doing()
            if self._ended.wait(_EVERY_SECONDS):
                return
