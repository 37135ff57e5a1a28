"""Blocked items, `<home>/blocked`, and the rules for lists of a home.

The file has one item id per line, as a JSON string. What the rules mean is in `recommender.ranking.rules`.
"""

import json
from collections.abc import Callable

from filelock import FileLock

from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.versions import write_atomically
from recsys_assets.recommender.ranking.rules import Rules
from recsys_assets.recommender.serving.settings import ServingSettings


def rules_for_lists(home: Home, serving: ServingSettings, blocked: frozenset[str] | None = None) -> Rules:
    """The rules of a home: its settings and its blocked items.

    Args:
        home: the home.
        serving: its settings for lists.
        blocked: ids of items that take the place of the blocked ones; by default those of the home.

    Raises:
        HomeError: the file of blocked items is damaged.
    """
    return Rules(
        where=serving.where,
        exclude_rated=serving.exclude_rated,
        exclude_rated_days=serving.exclude_rated_days,
        blocked=blocked_items(home) if blocked is None else blocked,
        max_per_value=serving.max_per_value,
    )


def blocked_items(home: Home) -> frozenset[str]:
    """The ids of the blocked items.

    Raises:
        HomeError: the file is damaged. No list may be made then, because blocked items could come back.
    """
    if not home.blocked.exists():
        return frozenset()
    lines = home.blocked.read_bytes().splitlines()
    return frozenset(_item_id(home, number, line) for number, line in enumerate(lines, 1))


def changed_blocked(home: Home, change: Callable[[frozenset[str]], frozenset[str]]) -> frozenset[str]:
    """Replace the blocked items, atomically, and return their ids.

    Args:
        home: the home.
        change: returns the ids to block from those that are blocked. If it raises, nothing changes.

    Raises:
        HomeError: the file is damaged.
    """
    # Readers see the old file or the new one; the lock keeps two writers apart.
    with FileLock(home.blocked.with_name(f".{home.blocked.name}.lock")):
        item_ids = change(blocked_items(home))
        lines = (f"{json.dumps(item_id)}\n" for item_id in sorted(item_ids))
        write_atomically(home.blocked, "".join(lines).encode())
    return item_ids


def _item_id(home: Home, number: int, line: bytes) -> str:
    try:
        item_id = json.loads(line)
        if isinstance(item_id, str):
            return item_id
    except ValueError:
        pass
    raise HomeError(
        f"{home.blocked}, line {number}: expected the id of an item in quotes, found {line[:40]!r}. Mend the line, or "
        "delete the file and block the items again."
    )
