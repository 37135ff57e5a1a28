"""The users who are to be forgotten: the list `<home>/forgotten`, one id per line, each as a JSON string.

Who is on it is left out of everything that is read or merged. The list itself has to stay, else a batch that is sent
again would bring them back.
"""

import json
from datetime import UTC, datetime

from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.versions import write_atomically


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
    return datetime.fromtimestamp(home.forgotten.stat().st_mtime, UTC) if home.forgotten.exists() else None


def forget(home: Home, user_id: str) -> bool:
    """Put a user on the list; False if it was there already."""
    known = forgotten_users(home)
    if user_id in known:
        return False
    lines = [json.dumps(name) for name in sorted({*known, user_id})]
    write_atomically(home.forgotten, "".join(f"{line}\n" for line in lines).encode())
    return True
