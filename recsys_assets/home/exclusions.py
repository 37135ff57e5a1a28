"""The exclusion list `<home>/forgotten`: users who are left out of every read and every merge.

The file has one user id per line, as a JSON string. The list itself must stay: without it, a batch that is sent again
would bring the users back. Erasing stored data about these users is in `erase`.

Modification times tell whether a file was written before or after the last addition to the list. A later write always
gets a later time, even if the clock was set back.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.versions import AssetStore, write_atomically, written


def forgotten_users(home: Home) -> frozenset[str]:
    """The user ids on the exclusion list.

    Raises:
        HomeError: the list is damaged. No computation may go on then, because excluded users could come back.
    """
    if not home.forgotten.exists():
        return frozenset()
    lines = home.forgotten.read_bytes().splitlines()
    return frozenset(_user_id(home, number, line) for number, line in enumerate(lines, 1))


def _user_id(home: Home, number: int, line: bytes) -> str:
    try:
        user_id = json.loads(line)
        if isinstance(user_id, str):
            return user_id
    except ValueError:
        pass
    raise HomeError(
        f"{home.forgotten}, line {number}: expected the id of a user in quotes, found {line[:40]!r}. Mend the line, or "
        "put the file back from a copy: who is not in it comes back with the next run."
    )


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
    lines = [json.dumps(name) for name in sorted({*known, user_id})]
    write_atomically(home.forgotten, "".join(f"{line}\n" for line in lines).encode())
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
