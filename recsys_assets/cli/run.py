"""The command `run`, and the lock, environment and output of every command that executes runs.

`orchestration.planning` decides which runs a home needs, and `orchestration.launch` executes them.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recsys_assets.cli.faults import require_history
from recsys_assets.cli.landing import fetch_into
from recsys_assets.cli.progress import RunProgress
from recsys_assets.cli.quiet import quiet
from recsys_assets.cli.reader import Reader
from recsys_assets.cli.scores import summary
from recsys_assets.cli.terminal import CommandError, HomeOption, console
from recsys_assets.errors import BatchesRefusedError, RunFailedError
from recsys_assets.home import remote
from recsys_assets.home.batches import read_batches
from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.landing import tidy
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings, require_java
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.ending import ending

if TYPE_CHECKING:
    from recsys_assets.orchestration.planning import Launch

DATASET = "ml-100k"
# A sensor holds the lock for a moment when it checks whether a run is in progress.
_LOOKING_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(run)


def run(
    dataset: Annotated[
        str | None,
        typer.Option(help="The MovieLens release to fetch when nothing has landed yet.", show_default=DATASET),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Bring a home up to date: ingest new batches, then refresh all models, scores and recommendations.

    If nothing has landed, a MovieLens release is downloaded first. The command runs the same jobs as the UI, in one
    process. Exit status 0 means that everything was done. If a batch is refused, the other batches are ingested and
    refreshed, and the exit status is 1.

    Examples: `recsys-assets run`, `recsys-assets run --home ~/my-ratings`
    """
    here, out = Home.resolve(home), console()
    require_java(here)
    with locked(here):
        _fetch_if_empty(here, dataset, out)
        require_rules(here)
        try:
            launch(here, out)
        except BatchesRefusedError:
            show_results(here, out)
            raise
    show_results(here, out)


def require_rules(home: Home) -> None:
    """Check the rules for lists before a run, unless a batch is pending: it may bring a column that a rule needs.

    Raises:
        RuleError: a rule cannot be applied to the present items, or leaves none of them.
    """
    is_pending = bool(set(home.landed_batches()) - read_batches(home))
    if AssetStore(home.assets).has(["items"]) and not is_pending:
        rules_for_lists(home, Settings.load(home).serving).allowed(Reader(home).table("items").collect())


def _fetch_if_empty(home: Home, dataset: str | None, out: Console) -> None:
    # Ingested batches count as well, because somebody may have deleted their landed files.
    there = home.landed_batches() or AssetStore(home.assets).batches(["raw_ratings"])
    if not there:
        fetch_into(home, dataset or DATASET, out)
    elif dataset and not any(batch.startswith(dataset) for batch in there):
        out.print(
            f"{dataset} is not fetched: this home contains {', '.join(there)}. Take another --home for other data.",
            style="yellow",
            soft_wrap=True,
        )


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Prepare the home for a run, hold its lock, and handle SIGINT and SIGTERM (`orchestration.ending`).

    The operating system releases the lock when the process dies.

    Raises:
        CommandError: another process holds the lock, or the run history is damaged.
    """
    from filelock import FileLock, Timeout

    require_history(home)
    lock = FileLock(home.lock)
    try:
        lock.acquire(timeout=_LOOKING_SECONDS)
    except Timeout:
        raise CommandError(
            f"Another run works on this home ({home.address}). Wait until it has ended, or end it, and run this again; "
            "a run in another home (--home) does not have to wait."
        ) from None
    descriptor = lock._context.lock_file_fd
    assert descriptor is not None
    # A retry in another process inherits the lock, and so keeps it if this process is killed.
    os.set_inheritable(descriptor, True)
    with ending():
        try:
            with remote.holding(home.path):
                tidy(home)
                yield
        finally:
            lock.release()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block. Dagster and its child processes read them there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def launch(home: Home, out: Console, chosen: "Sequence[Launch]" = (), again: Collection[str] = ()) -> None:
    """Execute runs with progress on the terminal. The caller holds the home's lock.

    Args:
        home: the home to work on.
        out: console for the progress.
        chosen: the runs to execute; by default everything that the home needs.
        again: batches to read again and to merge, instead of `chosen`.

    Raises:
        BatchesRefusedError: everything was done except for refused batches.
        RunFailedError: something else failed; the message says what.
    """
    with environment(home.environment), quiet(home.logs, out) as (terminal, log):
        # Importing the definitions takes seconds, so all refusals come before it.
        from recsys_assets.orchestration.launch import execute

        try:
            with RunProgress(terminal, log) as progress:
                outcome = execute(home, progress, log, chosen, again)
        except KeyboardInterrupt:
            terminal.print("Interrupted. Finished results are kept.", style="yellow")
            raise
    if outcome.failures:
        raise (BatchesRefusedError if outcome.went_on else RunFailedError)("\n".join(outcome.failures))


def show_results(home: Home, out: Console) -> None:
    """Print the scores, a warning if the selected configuration is not the served one, and the path of the report."""
    from recsys_assets.home.promotions import Promotions

    out.print()
    out.print(summary(Reader(home).table("evaluation_scores").collect(), kept_kind(home)))
    out.print()
    if told := Promotions(home.promotions).not_served(AssetStore(home.assets)):
        out.print(told, style="yellow", soft_wrap=True)
    out.print(f"Report: {home.report}", soft_wrap=True)
