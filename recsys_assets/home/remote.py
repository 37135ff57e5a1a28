"""Homes on object stores: the store is the truth, and a private folder of this machine is the home's working copy.

All other modules work on the working copy, a home like any other; they call this module, which does nothing for a home
that is a folder. `working_copy` brings copy and store together.
"""

import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recsys_assets.home.object_store import Store, StoreConflictError, StoreError, StoreLockedError
from recsys_assets.home.working_copy import ABSENT, OWN, OWNER, WorkingCopy

__all__ = ["StoreConflictError", "StoreError", "StoreLockedError"]

# Typer hands over a path, and a path keeps one slash of s3://bucket/home.
_URL = re.compile(r"([a-z][a-z0-9+]+):/+([^/].*?)/*", re.IGNORECASE)


def url_of(given: str | Path) -> str | None:
    """The URL of a home on a store; None for a path.

    Raises:
        StoreError: the URL is that of a folder.
    """
    found = _URL.fullmatch(str(given))
    if found and found[1].lower() == "file":
        raise StoreError(f"{given}: a home on this machine is given by its folder, without file://.")
    return f"{found[1].lower()}://{found[2]}" if found else None


def working_copy(url: str) -> Path:
    """The folder of this machine for the home at a URL: below RECSYS_CACHE, else in the user's cache directory."""
    cache = os.environ.get("RECSYS_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = re.sub(r"[^\w.-]+", "-", url.partition("://")[2])[-60:]
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    folder = Path(cache).expanduser().resolve() / "recsys_assets" / "homes" / f"{name}-{digest}"
    own = folder / OWN
    if not (own / "url").exists():
        folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        own.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        WorkingCopy(folder).begin(url)
    return folder


def address(folder: Path) -> str:
    """What `--home` takes for a home: its URL if the folder is a working copy, else the folder."""
    copy = copy_of(folder)
    return copy.store.url if copy else str(folder)


def copy_of(folder: Path) -> "WorkingCopy | None":
    """The working copy in a folder; None for a home that is the folder itself."""
    return WorkingCopy(folder) if (folder / OWN / "url").exists() else None


def pull(folder: Path, *, landing: bool = False) -> None:
    """Bring a working copy to the state of its store, unless a process of this machine works on it.

    Args:
        folder: the home.
        landing: whether to fetch landed objects, too.
    """
    if copy := copy_of(folder):
        copy.pull(landing=landing)


def push(folder: Path, switched: Sequence[Path] = ()) -> None:
    """Bring what has changed in a working copy to its store.

    Args:
        folder: the home.
        switched: written versions that become the present ones.
    """
    if copy := copy_of(folder):
        copy.push(switched)


def fetch(version: Path) -> None:
    """Fetch the files of a stored version if they are in the store alone."""
    if (version / ABSENT).exists():
        next(copy for folder in version.parents if (copy := copy_of(folder))).fetch(version)


def stored(url: str, name: str) -> bytes | None:
    """A small file of the home at a URL; None if there is no such home, or no such file in it."""
    store = Store(url)
    # Of a bucket that is gone, `newest` would raise an error.
    number = store.last()
    entry = store.commit(number).files.get(name) if number else None
    return store.read(entry[0]) if entry else None


def is_held(folder: Path) -> bool:
    """Whether another machine held the home's lock in the store when it was last looked at."""
    copy = copy_of(folder)
    lock = copy.base.commit.lock if copy else None
    return copy is not None and lock is not None and lock.is_live and lock.copy != copy.name


def begin_erasing(folder: Path) -> list[str]:
    """Fetch everything that a home has in its store, so that all of it can be searched.

    Returns:
        Keys of all objects, for `end_erasing`.
    """
    copy = copy_of(folder)
    if copy is None:
        return []
    copy.fetch_all()
    return [*copy.store.objects("")]


def end_erasing(folder: Path, keys: Sequence[str]) -> None:
    """Erase in a home's store what was erased in its working copy, and uploads of killed runs.

    Args:
        folder: the home.
        keys: objects to delete if nothing names them any more. Another machine may upload new ones at any time.

    Raises:
        StoreError: an object could not be deleted.
    """
    if copy := copy_of(folder):
        copy.push()
        copy.delete_unnamed(keys)


def never_read(folder: Path) -> list[str]:
    """Landed objects of a home's store that no command reads, so that nothing has searched them either."""
    copy = copy_of(folder)
    return copy.never_read() if copy else []


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold the lock of a home in its store, over all machines. The caller holds the lock of the folder.

    Raises:
        StoreLockedError: a process of another machine holds it.
    """
    copy = copy_of(folder)
    if copy is None:
        yield
        return
    copy.take_lock()
    ended = threading.Event()
    beats = threading.Thread(target=copy.keep_lock, args=(ended,), daemon=True)
    beats.start()
    try:
        copy.complete_exchanges()
        yield
    finally:
        ended.set()
        beats.join()
        try:
            copy.push(unlock=True)
        finally:
            os.environ.pop(OWNER, None)
