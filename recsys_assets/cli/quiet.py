"""Redirects the output of libraries and child processes from the terminal to the log file of the run.

The command's own output on the terminal is in `progress`.
"""

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
    """Redirect the output of this process and its children to a new log file in `logs`.

    Spark's JVM and many libraries write to the file descriptors of the process, so the descriptors themselves are
    redirected. The yielded console still prints to the destination of `out`.
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
    """A console on a copy of the file descriptor of `out`; `out` itself if it has no file descriptor."""
    try:
        descriptor = os.dup(out.file.fileno())
    except (OSError, io.UnsupportedOperation):
        return out
    copy = stack.enter_context(os.fdopen(descriptor, "w", encoding=out.encoding, errors="replace"))
    return console(file=copy, width=out.width)
