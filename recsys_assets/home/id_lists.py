"""Files of ids: one id per line, as a JSON string. Blocked items and the exclusion list are such files."""

import json
from collections.abc import Iterable
from pathlib import Path

from recsys_assets.home.layout import HomeError
from recsys_assets.home.unfinished import write_atomically


def read_ids(path: Path, *, of: str, way_out: str) -> frozenset[str]:
    """The ids in a file; none if the file does not exist.

    Args:
        path: the file.
        of: whose ids they are, for the message.
        way_out: how to fix the file, for the message.

    Raises:
        HomeError: a line is no id.
    """
    if not path.exists():
        return frozenset()
    ids = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, str):
            raise HomeError(
                f"{path}, line {number}: expected the id of {of} in quotes, found {line[:40]!r}. Fix the line, or "
                f"{way_out}"
            )
        ids.append(found)
    return frozenset(ids)


def write_ids(path: Path, ids: Iterable[str]) -> None:
    """Replace the ids in a file, atomically."""
    write_atomically(path, "".join(f"{json.dumps(each)}\n" for each in sorted(ids)).encode())
