"""The commands `batches`, `remove` and `forget`: list batches, remove a batch, exclude a user.

New batches land by the commands in `landing`.
"""

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from textwrap import shorten
from typing import Annotated

import polars as pl
import typer
from rich.console import Console

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.run import environment, launch, locked, show_results
from recsys_assets.cli.terminal import WAITING, CommandError, HomeOption, console, follow_up, nearest, table
from recsys_assets.home.batches import read_batches, why_refused
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import require_java

_PANEL = "Data and settings"
_LONGEST_REASON = 400
# An error message lists this many batches.
_NAMED = 10
_LIMIT = "RECSYS_CHECKS__MAX_ROW_DROP"
NoRunOption = Annotated[
    bool, typer.Option("--no-run", help="Compute nothing now; the next `run` does it. Useful before further changes.")
]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation. Without a terminal, the command never asks.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]


def go_on(told: str, out: Console, *, yes: bool, dry_run: bool) -> bool:
    """Print what a command is about to do, and ask a person at a terminal for confirmation.

    Raises:
        typer.Exit: the person says no.
    """
    out.print(told, soft_wrap=True)
    if dry_run:
        out.print("Nothing was changed (--dry-run).")
    elif not yes and _is_asked() and not typer.confirm("Go on?"):
        raise typer.Exit(1)
    return not dry_run


def _is_asked() -> bool:
    return sys.stdin.isatty()


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (batches, remove, forget):
        app.command(rich_help_panel=_PANEL)(command)


@dataclass(frozen=True)
class Listed:
    """One batch: name, time of reading (or else of landing), good ratings, rejected rows, state and reason in words."""

    name: str
    when: datetime
    rows: int | None
    rejected: int | None
    state: str
    reason: str = ""


def batches(home: HomeOption = None) -> None:
    """List the batches with time, ratings, rejected rows and state, and the reason of each refusal.

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
    refused = [batch.reason for batch in found if batch.reason]
    for reason in refused:
        out.print(f"\n{shorten(reason, _LONGEST_REASON)}", soft_wrap=True)
    if refused:
        out.print(
            f"Fix the file in {here.landing}, or change the setting that its reason names in {here.settings_file}. "
            f"Next: {follow_up('run', here)}",
            soft_wrap=True,
        )


def remove(
    batch: Annotated[str, typer.Argument(help="The batch, by the name that `batches` shows.")],
    no_run: NoRunOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    home: HomeOption = None,
) -> None:
    """Remove a batch, and merge and compute everything again without it.

    The landed file is moved to `removed/` in the home, and the next `compact` deletes it. If the command is
    interrupted, run it again.

    Examples: `recsys-assets remove 2024-05.csv --dry-run`, `recsys-assets remove 2024-05.csv`
    """
    from recsys_assets.orchestration.taking_out import read_once, take_out

    here, out = Home.resolve(home), console()
    if not no_run:
        require_java(here)
    names, was_read = [each.name for each in listed(here)], batch in read_once(here)
    is_moved = os.path.lexists(here.removed / batch)
    if not (batch in names or was_read or is_moved):
        alike = nearest(batch, names, whole=True)
        hint = (
            f" Nearest: {', '.join(alike)}." if alike else f" There are: {', '.join(names[:_NAMED])}." if names else ""
        )
        raise CommandError(f"There is no batch {batch!r}.{hint} `recsys-assets batches` lists them.")
    others = _others(here, batch)
    told = _taking_out(here, batch, others if was_read and not no_run else set())
    if not go_on(told, out, yes=yes, dry_run=dry_run):
        return
    with locked(here):
        # During the question, somebody may have removed the others.
        is_to_run = was_read and bool(_others(here, batch))
        moved_to = take_out(here, batch, partial(out.print, WAITING))
        where = f"its source is in {moved_to}" if moved_to else f"its source is no longer in {here.landing}"
        out.print(f"{batch} is removed; {where}", soft_wrap=True)
        if is_to_run and no_run:
            out.print(f"Next: {follow_up('run', here)}", soft_wrap=True)
        elif is_to_run:
            run_without(here, out)
    if is_to_run and not no_run:
        show_results(here, out)


def forget(
    user_id: Annotated[str, typer.Argument(help="The user's id in your data.")],
    no_run: NoRunOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    home: HomeOption = None,
) -> None:
    """Exclude a user from everything that is read or computed from now on, and compute everything again.

    The id stays in the file `forgotten` of the home, so that no batch brings the user back. Landed files, raw tables
    and old versions contain the user until the next `compact`.

    Examples: `recsys-assets forget 42 --dry-run`, `recsys-assets forget 42 && recsys-assets compact`
    """
    from recsys_assets.home import exclusions as forgotten
    from recsys_assets.home.erase import is_known_user

    here, out = Home.resolve(home), console()
    if not no_run:
        require_java(here)
    if user_id in forgotten.forgotten_users(here):
        out.print(
            f"{user_id} is already forgotten. If the run after it was interrupted: {follow_up('run', here)}",
            soft_wrap=True,
        )
        return
    if not is_known_user(here, user_id):
        ids = Reader(here).table("users").select("user_id").collect()["user_id"].to_list()
        alike = nearest(user_id, ids, whole=True)
        hint = f" Nearest: {', '.join(alike)}." if alike else ""
        raise CommandError(f"No ingested batch has a user {user_id!r}.{hint}")
    rest = "" if no_run else ", and everything is computed again"
    told = f"User {user_id} {_rated(here, user_id)}is left out of everything from now on{rest}. This cannot be undone."
    if not go_on(told, out, yes=yes, dry_run=dry_run):
        return
    with locked(here):
        forgotten.forget(here, user_id)
        if no_run:
            out.print(f"{user_id} will be left out. Next: {follow_up('run', here)}", soft_wrap=True)
            return
        run_without(here, out)
    out.print(
        f"{user_id} is left out of everything that is computed. Landed files, raw tables and old versions still "
        f"contain the user: {follow_up('compact', here)}",
        soft_wrap=True,
    )


def _others(home: Home, batch: str) -> set[str]:
    """The batches that were read, without one of them.

    Raises:
        CommandError: no other batch was read.
    """
    read = read_batches(home)
    if read == {batch}:
        raise CommandError(
            f"{batch} is the only batch that was read; without it there is nothing to compute. Add another one first, "
            f"or delete the home ({home.path})."
        )
    return read - {batch}


def _taking_out(home: Home, batch: str, computed_from: set[str]) -> str:
    """What `remove` is about to do, in words."""
    found = next((each for each in listed(home) if each.name == batch), None)
    rows = f" with {found.rows:,} {_noun(Reader(home), found.rows)}" if found and found.rows is not None else ""
    n_others = "1 other batch" if len(computed_from) == 1 else f"{len(computed_from):,} other batches"
    following = f", and everything is computed again from {n_others}" if computed_from else ""
    return f"{batch}{rows} is removed: its source moves to {home.removed}{following}."


def _rated(home: Home, user_id: str) -> str:
    """How many ratings the user has, in brackets; empty if the ratings are not merged yet."""
    reader = Reader(home)
    if not reader.store.has(["ratings"]):
        return ""
    users = reader.table("users").filter(pl.col("user_id") == user_id).select("user")
    rated = reader.table("ratings").join(users, on="user", how="semi").select(pl.len()).collect().item()
    return f"({rated:,} {_noun(reader, rated)}) "


def _noun(reader: Reader, count: int) -> str:
    return reader.words("rating" if count == 1 else "ratings")


def listed(home: Home) -> list[Listed]:
    """The batches in order of time, ingested batches first."""
    read, landed = read_batches(home), set(home.landed_batches())
    found = [_listed(home, name, name in read, name in landed) for name in {*read, *landed}]
    return sorted(found, key=lambda batch: (batch.rows is None, batch.when, batch.name))


def _listed(home: Home, name: str, is_read: bool, is_landed: bool) -> Listed:
    if not is_read:
        path, reason = home.landing / name, why_refused(home, name)
        state = "refused" if reason else "not read yet"
        if not path.exists():
            state = f"cannot be read: a link to {path.readlink()}, which does not exist"
        return Listed(name, datetime.fromtimestamp(path.lstat().st_mtime, UTC), None, None, state, reason)
    reader = Reader(home)
    rows, rejected = (
        int(reader.table(asset, name).select(pl.len()).collect().item()) for asset in ("raw_ratings", "rejected_rows")
    )
    when = datetime.fromtimestamp(reader.store.current(["raw_ratings"], name).stat().st_mtime, UTC)
    reason = why_refused(home, name) if is_landed else ""
    state = "read; refused since" if reason else ("read" if is_landed else "read; its source is gone")
    return Listed(name, when, rows, rejected, state, reason)


def run_without(home: Home, out: Console) -> None:
    """Execute the runs that the home needs. A drop in rows is intended here, so no check stops the runs."""
    with environment({_LIMIT: "1"}):
        launch(home, out)
