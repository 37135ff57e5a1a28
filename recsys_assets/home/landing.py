"""Changes of `landing/`: adds, replaces or removes a batch, so that no reader ever sees half of it.

One command at a time changes `landing/`. Each command works in a hidden folder inside `landing/`, because `landing/`
may be on another disk than the home. If a command is killed, the next one completes its change or deletes its files.
Listing and hashing landed files is in `landed`.
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
# Folders inside it. A file in NEW is complete and has to be moved to landing/; files in OLD have been replaced.
_UNFINISHED, _NEW, _OLD = "unfinished", "new", "old"
# Longer than the names of temporary folders, which `compact` deletes.
_DOWNLOADS = ".downloads"


@contextmanager
def changing(home: Home, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of `landing/`, after repairing the change of a killed command.

    Args:
        home: the home with the landing folder.
        waiting: called if another command holds the lock.
    """
    with _held(home.landing_lock, waiting):
        put_right(home)
        yield


@contextmanager
def downloading(home: Home, waiting: Callable[[], None]) -> Iterator[Path]:
    """Hold the lock of downloads, which leaves `landing/` to others, and give the folder for them.

    What a download that broke off leaves in the folder stays for the next one.

    Args:
        home: the home with the landing folder.
        waiting: called if another command holds the lock.
    """
    folder = home.landing / _DOWNLOADS
    with _held(home.download_lock, waiting):
        try:
            yield folder
        finally:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def _held(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def tidy(home: Home) -> None:
    """Repair the change of a killed command, unless another command is changing `landing/` and has repaired it."""
    with suppress(Timeout), FileLock(home.landing_lock, timeout=0):
        put_right(home)


def put_right(home: Home) -> None:
    """Complete the exchange of a killed command, and delete its other files. The caller holds the lock."""
    work = home.landing / _WORK
    for new in (work / _NEW).glob("*"):
        target = home.landing / new.name
        is_taken_out = os.path.lexists(work / _OLD / new.name)
        if not os.path.lexists(target):
            new.rename(target)
        elif is_taken_out:
            # A new file has landed under the same name and must not be overwritten.
            new.rename(free(target))
    if work.exists():
        shutil.rmtree(work)


def land(home: Home, source: Path, name: str) -> None:
    """Copy a file or folder to `landing/` under a name that is free. Only the owner can read the copy."""
    with _unfinished(home, name) as copied:
        if source.is_dir():
            shutil.copytree(source, copied)
        else:
            shutil.copy2(source, copied)
        for path in (copied, *copied.rglob("*")):
            path.chmod(stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR)
        copied.rename(home.landing / name)


def exchange(home: Home, name: str, write: Callable[[Path], None]) -> None:
    """Replace a landed batch.

    A folder cannot be replaced atomically on every file system, so for a moment nothing exists under the name. If the
    command is killed in that moment, `put_right` moves the complete new batch into place.

    Args:
        home: the home with the landing folder.
        name: name of the batch.
        write: writes the new batch to the path that it is given.
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
    """Move a landed batch to the home's folder `removed`.

    Returns:
        Its new path.

    Raises:
        OSError: the batch cannot be moved, for example because the disk is full.
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
    """The path, or a numbered path if the path exists."""
    taken = (path.with_name(f"{path.name}-{number}") for number in range(2, 10_000))
    return next(each for each in (path, *taken) if not os.path.lexists(each))


@contextmanager
def _unfinished(home: Home, name: str) -> Iterator[Path]:
    """A path in the hidden folder, which is deleted afterwards."""
    folder = home.landing / _WORK / _UNFINISHED
    folder.mkdir(parents=True)
    try:
        yield folder / name
    finally:
        put_right(home)


def _copy_as_it_is(source: Path, target: Path) -> None:
    """Copy a file or folder; links stay links."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def checked_batch_name(name: str) -> str:
    """The name of a batch, checked.

    Raises:
        HomeError: the name is not allowed for a batch; see `is_batch_name`.
    """
    if not is_batch_name(name):
        raise HomeError(no_batch_name(name))
    return name


def no_batch_name(name: str) -> str:
    """What to do about a name that is not allowed for a batch."""
    return (
        f"{name!r} is not allowed as the name of a batch. {NAMES} Choose another name with --batch, or rename the file "
        "in landing/."
    )
