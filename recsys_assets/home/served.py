"""Whether a home is being served, where and by which process; told from a lock, which no dead process holds."""

import os

from filelock import FileLock, Timeout

from recsys_assets.errors import RecsysError
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import write_atomically

# What a killed `serve` has left needs a second or two to end.
_LAST_SECONDS = 5


def keep_others_out(home: Home) -> FileLock:
    """A lock that must be kept: filelock gives back what nobody refers to.

    Raises:
        RecsysError: the home is served already: two daemons would ask for everything twice.
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
    """Write down that this process serves the home, at an address such as http://127.0.0.1:3000."""
    write_atomically(home.served_at, f"{address}\n{os.getpid()}\n".encode())


def served_at(home: Home) -> str | None:
    """The address of the UI of a home that is being served; None where it is not."""
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
    """The address and the process that the last `serve` has recorded."""
    if not home.served_at.exists():
        return None, None
    address, *pid = home.served_at.read_text().split()
    # Earlier versions recorded no process.
    return address, int(pid[0]) if pid else None
