"""Whether a home is locked. `orchestration.locking` takes the lock for runs, `cli.run.locked` for commands."""

from filelock import FileLock, Timeout

from recsys_assets.home import remote
from recsys_assets.home.layout import Home


def is_locked(home: Home) -> bool:
    """Whether a run or a command holds the home's lock. A command holds it between its runs as well."""
    if remote.is_held(home.path):
        return True
    if not home.lock.exists():
        return False
    try:
        with FileLock(home.lock, timeout=0):
            return False
    except Timeout:
        return True
