"""The commands `block`, `unblock` and `blocked`: items that are in no list.

The file behind them is `home.blocking`; conditions on items are settings (`[serving] where`).
"""

from collections.abc import Callable
from typing import Annotated

import polars as pl
import typer
from rich.console import Console

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import HomeOption, console, follow_up, table, titled
from recsys_assets.home.blocking import blocked_items, changed_blocked, rules_for_lists
from recsys_assets.home.settings import Settings

_PANEL = "Data and settings"
_ItemIds = Annotated[list[str], typer.Argument(help="Ids of items in your data.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (block, unblock, blocked):
        app.command(rich_help_panel=_PANEL)(command)


def block(item_ids: _ItemIds, home: HomeOption = None) -> None:
    """Leave items out of all lists, from the next `recommend` on. No model is fitted.

    The ids stay in the file `blocked` of the home until `unblock`.

    Example: `recsys-assets block 50 181`
    """
    reader, out = Reader.of(home), console()
    for item_id in item_ids:
        reader.item(item_id)
    _change(reader, out, lambda known: known | {*item_ids})


def unblock(item_ids: _ItemIds, home: HomeOption = None) -> None:
    """Allow blocked items in lists again, from the next `recommend` on.

    Example: `recsys-assets unblock 50 181`
    """
    reader, out = Reader.of(home), console()
    known = blocked_items(reader.home)
    for item_id in item_ids:
        if item_id not in known:
            out.print(f"{item_id} was not blocked.", soft_wrap=True)
    _change(reader, out, lambda known: known - {*item_ids})


def blocked(home: HomeOption = None) -> None:
    """List the blocked items.

    Example: `recsys-assets blocked`
    """
    reader, out = Reader.of(home), console()
    known = blocked_items(reader.home)
    if not known:
        out.print(f"No item is blocked. Next: {follow_up('block ITEM', reader.home)}", soft_wrap=True)
        return
    items = reader.table("items").filter(pl.col("item_id").is_in(sorted(known))).collect()
    rows = {row["item_id"]: titled(row) for row in items.iter_rows(named=True)}
    listed = table("Id", "Title", numbers=("Id",))
    for item_id in sorted(known):
        listed.add_row(item_id, rows.get(item_id, "– (not in the catalogue)"))
    out.print(listed)


def _change(reader: Reader, out: Console, change: Callable[[frozenset[str]], frozenset[str]]) -> None:
    """Replace the blocked items, unless that leaves nothing to show."""
    serving, items = Settings.load(reader.home).serving, reader.table("items").collect()

    def checked(known: frozenset[str]) -> frozenset[str]:
        changed = change(known)
        rules_for_lists(reader.home, serving, changed).allowed(items)
        return changed

    n = len(changed_blocked(reader.home, checked))
    out.print(
        f"{n:,} items are blocked. `recommend USER` applies this at once; for the table of all lists: "
        f"{follow_up('recommend --everybody', reader.home)}",
        soft_wrap=True,
    )
