"""The commands `batches`, `remove` and `forget`: list batches, remove a batch, exclude a user.

New batches land by the commands in `landing`.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import polars as pl
import typer
from rich.console import Console

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.run import environment, launch, locked, show_results
from recsys_assets.cli.terminal import CommandError, HomeOption, console, follow_up, nearest, table
from recsys_assets.home.batches import read_batches
from recsys_assets.home.java import check_java
from recsys_assets.home.layout import Home

_PANEL = "Data and settings"
_LIMIT = "RECSYS_CHECKS__MAX_ROW_DROP"
NoRunOption = Annotated[
    bool, typer.Option("--no-run", help="Compute nothing now, as when several are to follow; the next `run` does it.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (batches, remove, forget):
        app.command(rich_help_panel=_PANEL)(command)


@dataclass(frozen=True)
class Listed:
    """One batch: name, time of reading (or else of landing), good ratings, rejected rows, state in words."""

    name: str
    when: datetime
    rows: int | None
    rejected: int | None
    state: str


def batches(home: HomeOption = None) -> None:
    """List the batches with time, ratings, rejected rows and state.

    Example: `recsys-assets batches`
    """
    here, out = Home.resolve(home), console()
    found = listed(here)
    if not found:
        out.print(
            f"No batch has landed. Next: {follow_up('add PATH', here)}, or {follow_up('run', here)}", soft_wrap=True
        )
        return
    shown = table("Batch", "When", "Ratings", "Rejected", "State", numbers=("Ratings", "Rejected"))
    for batch in found:
        numbers = ("–" if count is None else f"{count:,}" for count in (batch.rows, batch.rejected))
        shown.add_row(batch.name, f"{batch.when:%Y-%m-%d %H:%M}", *numbers, batch.state)
    out.print(shown)


def remove(
    batch: Annotated[str, typer.Argument(help="The batch, by the name that `batches` shows.")],
    no_run: NoRunOption = False,
    home: HomeOption = None,
) -> None:
    """Remove a batch, and merge and compute everything again without it.

    The landed file is moved to `removed/` in the home, and the next `compact` deletes it. If the command is
    interrupted, run it again.

    Example: `recsys-assets remove 2024-05.csv`
    """
    from recsys_assets.orchestration.taking_out import read_once, take_out

    if not no_run:
        check_java()
    here, out = Home.resolve(home), console()
    names, was_read = [each.name for each in listed(here)], batch in read_once(here)
    is_moved = os.path.lexists(here.removed / batch)
    if not (batch in names or was_read or is_moved):
        alike = nearest(batch, names, whole=True)
        raise CommandError(f"There is no batch {batch!r}." + (f" Nearest: {', '.join(alike)}." if alike else ""))
    others = read_batches(here) - {batch}
    if batch in read_batches(here) and not others:
        raise CommandError(
            f"{batch} is the only batch that was read; without it there is nothing to compute. Add another one first, "
            f"or delete the home ({here.path})."
        )
    with locked(here):
        moved_to = take_out(here, batch)
        where = f"what landed lies in {moved_to}" if moved_to else f"what landed is not in {here.landing} any more"
        out.print(f"{batch} is taken out; {where}", soft_wrap=True)
        is_to_run = was_read and bool(others)
        if is_to_run and no_run:
            out.print(f"Next: {follow_up('run', here)}", soft_wrap=True)
        elif is_to_run:
            run_without(here, out)
    if is_to_run and not no_run:
        show_results(here, out)


def forget(
    user_id: Annotated[str, typer.Argument(help="The user's id in your data.")],
    no_run: NoRunOption = False,
    home: HomeOption = None,
) -> None:
    """Exclude a user from everything that is read or computed from now on, and compute everything again.

    The id stays in the file `forgotten` of the home, so that no batch brings the user back. Landed files, raw tables
    and old versions contain the user until the next `compact`.

    Example: `recsys-assets forget 42 && recsys-assets compact`
    """
    from recsys_assets.home import exclusions as forgotten
    from recsys_assets.home.erase import is_known_user

    if not no_run:
        check_java()
    here, out = Home.resolve(home), console()
    if user_id in forgotten.forgotten_users(here):
        out.print(
            f"{user_id} is forgotten already. Next: {follow_up('run', here)}, if the run after that was broken off",
            soft_wrap=True,
        )
        return
    if not is_known_user(here, user_id):
        ids = Reader(here).table("users").select("user_id").collect()["user_id"].to_list()
        alike = nearest(user_id, ids, whole=True)
        hint = f" Nearest: {', '.join(alike)}." if alike else ""
        raise CommandError(f"No batch that was read names a user {user_id!r}.{hint}")
    with locked(here):
        forgotten.forget(here, user_id)
        if no_run:
            out.print(f"{user_id} will be left out. Next: {follow_up('run', here)}", soft_wrap=True)
            return
        run_without(here, out)
    out.print(
        f"{user_id} is left out of everything that is computed. Landed files, raw tables and old versions still hold "
        f"the user: {follow_up('compact', here)}",
        soft_wrap=True,
    )


def listed(home: Home) -> list[Listed]:
    """The batches in order of time, ingested batches first."""
    read, landed = read_batches(home), set(home.landed_batches())
    found = [_listed(home, name, name in read, name in landed) for name in {*read, *landed}]
    return sorted(found, key=lambda batch: (batch.rows is None, batch.when, batch.name))


def _listed(home: Home, name: str, is_read: bool, is_landed: bool) -> Listed:
    if not is_read:
        path, refused = home.landing / name, home.rejected / f"{name}.csv"
        state = f"refused, see {refused}" if refused.exists() else "not read yet"
        if not path.exists():
            state = f"cannot be read: a link to {path.readlink()}, and nothing lies there"
        return Listed(name, datetime.fromtimestamp(path.lstat().st_mtime, UTC), None, None, state)
    reader = Reader(home)
    rows, rejected = (
        int(reader.table(asset, name).select(pl.len()).collect().item()) for asset in ("raw_ratings", "rejected_rows")
    )
    when = datetime.fromtimestamp(reader.store.current(["raw_ratings"], name).stat().st_mtime, UTC)
    return Listed(name, when, rows, rejected, "read" if is_landed else "read; what landed is gone")


def run_without(home: Home, out: Console) -> None:
    """Execute the runs that the home needs. Fewer rows than before are meant here, so no check may stop the runs."""
    with environment({_LIMIT: "1"}):
        launch(home, out)
