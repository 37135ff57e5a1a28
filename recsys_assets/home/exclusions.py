"""The exclusion list `<home>/forgotten`: users who are left out of every read and every merge.

The list itself must stay: without it, a batch that is sent again would bring the users back. Erasing stored data about
these users is in `erase`.

Modification times tell whether a file was written before or after the last addition to the list. A later write always
gets a later time, even if the clock was set back.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recsys_assets.home.id_lists import read_ids, write_ids
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore, written


def forgotten_users(home: Home) -> frozenset[str]:
    """The user ids on the exclusion list.

    Raises:
        HomeError: the list is damaged. No computation may go on then, because excluded users could come back.
    """
    way_out = "put the file back from a copy: a user who is missing from it comes back with the next run."
    return read_ids(home.forgotten, of="a user", way_out=way_out)


def last_forgotten(home: Home) -> datetime | None:
    """Time of the last addition to the exclusion list; None if there is no list."""
    return modified(home.forgotten) if home.forgotten.exists() else None


def forget(home: Home, user_id: str) -> bool:
    """Add a user to the exclusion list; returns False if the user was on it already.

    Raises:
        HomeError: the list is damaged.
    """
    known = forgotten_users(home)
    if user_id in known:
        return False
    write_ids(home.forgotten, {*known, user_id})
    _make_later(home.forgotten, max(_times_of_what_is_there(home), default=None))
    return True


def make_later_than_forgetting(home: Home, path: Path) -> None:
    """Give a file that was just written a modification time after the last addition to the exclusion list."""
    _make_later(path, last_forgotten(home))


def modified(path: Path) -> datetime:
    """Modification time of a file."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _times_of_what_is_there(home: Home) -> Iterator[datetime]:
    for folder in AssetStore(home.assets).folders():
        yield from map(written, (folder / "versions").iterdir())
    yield from map(modified, [*home.report.parent.glob(home.report.name), *home.study.rglob("*.parquet")])


def _make_later(path: Path, than: datetime | None) -> None:
    if than is not None and modified(path) <= than:
        later = (than + timedelta(milliseconds=1)).timestamp()
        os.utime(path, (later, later))
