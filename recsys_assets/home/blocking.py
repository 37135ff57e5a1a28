"""Blocked items, `<home>/blocked`, and the rules for lists of a home. `recommender.ranking.rules` applies the rules."""

from collections.abc import Callable

from filelock import FileLock

from recsys_assets.home.id_lists import read_ids, write_ids
from recsys_assets.home.layout import Home
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
    return read_ids(home.blocked, of="an item", way_out="delete the file and block the items again.")


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
        write_ids(home.blocked, item_ids)
    return item_ids
