"""Files and folders that have the PID of their process in the name until they are finished.

A killed process leaves them behind. Whoever deletes them must not take the file of a process that is at work.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

# The kernel's PIDs are shorter; a longer number would overflow.
_OF_A_PROCESS = re.compile(r".+-([0-9]{1,9})")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by an atomic rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        # If the disk is full, the half-written file must not keep the space.
        unfinished.unlink(missing_ok=True)


def unfinished_of(path: Path) -> list[Path]:
    """The unfinished files that `write_atomically` has beside a path, of any process."""
    return [each for each in path.parent.glob(f".{path.name}-*") if each.name[len(path.name) + 2 :].isdecimal()]


def left_behind(paths: Iterable[Path]) -> list[Path]:
    """Those of some paths whose names end with the PID of a process that has ended."""
    named = [(path, _OF_A_PROCESS.fullmatch(path.name)) for path in paths]
    return [path for path, found in named if found and not psutil.pid_exists(int(found[1]))]
