"""The users who are to be forgotten: the list `<home>/forgotten`, one id per line, each as a JSON string.

Who is on it is left out of everything that is read or merged. The list itself has to stay, else a batch that is sent
again would bring them back.

What was made before somebody was put on the list, and what after, is told by times that come one after the other also
where the clock was set back: what is written later is given a later time.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.versions import AssetStore, write_atomically, written


def forgotten_users(home: Home) -> frozenset[str]:
    """Their ids.

    Raises:
        HomeError: the list is damaged; nothing is computed then, since somebody could come back.
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
    """When somebody was put on the list last; None where nobody is on it."""
    return modified(home.forgotten) if home.forgotten.exists() else None


def forget(home: Home, user_id: str) -> bool:
    """Put a user on the list; False if it was there already."""
    known = forgotten_users(home)
    if user_id in known:
        return False
    lines = [json.dumps(name) for name in sorted({*known, user_id})]
    write_atomically(home.forgotten, "".join(f"{line}\n" for line in lines).encode())
    _make_later(home.forgotten, max(_times_of_what_is_there(home), default=None))
    return True


def make_later_than_forgetting(home: Home, path: Path) -> None:
    """Give a file that has just been written a later time than that of the last request to forget somebody."""
    _make_later(path, last_forgotten(home))


def modified(path: Path) -> datetime:
    """When a file was written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _times_of_what_is_there(home: Home) -> Iterator[datetime]:
    for folder in AssetStore(home.assets).folders():
        yield from map(written, (folder / "versions").iterdir())
    yield from map(modified, [*home.report.parent.glob(home.report.name), *home.study.rglob("*.parquet")])


def _make_later(path: Path, than: datetime | None) -> None:
    if than is not None and modified(path) <= than:
        later = (than + timedelta(milliseconds=1)).timestamp()
        os.utime(path, (later, later))
