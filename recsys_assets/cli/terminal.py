"""Output that all commands share: consoles, error messages, tables, bars, nearest names, durations.

Progress of runs is in `progress`, messages about faults outside of this program are in `faults`.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from recsys_assets.errors import RecsysError
from recsys_assets.home import remote
from recsys_assets.home.layout import FORMAT, Home
from recsys_assets.recommender.data.characters import visible
from recsys_assets.recommender.data.wording import article_first

# A file or a pipe has no width, unless COLUMNS sets one. Without a minimum, tables would be cut there.
_WIDTH_OF_FILES = 160
_BAR_WIDTH = 30
# The commands that make a home. Every other command would find nothing in a folder that is no home.
_MAKING = frozenset({"run", "serve", "add", "fetch", "init"})
# The commands that look at landed data: in a home on an object store, they fetch it first.
_OF_LANDED = frozenset({"add", "fetch", "batches", "status", "backfill", "remove"})
WAITING = "Waiting for another command that changes landing/"
_COMMAND = re.compile(r"`([^`]*recsys-assets [^`]+)`")


def _remember(context: typer.Context, path: Path | None) -> Path | None:
    """Store the home of a command in the context, where `app` finds it for error messages, and bring it up to date."""
    home = context.find_root().obj = Home.resolve(path)
    remote.pull(home.path, landing=context.info_name in _OF_LANDED)
    if not home.is_there and context.info_name not in _MAKING:
        raise CommandError(_no_home(home))
    # Imported here, because a mistyped command needs no Parquet reader.
    if home.is_there and home.format != FORMAT:
        from recsys_assets.home.upgrade import bring_up_to_date

        if n_changed := bring_up_to_date(home):
            console(stderr=True).print(
                f"{home.path} had the format of an earlier version: {n_changed:,} files and folders were renamed.",
                soft_wrap=True,
            )
    return path


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The home to work on: the folder of one catalogue, with its data, settings, models and report; or its "
        "URL on an object store, such as s3://bucket/films.",
        show_default="RECSYS_HOME, else .recsys in the checkout",
        file_okay=False,
        callback=_remember,
    ),
]


def follow_up(arguments: str, home: Home) -> str:
    """A command line to run next for this home. It has `--home` only if the home is not the default one."""
    where = "" if home == Home.resolve() else f" --home {shlex.quote(home.address)}"
    return f"recsys-assets {arguments}{where}"


def _no_home(home: Home) -> str:
    """What to say of a folder that is no home: homes beside it with a similar name, and how to make one."""
    folder = home.path.parent
    alike = [Home(folder / name).address for name in nearest(home.path.name, [*_homes_in(folder)], limit=3)]
    hint = f" Did you mean {' or '.join(alike)}?" if alike else ""
    return (
        f"There is no home at {home.address}.{hint} `{follow_up('add PATH', home)}` makes one from your own ratings, "
        f"`{follow_up('run', home)}` one from MovieLens 100K."
    )


def _homes_in(folder: Path) -> Iterator[str]:
    """Names of the homes in a folder. What this user may not look into is passed over: it only costs a hint."""
    with suppress(OSError):
        for each in folder.iterdir():
            with suppress(OSError):
                if Home(each).is_there:
                    yield each.name


def with_home(message: str, home: Home | None) -> str:
    """A message in which every proposed command names the home, unless it is the default one.

    Examples:
        >>> with_home("Run `recsys-assets run`.", Home(Path("/films")))
        'Run `recsys-assets run --home /films`.'
    """
    if home is None or home == Home.resolve():
        return message
    where = f" --home {shlex.quote(home.address)}"
    return _COMMAND.sub(lambda found: found[0] if "--home" in found[1] else f"`{found[1]}{where}`", message)


class CommandError(RecsysError):
    """A command cannot do its work. The message says why and what to do."""


class _VisibleConsole(Console):
    """A console that makes control characters visible, because titles and file names come from other people."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to a text of the right width: visible signs are wider than control characters."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Make control characters visible in all output except the console's own control codes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console(*, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> Console:
    """A console that prints text literally, because titles may contain Rich markup or control characters.

    A notebook sets FORCE_COLOR, but its cells are no terminal: a progress bar would fill them with frames.
    """
    stream = file or (sys.stderr if stderr else sys.stdout)
    plain = _VisibleConsole(
        stderr=stderr,
        file=file,
        width=width,
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=None if stream.isatty() else False,
    )
    if not plain.is_terminal and not os.environ.get("COLUMNS"):
        plain.width = max(plain.width, _WIDTH_OF_FILES)
    return plain


def complain(message: str) -> None:
    """Print an error message on stderr."""
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table. The columns in `numbers` are right-aligned."""
    empty = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    right = set(numbers)
    for column in columns:
        empty.add_column(column, justify="right" if column in right else "left")
    return empty


def facts(rows: Iterable[tuple[str, object]]) -> Table:
    """A table of names and values, one pair per line."""
    listed = table("", "")
    listed.show_header = False
    for name, value in rows:
        listed.add_row(Text(name, "dim"), str(value))
    return listed


def bar(value: float, low: float, high: float, style: str = "cyan") -> Bar:
    """A bar whose length shows `value` on the scale from `low` to `high`."""
    share = (value - low) / (high - low) if high > low else 1.0
    return Bar(1.0, 0.0, min(max(share, 0.0), 1.0), width=_BAR_WIDTH, color=style)


def nearest(wanted: str, names: Sequence[str], *, limit: int = 5, whole: bool = False) -> list[str]:
    """The names most similar to the wanted one, the most similar first. Names with little in common are left out.

    Args:
        wanted: the name that was typed.
        names: the existing names.
        limit: largest number of names.
        whole: whether to compare whole names, as for ids. By default a good match of a part is enough.
    """
    from rapidfuzz import fuzz, process, utils

    scorer = fuzz.ratio if whole else fuzz.WRatio
    found = process.extract(wanted, names, scorer=scorer, processor=utils.default_process, limit=limit, score_cutoff=50)
    return [name for name, _, _ in found]


def seconds(duration: float) -> str:
    """A duration for people: 0.4 s, 12 s, 3 min 05 s."""
    if duration < 10:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def joined(titles: Iterable[str]) -> str:
    """Titles in one cell. Titles contain commas, so a dot separates them."""
    return " · ".join(map(article_first, titles))


def titled(item: Mapping[str, Any]) -> str:
    """The title of an item with its year; the item's id if it has no title."""
    title = article_first(str(item["title"] or f"item {item['item_id']}"))
    return f"{title} ({item['year']})" if item.get("year") else title


def genre_text(item: Mapping[str, Any]) -> str:
    """The genres of an item, separated by commas."""
    return ", ".join(item["genres"] or [])
