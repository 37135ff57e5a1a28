"""Kills all processes of a session: the session leader's children and their descendants.

`cli.serve` and `services` decide when. Signals to this process are handled in `ending`.
"""

import os
from contextlib import suppress

import psutil


def kill_session(leader: int) -> None:
    """Kill all living processes of a session except the caller, including processes with another parent by now."""
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
