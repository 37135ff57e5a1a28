"""The command that reads batches again: in the running instance where the home is served, else in this process."""

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
    """Read batches again and merge them, as one run of the job `ingest` if they are neighbours.

    Where `recsys-assets serve` runs, the run is launched there and waited for (Ctrl-C ends the waiting only), and what
    depends on the ratings follows by itself if they have changed. Else it runs here; `recsys-assets run` refreshes the
    rest. A batch that is refused does not keep the others out: they are read and merged, and the exit status is 1.

    Examples: `recsys-assets backfill 2024-05.csv`, `recsys-assets backfill may june july`
    """
    here, out = Home.resolve(home), console()
    here.prepare()
    require_history(here)
    _require_landed(here, batches)
    # Loading Dagster takes seconds: only when everything that can be refused has been.
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
            raise CommandError(f"No batch {name!r} lies in {home.landing}.{hint}")
