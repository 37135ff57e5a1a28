"""The processes that one process has started in a session of its own, and they in turn: seen and killed as one."""

import os
from contextlib import suppress

import psutil


def kill_session(leader: int) -> None:
    """Kill all living processes of a session but the caller, whoever their parent is by now."""
    while left := _others_of(leader):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


def _others_of(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.NoSuchProcess):
            is_of_it = os.getsid(process.pid) == leader and process.pid != os.getpid()
            if is_of_it and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
