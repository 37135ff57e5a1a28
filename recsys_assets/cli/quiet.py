"""Keeps what libraries and child processes print away from the terminal: it goes to the log file of the run."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console

from recsys_assets.cli.terminal import console

_LOGS_KEPT = 20


@contextmanager
def quiet(logs: Path, out: Console) -> Iterator[tuple[Console, Path]]:
    """Send whatever this process and its children print into a new log file below `logs`.

    Spark's JVM and many libraries write to the process's own file descriptors, so those are what is redirected. The
    console that is yielded still reaches where `out` goes.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("*.log"))[:-_LOGS_KEPT]:
        old.unlink(missing_ok=True)
    log = logs / f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{os.getpid()}.log"
    with ExitStack() as stack:
        terminal = _console_of_its_own(out, stack)
        sink = stack.enter_context(log.open("ab"))
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            stack.callback(_restore, os.dup(descriptor), descriptor)
            stack.callback(stream.flush)
            os.dup2(sink.fileno(), descriptor)
        yield terminal, log


def _restore(saved: int, descriptor: int) -> None:
    os.dup2(saved, descriptor)
    os.close(saved)


def _console_of_its_own(out: Console, stack: ExitStack) -> Console:
    """A console on a copy of the descriptor that `out` writes to; `out` itself where it writes to no file."""
    try:
        descriptor = os.dup(out.file.fileno())
    except (OSError, io.UnsupportedOperation):
        return out
    copy = stack.enter_context(os.fdopen(descriptor, "w", encoding=out.encoding, errors="replace"))
    return console(file=copy, width=out.width)
