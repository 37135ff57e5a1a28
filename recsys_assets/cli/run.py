"""The command that does everything: fetch if the home is empty, ingest what landed, refresh, show the scores."""

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
from recsys_assets.home.java import check_java
from recsys_assets.home.landing import tidy
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.ending import ending

if TYPE_CHECKING:
    from recsys_assets.orchestration.planning import Launch

DATASET = "ml-100k"
# A sensor that looks whether a run is at work holds the lock for a moment.
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
    """Do everything: fetch if nothing has landed, ingest new batches, refresh all models, scores and recommendations.

    It is one process with one JVM, and the same jobs as in the UI. Exit status 0 means that all of it was done. A batch
    that is refused does not keep the others out: the rest is done, and the exit status is 1.

    Examples: `recsys-assets run`, `recsys-assets run --home ~/my-ratings`
    """
    check_java()
    here, out = Home.resolve(home), console()
    with locked(here):
        _fetch_if_empty(here, dataset, out)
        try:
            launch(here, out)
        except BatchesRefusedError:
            show_results(here, out)
            raise
    show_results(here, out)


def _fetch_if_empty(home: Home, dataset: str | None, out: Console) -> None:
    # What has been ingested counts too: its source may have been cleared away since.
    there = home.landed_batches() or AssetStore(home.assets).batches(["raw_ratings"])
    if not there:
        fetch_into(home, dataset or DATASET, out)
    elif dataset and not any(batch.startswith(dataset) for batch in there):
        out.print(
            f"{dataset} is not fetched: this home holds {', '.join(there)}. Take another --home for other data.",
            style="yellow",
            soft_wrap=True,
        )


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Make the home ready for a run, keep other runs of it out, and end by Ctrl-C and TERM as `ending` says.

    The operating system gives the lock back when a process dies.

    Raises:
        CommandError: another process holds it.
    """
    from filelock import FileLock, Timeout

    home.prepare()
    require_history(home)
    lock = FileLock(home.lock)
    try:
        lock.acquire(timeout=_LOOKING_SECONDS)
    except Timeout:
        raise CommandError(
            f"Another run works on this home ({home.path}). Wait until it has ended, or end it, and run this again; "
            "a run in another home (--home) does not have to wait."
        ) from None
    descriptor = lock._context.lock_file_fd
    assert descriptor is not None
    # For a run that goes on in another process: it keeps the lock where this process is killed.
    os.set_inheritable(descriptor, True)
    with ending():
        try:
            tidy(home)
            yield
        finally:
            lock.release()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment for a while: Dagster, and the processes that it starts, read them there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def launch(home: Home, out: Console, chosen: "Sequence[Launch]" = (), again: Collection[str] = ()) -> None:
    """Run what was chosen, or read batches again, by default everything that is to be done; the home's lock is held.

    Raises:
        BatchesRefusedError: everything was done but for batches that cannot come in.
        RunFailedError: something else failed; the message says what.
    """
    with environment(home.environment), quiet(home.logs, out) as (terminal, log):
        # Loading the definitions takes seconds: only when everything that can be refused has been.
        from recsys_assets.orchestration.launch import execute

        try:
            with RunProgress(terminal, log) as progress:
                outcome = execute(home, progress, log, chosen, again)
        except KeyboardInterrupt:
            terminal.print("Interrupted. What was finished is kept.", style="yellow")
            raise
    if outcome.failures:
        raise (BatchesRefusedError if outcome.went_on else RunFailedError)("\n".join(outcome.failures))


def show_results(home: Home, out: Console) -> None:
    """The table of scores, whether what is selected is what users are shown, and where the report lies."""
    from recsys_assets.home.promotions import Promotions

    out.print()
    out.print(summary(Reader(home).table("evaluation_scores").collect()))
    out.print()
    if told := Promotions(home.promotions).not_served(AssetStore(home.assets)):
        out.print(told, style="yellow", soft_wrap=True)
    out.print(f"Report: {home.report}", soft_wrap=True)
