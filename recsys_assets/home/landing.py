"""Changes of landing/: a batch comes in, is exchanged or leaves, and nobody ever sees half of it.

One command at a time changes landing/. Each works in one hidden folder there, because landing/ may lie on another disk
than the home, and the next command completes or clears what a killed one has left in it.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from recsys_assets.home.layout import NAMES, Home, HomeError, is_batch_name

_WORK = ".landing-changes"
# Inside of it. What lies in NEW is complete and belongs under its name in landing/; what lies in OLD is not needed.
_UNFINISHED, _NEW, _OLD = "unfinished", "new", "old"


@contextmanager
def changing(home: Home, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other changes of landing/ out, after what a killed command has left there is put right.

    Args:
        home: whose landing folder.
        waiting: called if another command has to be waited for.
    """
    lock = FileLock(home.landing_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        put_right(home)
        yield
    finally:
        lock.release()


def tidy(home: Home) -> None:
    """Put right what a killed command has left in landing/; who is changing it now has done so already."""
    with suppress(Timeout), FileLock(home.landing_lock, timeout=0):
        put_right(home)


def put_right(home: Home) -> None:
    """Complete the exchange that a killed command began, and delete what else it has left; the lock is held."""
    work = home.landing / _WORK
    for new in (work / _NEW).glob("*"):
        target = home.landing / new.name
        is_taken_out = os.path.lexists(work / _OLD / new.name)
        if not os.path.lexists(target):
            new.rename(target)
        elif is_taken_out:
            # Somebody has put another one there meanwhile.
            new.rename(free(target))
    if work.exists():
        shutil.rmtree(work)


def land(home: Home, source: Path, name: str) -> None:
    """Copy a file or folder to landing/ under a name that is free; only the owner can read the copy."""
    with _unfinished(home, name) as copied:
        if source.is_dir():
            shutil.copytree(source, copied)
        else:
            shutil.copy2(source, copied)
        for path in (copied, *copied.rglob("*")):
            path.chmod(stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR)
        copied.rename(home.landing / name)


def exchange(home: Home, name: str, write: Callable[[Path], None]) -> None:
    """Replace a landed batch by what `write` makes at the path that it is given.

    No file system replaces a folder in one step everywhere, so for a moment nothing lies under the name; `put_right`
    then finds the new one complete.
    """
    work, target = home.landing / _WORK, home.landing / name
    with _unfinished(home, name) as made:
        write(made)
        for folder in (_NEW, _OLD):
            (work / folder).mkdir()
        made.rename(work / _NEW / name)
        target.rename(work / _OLD / name)
        (work / _NEW / name).rename(target)


def move_out(home: Home, name: str) -> Path:
    """Move a landed batch to the home's folder of removed ones.

    Returns:
        Where it lies now.
    """
    home.removed.mkdir(exist_ok=True)
    source, target = home.landing / name, free(home.removed / name)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copied = home.removed / f".{os.getpid()}"
        _copy_as_it_is(source, copied)
        copied.rename(target)
        with _unfinished(home, name) as gone:
            source.rename(gone)
    return target


def free(path: Path) -> Path:
    """The path, numbered if it is taken."""
    taken = (path.with_name(f"{path.name}-{number}") for number in range(2, 10_000))
    return next(each for each in (path, *taken) if not os.path.lexists(each))


@contextmanager
def _unfinished(home: Home, name: str) -> Iterator[Path]:
    """A path in the hidden folder; nothing is left in that folder afterwards."""
    folder = home.landing / _WORK / _UNFINISHED
    folder.mkdir(parents=True)
    try:
        yield folder / name
    finally:
        put_right(home)


def _copy_as_it_is(source: Path, target: Path) -> None:
    """A copy in which links stay links."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def checked_batch_name(name: str) -> str:
    """The name, if a batch can have it.

    Raises:
        HomeError: Dagster, the landing folder or a reader of its list could not tell it from something else.
    """
    if not is_batch_name(name):
        raise HomeError(
            f"{name!r} is no name for a batch. {NAMES} Choose another with --batch, or rename the file in landing/."
        )
    return name
