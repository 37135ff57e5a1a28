"""The commands `fetch`, `add` and `init`: land data in a home and write its settings file.

A batch appears in `landing/` whole or not at all (`home.landing`).
"""

import os
import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from recsys_assets.cli.terminal import WAITING, CommandError, HomeOption, console, follow_up
from recsys_assets.home.batches import landed_releases
from recsys_assets.home.data_kind import check_kind, known_kind
from recsys_assets.home.landed import fingerprint
from recsys_assets.home.landing import changing, checked_batch_name, downloading, land
from recsys_assets.home.layout import Home
from recsys_assets.home.unfinished import write_atomically

if TYPE_CHECKING:
    from recsys_assets.recommender.ingest.settings import DataSettings

_PANEL = "Data and settings"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (fetch, add, init):
        app.command(rich_help_panel=_PANEL)(command)


def fetch(
    name: Annotated[str, typer.Argument(help="A MovieLens release, such as ml-100k.")], home: HomeOption = None
) -> None:
    """Download a MovieLens release and land it as a batch.

    Example: `recsys-assets fetch ml-100k`
    """
    fetch_into(Home.resolve(home), name, console())


def fetch_into(home: Home, name: str, out: Console) -> None:
    """Download a MovieLens release and land it, unless it has landed already.

    Raises:
        SourceError: the release is unknown, cannot be downloaded, or another release has landed.
    """
    from recsys_assets.home.settings import Settings
    from recsys_assets.recommender.ingest.fetch import ARCHIVES
    from recsys_assets.recommender.ingest.fetch import fetch as get
    from recsys_assets.recommender.ingest.releases import check_release

    home.prepare()
    target = home.landing / f"{name}.zip"

    def is_free() -> bool:
        if target.exists():
            out.print(f"{name} has landed already: {target}", soft_wrap=True)
            return False
        if name in ARCHIVES:
            check_release(name, landed_releases(home, Settings.load(home).data))
        return True

    # A download takes minutes, in which others may change landing/. So it is looked at again before the file lands.
    with downloading(home, partial(out.print, "Waiting for another download, or for `compact`")) as folder:
        with changing(home, partial(out.print, WAITING)):
            if not is_free():
                return
        if not out.is_terminal:
            out.print(f"Fetching {name}")
        folder.mkdir(exist_ok=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
            task = progress.add_task(f"Fetching {name}", total=None)
            show = partial(progress.update, task)
            fetched = get(name, folder / target.name, progress=lambda done, size: show(completed=done, total=size))
        try:
            with changing(home, partial(out.print, WAITING)):
                if not is_free():
                    return
                fetched.path.rename(target)
        finally:
            fetched.path.unlink(missing_ok=True)
    out.print(f"{name} landed as {target}", soft_wrap=True)
    out.print(f"Source: {fetched.source}", soft_wrap=True)
    out.print(fetched.terms, style="dim", soft_wrap=True)


def add(
    path: Annotated[Path, typer.Argument(help="A folder, zip or file with ratings.", exists=True)],
    batch: Annotated[str | None, typer.Option(help="Name of the batch.", show_default="the name of PATH")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the source and print what would happen; nothing lands.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Land your own ratings as a batch. The next `run` reads it.

    A source that cannot be read as tables is refused at once and does not land. `add --check` and `run` judge bad rows.
    The section `[data]` of settings.toml describes your files: names of columns, delimiter, rating scale …

    Examples: `recsys-assets add ml-1m.zip && recsys-assets run`, `recsys-assets add --check watched.csv`
    """
    from recsys_assets.home.settings import Settings

    here = Home.resolve(home)
    data = Settings.load(here).data
    source, name = path.resolve(), checked_batch_name(batch or path.resolve().name)
    if any(place.resolve().is_relative_to(source) for place in (here.path, here.landing)):
        raise CommandError(
            f"The home ({here.path}) is in the folder that is to be added ({source}): the copy would contain itself. "
            "Add the file or folder with the ratings, or choose a home elsewhere with --home."
        )
    if check:
        from recsys_assets.cli.check import show

        show(source, name, here, data, console())
        return
    here.prepare()
    out = console()
    with changing(here, partial(out.print, WAITING)):
        _add(source, name, here, data, out)


def _add(source: Path, name: str, home: Home, data: "DataSettings", out: Console) -> None:
    """Land a source under a name, unless it has landed already. The caller holds the lock of `landing/`.

    Raises:
        CommandError: the batch exists with other content, or as a broken link.
    """
    target = home.landing / name
    if target.is_symlink() and not target.exists():
        raise CommandError(
            f"Batch {name} exists: {target} is a link to {target.readlink()}, which does not exist. Remove it first "
            f"({follow_up(f'remove {name}', home)}), or choose another name with --batch."
        )
    if target.exists():
        if source != target and fingerprint(source) != fingerprint(target):
            raise CommandError(
                f"Batch {name} exists with other content ({target}). A batch is never overwritten: choose another "
                f"name, `recsys-assets add {source} --batch NAME`."
            )
        out.print(f"{name} has landed already, with the same content: {home.address}/landing/{name}", soft_wrap=True)
        return
    # Imported here, because `fetch` and `init` describe no source.
    from recsys_assets.cli.check import landed_twice

    form, doubt = _recognised(source, home, data), landed_twice(home, source, name)
    land(home, source, name)
    out.print(f"{name} landed ({form}): {home.address}/landing/{name}", soft_wrap=True)
    if doubt:
        way_out = f"To take it out: {follow_up(f'remove {shlex.quote(name)}', home)}"
        out.print(Text(f"{doubt} {way_out}", "yellow"), soft_wrap=True)
    out.print(f"Next: {follow_up('run', home)}", soft_wrap=True)


def init(home: HomeOption = None) -> None:
    """Write a `settings.toml` with every setting, its default and its meaning. An existing file stays as it is.

    Example: `recsys-assets init --home ~/my-ratings`
    """
    from recsys_assets.cli.faults import require_history
    from recsys_assets.home.settings import template

    here = Home.resolve(home)
    require_history(here)
    # An empty file is left from an `init` on a full disk, so it is written again.
    if here.settings_file.exists() and here.settings_file.stat().st_size:
        console().print(f"The settings file exists and is not changed: {here.settings_file}", soft_wrap=True)
        return
    write_atomically(here.settings_file, template().encode())
    console().print(f"Settings written: {here.settings_file}", soft_wrap=True)


def _recognised(source: Path, home: Home, data: "DataSettings") -> str:
    """The format of a source, after a check that it can be read as tables, and of its kind and MovieLens release.

    Raises:
        SourceError: the source cannot be read, or its kind or release differs from the landed ones.
    """
    from recsys_assets.recommender.ingest.releases import check_release, release
    from recsys_assets.recommender.ingest.sources import read_source

    # If this process is killed, the next run deletes the folder by the PID in its name.
    with tempfile.TemporaryDirectory(dir=home.scratch, suffix=f"-{os.getpid()}") as scratch:
        tables = read_source(source, scratch=Path(scratch), **data.reading, settings_file=home.settings_file)
        check_kind(tables.kind, home, known_kind(home, data))
        check_release(release(source, tables.format, Path(scratch)), landed_releases(home, data))
        for frame in (tables.ratings, tables.users, tables.items):
            frame.head(1).collect()
        return tables.format
