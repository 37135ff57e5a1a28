"""Blocked items, `<home>/blocked`, and the rules for lists of a home.

The file has one item id per line, as a JSON string. What the rules mean is in `recommender.ranking.rules`.
"""

import json
from collections.abc import Collection

from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.settings import ServingSettings
from recsys_assets.home.versions import write_atomically
from recsys_assets.recommender.ranking.rules import Rules


def rules_for_lists(home: Home, serving: ServingSettings) -> Rules:
    """The rules of a home: its settings and its blocked items.

    Raises:
        HomeError: the file of blocked items is damaged.
    """
    return Rules(
        where=serving.where,
        exclude_rated=serving.exclude_rated,
        exclude_rated_days=serving.exclude_rated_days,
        blocked=blocked_items(home),
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


def set_blocked(home: Home, item_ids: Collection[str]) -> None:
    """Replace the blocked items, atomically."""
    lines = (f"{json.dumps(item_id)}\n" for item_id in sorted({*item_ids}))
    write_atomically(home.blocked, "".join(lines).encode())


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
