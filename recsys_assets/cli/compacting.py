"""The command `compact`: erases forgotten users for good and reports the search of the whole home.

Erasing and searching are in `home.erase`.
"""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from recsys_assets.cli.batches import DryRunOption, YesOption, go_on, run_without
from recsys_assets.cli.run import locked
from recsys_assets.cli.terminal import WAITING, CommandError, HomeOption, console
from recsys_assets.errors import RecsysError
from recsys_assets.home import remote
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.landing import downloading
from recsys_assets.home.layout import Home
from recsys_assets.home.served import served_at
from recsys_assets.home.versions import AssetStore

if TYPE_CHECKING:
    from recsys_assets.home.erase import Erased, Survey

# The output lists this many files or ids, and counts further files.
_NAMED = 20


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Data and settings")(compact)


def compact(yes: YesOption = False, dry_run: DryRunOption = False, home: HomeOption = None) -> None:
    """Erase forgotten users, removed batches and old versions of assets for good.

    A landed file that names a forgotten user is replaced by Parquet files of its good rows without these users, unless
    it has more bad rows than a batch may have. If there are forgotten users, the run history and all logs are erased,
    too. At the end the whole home is searched. Exit status 0 means that no file names a forgotten user, except the list
    `forgotten` itself. Earlier versions cannot be restored afterwards.

    Examples: `recsys-assets compact --dry-run`, `recsys-assets compact`
    """
    from recsys_assets.home import erase as compacting
    from recsys_assets.home.settings import Settings, require_java

    here, out = Home.resolve(home), console()
    if not here.assets.is_dir():
        raise CommandError(f"There is nothing in {here.path}.")
    gone, data = _forgotten(here), Settings.load(here).data
    if not go_on(_about_to(here, len(gone)), out, yes=yes, dry_run=dry_run):
        return
    # Importing Dagster takes seconds, so all refusals come before it.
    from recsys_assets.orchestration.postgres_history import stored_values
    from recsys_assets.orchestration.run_history import erase_history_of
    from recsys_assets.orchestration.taking_out import take_out

    waiting = partial(out.print, WAITING)
    # A file that is half downloaded could not be searched.
    with locked(here), downloading(here, partial(out.print, "Waiting for a download")):
        # Both may have changed since they were read: during the question, or by another machine.
        if _forgotten(here) != gone:
            raise CommandError("The exclusion list has changed meanwhile, and nothing was erased. Repeat the command.")
        stored = remote.begin_erasing(here.path)
        done = compacting.erase_sources(here, gone, data, waiting)
        for name in done.emptied:
            done.attempt(f"Batch {name}", take_out, here, name, waiting)
        compacting.erase_traces(here, gone, done)
        if gone:
            done.attempt(f"Run history in {here.dagster}", erase_history_of, here)
        _tell(done, out)
        try:
            if done.emptied or compacting.made_before_forgetting(here):
                require_java(here)
                run_without(here, out)
        except RecsysError as error:
            done.trouble.append(str(error))
        finally:
            # Old versions must go even if a batch is refused or a model cannot be fitted: they hold personal data.
            compacting.erase_old_versions(here, done)
        out.print(f"{done.versions:,} old versions deleted; removed batches and lists of rejected rows are gone")
        remote.end_erasing(here.path, stored)
        if gone:
            done.trouble += [
                f"No command reads {key} in {here.address}, because its name is hidden or is that of a folder. It was "
                "not searched: delete or rename the object, and repeat the command."
                for key in remote.never_read(here.path)
            ]
            _report(compacting.survey(here, gone, data, stored_values(here)), len(gone), done, out)
    if done.trouble:
        raise CommandError("\n".join(done.trouble))


def _forgotten(home: Home) -> frozenset[str]:
    """The users on the exclusion list.

    Raises:
        CommandError: there are some, and `serve` runs for the home.
    """
    gone = forgotten_users(home)
    if gone and (address := served_at(home)):
        raise CommandError(
            f"`serve` runs for this home ({address}) and uses the run history. End `serve`, then repeat the command."
        )
    return gone


def _about_to(home: Home, n_forgotten: int) -> str:
    """What will be erased, in words."""
    old = AssetStore(home.assets).old_versions()
    removed = len(list(home.removed.iterdir())) if home.removed.is_dir() else 0
    users = "1 forgotten user" if n_forgotten == 1 else f"{n_forgotten:,} forgotten users"
    of_users = f"everything of {users}, the run history and all logs; " if n_forgotten else ""
    return f"Erased for good: {of_users}{removed:,} removed batches; {len(old):,} old versions of assets."


def _tell(done: "Erased", out: Console) -> None:
    if done.rewritten:
        out.print(f"Rewritten without forgotten users: {_with_bad_rows(done.rewritten, done)}", soft_wrap=True)
    if done.emptied:
        told = _with_bad_rows(done.emptied, done)
        out.print(f"Removed, because they contained no good rows of anybody else: {told}", soft_wrap=True)
    for path in done.outside:
        out.print(
            f"Not searched, because it is outside of the home: {path}, the target of a link in landing/", soft_wrap=True
        )


def _with_bad_rows(batches: Iterable[str], done: "Erased") -> str:
    """Names of batches, with the number of their bad rows, which are lost."""
    counts = {name: done.bad_rows.get(name, 0) for name in batches}
    return ", ".join(f"{name} (bad rows lost: {count:,})" if count else name for name, count in counts.items())


def _report(found: "Survey", n_users: int, done: "Erased", out: Console) -> None:
    """Report the result of the search of the whole home."""
    of = "the forgotten user" if n_users == 1 else f"the {n_users:,} forgotten users"
    if found.common:
        out.print(
            f"Too short, or words of the catalogue, so searched in columns of user ids only: "
            f"{', '.join(found.common[:_NAMED])}{' …' if len(found.common) > _NAMED else ''}",
            soft_wrap=True,
        )
    if not found.found:
        out.print(f"{found.files:,} files searched: none names {of}, except the list {'forgotten'!r} itself")
        return
    named = [f"{each.path} {each.what}" for each in found.found[:_NAMED]]
    more = [f"and {len(found.found) - _NAMED:,} more"] if len(found.found) > _NAMED else []
    head = f"Not everything of {of} is erased. Fix or delete these files, and run `compact` again:"
    done.trouble.append("\n".join([head, *named, *more]))
