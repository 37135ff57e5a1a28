"""The application: puts the commands together, and prints errors that a user can cause.

The commands themselves are in the other modules of this package.
"""

from importlib.metadata import version
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from recsys_assets.cli import (
    backfill,
    batches,
    blocking,
    compacting,
    landing,
    looks,
    promotions,
    results,
    rules,
    run,
    scores,
    serve,
    similar,
    status,
    study,
)
from recsys_assets.cli.faults import explained
from recsys_assets.cli.terminal import complain, with_home
from recsys_assets.errors import RecsysError
from recsys_assets.home import remote
from recsys_assets.home.layout import keep_private
from recsys_assets.recommender.data.characters import visible

# Typer bundles its own copy of click, with other error classes.
_UsageError: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """The command group: it prints errors that a user can cause as one message, with exit status 1 and no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            click.ClickException, typer.BadParameter or similar: the arguments are wrong.
            typer.Exit: with status 1, after an error that a user can cause.
        """
        keep_private()
        try:
            result = super().invoke(ctx)
            if home := ctx.find_root().obj:
                remote.push(home.path)
            return result
        except (click.ClickException, _UsageError) as error:
            # The message quotes arguments. A shell may have replaced a pattern by file names with control characters.
            error.message = visible(error.message) + _way_out(error.message)  # type: ignore[misc]
            raise
        except Exception as error:
            # Click itself handles a pipe whose reader has ended.
            if isinstance(error, BrokenPipeError):
                raise
            told = str(error) if isinstance(error, RecsysError) else explained(error, ctx.find_root().obj)
            if told is None:
                raise
            complain(with_home(told, ctx.find_root().obj))
            raise typer.Exit(1) from None


def _way_out(message: str) -> str:
    """How to give an id that begins with a dash, if a message is about arguments that look like one."""
    is_extra = message.startswith("Got unexpected extra argument") and "--" in message
    if not is_extra and not message.startswith("No such option"):
        return ""
    return ". An id that begins with - comes last, after -- and all options: recommend --home HOME -- -5"


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="""Ratings in, recommendations and honest scores out.

Examples:

- `recsys-assets run` does everything on MovieLens 100K.
- `recsys-assets add my-ratings.zip`, then `recsys-assets run`, does it on your own ratings.
- `recsys-assets recommend 42` shows what to recommend to user 42.

All commands work on one home, a folder: `--home`, else RECSYS_HOME, else `.recsys` in the checkout.
""",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recsys_assets {version('recsys_assets')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ratings in, recommendations and honest scores out."""


_OF_DATA = (landing, batches, blocking, rules, compacting)
for module in (run, serve, status, study, backfill, *_OF_DATA, scores, results, similar, looks, promotions):
    module.register(app)
