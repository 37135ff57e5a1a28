"""What all commands say the same way: consoles, errors, tables, bars, nearest names."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from recsys_assets.errors import RecsysError
from recsys_assets.home.layout import Home
from recsys_assets.recommender.data.characters import visible

# Where there is no terminal there is no width to keep to; tables stay whole in files and pipes.
_WIDTH_OF_FILES = 160
_BAR_WIDTH = 30


def _remember(context: typer.Context, path: Path | None) -> Path | None:
    """Keep the home that a command works on where errors are told."""
    context.find_root().obj = Home.resolve(path)
    return path


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The home to work on: the folder of one catalogue, with its data, settings, models and report.",
        show_default="RECSYS_HOME, else .recsys in the checkout",
        file_okay=False,
        callback=_remember,
    ),
]


def follow_up(arguments: str, home: Home) -> str:
    """A command to give next, for this home: it says which one only where it is another than the usual one."""
    where = "" if home == Home.resolve() else f" --home {shlex.quote(str(home.path))}"
    return f"recsys-assets {arguments}{where}"


class CommandError(RecsysError):
    """A command cannot do what it was asked for; the message says why and what to do."""


class _VisibleConsole(Console):
    """A console that shows every character of a text, and obeys none: titles and file names come from anywhere."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, measured with the signs that are shown."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything that is printed, but for the codes by which the console itself moves the cursor."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console(*, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> Console:
    """A console that prints text as it is: titles may hold what Rich takes for markup, or what terminals obey."""
    plain = _VisibleConsole(stderr=stderr, file=file, width=width, markup=False, highlight=False, emoji=False)
    if not plain.is_terminal:
        plain.width = max(plain.width, _WIDTH_OF_FILES)
    return plain


def complain(message: str) -> None:
    """One error message on stderr."""
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are right-aligned."""
    empty = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    right = set(numbers)
    for column in columns:
        empty.add_column(column, justify="right" if column in right else "left")
    return empty


def facts(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values, one per line."""
    listed = table("", "")
    listed.show_header = False
    for name, value in rows:
        listed.add_row(Text(name, "dim"), str(value))
    return listed


def bar(value: float, low: float, high: float, style: str = "cyan") -> Bar:
    """A bar from `low`, as long as `value` stands between `low` and `high`."""
    share = (value - low) / (high - low) if high > low else 1.0
    return Bar(1.0, 0.0, min(max(share, 0.0), 1.0), width=_BAR_WIDTH, color=style)


def nearest(wanted: str, names: Sequence[str], *, limit: int = 5, whole: bool = False) -> list[str]:
    """The names most like the one asked for, the most alike first; none that have little in common with it.

    Args:
        wanted: what was typed.
        names: what there is.
        limit: how many at most.
        whole: compare from end to end, as is right for ids; by default a part that fits well is enough.
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


def titled(movie: Mapping[str, Any]) -> str:
    """A movie's title with its year, its id where it has none."""
    title = str(movie["title"] or f"movie {movie['movie_id']}")
    return f"{title} ({movie['year']})" if movie.get("year") else title


def genre_text(movie: Mapping[str, Any]) -> str:
    """A movie's genres, separated by commas."""
    return ", ".join(movie["genres"] or [])
