"""Whether a home is served, at which address and by which PID.

A lock tells whether the home is served, because a dead process holds no lock. Starting the services is in `cli.serve`.
"""

import os

from filelock import FileLock, Timeout

from recsys_assets.errors import RecsysError
from recsys_assets.home.layout import Home
from recsys_assets.home.unfinished import write_atomically

# The services of a killed `serve` need up to two seconds to end.
_LAST_SECONDS = 5


def keep_others_out(home: Home) -> FileLock:
    """Acquire the lock of `serve`. Two daemons would request every run twice.

    The caller must keep a reference, because filelock releases a lock that is garbage collected.

    Raises:
        RecsysError: the home is served already; the message names address and PID.
    """
    lock = _lock(home)
    try:
        lock.acquire(timeout=_LAST_SECONDS)
    except Timeout:
        address, pid = _recorded(home)
        raise RecsysError(
            f"This home is served already: {address} by process {pid} ({home.path}). `kill {pid}` ends it."
        ) from None
    return lock


def record(home: Home, address: str) -> None:
    """Record the address (such as http://127.0.0.1:3000) and the PID of this process, which serves the home."""
    write_atomically(home.served_at, f"{address}\n{os.getpid()}\n".encode())


def served_at(home: Home) -> str | None:
    """The address of the UI if the home is served; else None."""
    lock = _lock(home)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _recorded(home)[0]
    lock.release()
    return None


def _lock(home: Home) -> FileLock:
    return FileLock(home.dagster / ".serve.lock")


def _recorded(home: Home) -> tuple[str | None, int | None]:
    """The address and the PID that the last `serve` recorded."""
    if not home.served_at.exists():
        return None, None
    address, *pid = home.served_at.read_text().split()
    # Earlier versions recorded no PID.
    return address, int(pid[0]) if pid else None
