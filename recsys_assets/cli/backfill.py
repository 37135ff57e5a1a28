"""The command `backfill`: reads batches again, in the instance that serves the home or else in this process.

`orchestration.backfill` and `orchestration.launch` execute the runs.
"""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from recsys_assets.cli.faults import require_history
from recsys_assets.cli.run import launch, locked
from recsys_assets.cli.terminal import CommandError, HomeOption, console, follow_up, nearest
from recsys_assets.errors import BatchesRefusedError
from recsys_assets.home.layout import Home
from recsys_assets.home.served import served_at


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(backfill)


def backfill(
    batches: Annotated[list[str], typer.Argument(help="The batches to read again, by the names in landing/.")],
    home: HomeOption = None,
) -> None:
    """Read batches again and merge them, by one run of the job `ingest` per contiguous range of batches.

    If `recsys-assets serve` runs for this home, it executes the runs, and this command waits for them. Ctrl-C then only
    ends the waiting, and a refresh starts automatically if the ratings have changed. Otherwise the runs execute in this
    process, and `recsys-assets run` refreshes everything else. If a batch is refused, the other batches are
    read and merged, and the exit status is 1.

    Examples: `recsys-assets backfill 2024-05.csv`, `recsys-assets backfill may june july`
    """
    here, out = Home.resolve(home), console()
    require_history(here)
    _require_landed(here, batches)
    # Importing Dagster takes seconds, so all refusals come before it.
    from recsys_assets.orchestration.backfill import make_known, read_where_served

    if address := served_at(here):
        make_known(here, batches)
        read_where_served(here, address, batches, lambda told: out.print(told, soft_wrap=True))
        out.print("Done")
        return
    with locked(here):
        make_known(here, batches)
        try:
            launch(here, out, again=batches)
        except BatchesRefusedError:
            _tell_next(here, out)
            raise
    _tell_next(here, out)


def _tell_next(home: Home, out: Console) -> None:
    out.print(f"Next: {follow_up('run', home)}", soft_wrap=True)


def _require_landed(home: Home, batches: Sequence[str]) -> None:
    landed = home.landed_batches()
    for name in batches:
        if name not in landed:
            alike = nearest(name, landed, whole=True)
            hint = f" Nearest: {', '.join(alike)}." if alike else ""
            raise CommandError(f"There is no batch {name!r} in {home.landing}.{hint}")
