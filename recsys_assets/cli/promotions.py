"""The commands `promotions` and `rollback`: list the decisions of the gate, and go back to an earlier configuration.

Reading the record imports scikit-learn, so each command imports it for itself. The record is in `home.promotions`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from recsys_assets.cli.run import launch, locked
from recsys_assets.cli.terminal import CommandError, HomeOption, console, follow_up, table
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import require_java
from recsys_assets.home.versions import AssetStore
from recsys_assets.recommender.report import labels

if TYPE_CHECKING:
    from recsys_assets.home.promotions import Promotion

_PANEL = "The pipeline"
_VERDICT_STYLES = {"promoted": "green", "kept": "yellow", "rolled back": "magenta"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (promotions, rollback):
        app.command(rich_help_panel=_PANEL)(command)


def promotions(home: HomeOption = None) -> None:
    """List every decision of the promotion gate: configuration, scores, verdict and reason. ● marks the served one.

    Example: `recsys-assets promotions`
    """
    from recsys_assets.home.promotions import Promotions

    here = Home.resolve(home)
    record = Promotions(here.promotions)
    known = record.all()
    if not known:
        raise CommandError(f"Nothing has been promoted in {here.path} yet. Next: {follow_up('run', here)}")
    store = AssetStore(here.assets)
    served, unfinished = record.served(store), record.broken_off(store)
    out = console()
    out.print(_listing(known, served.number if served else None))
    if unfinished:
        out.print(
            f"Decision {unfinished.number} is recorded, but its model and lists are not complete yet. If no run is in "
            f"progress, the run was interrupted; continue with: {follow_up(unfinished.again, here)}",
            style="yellow",
            soft_wrap=True,
        )
    out.print(
        "kept: the previous configuration stayed in use. `recsys-assets rollback NUMBER` goes back to an earlier one.",
        style="dim",
        soft_wrap=True,
    )


def rollback(
    number: Annotated[
        int | None,
        typer.Argument(help="The promotion to go back to.", show_default="the last one that nobody rolled back from"),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Put an earlier configuration into use again, and make recommendations with it.

    The lists that you leave are not promoted again until you roll back to them or change the settings of the ranking
    model. The same command continues a rollback that was interrupted.

    Examples: `recsys-assets rollback`, `recsys-assets rollback 3`
    """
    from recsys_assets.home.promotions import Promotions

    here, out = Home.resolve(home), console()
    require_java(here)
    with locked(here):
        record = Promotions(here.promotions)
        chosen = record.earlier(number, broken_off=record.broken_off(AssetStore(here.assets)))
        # Importing Dagster takes seconds, so all refusals come before it.
        from recsys_assets.orchestration.planning import rollback

        launch(here, out, [rollback(chosen.number, chosen.configuration.name)])
    out.print(f"Configuration {chosen.configuration.name} is in use; recommendations are made with it.")


def _listing(known: "Sequence[Promotion]", served: int | None) -> Table:
    listing = table("", "No.", "When", "Configuration", "NDCG at 10", "Verdict", "Reason", numbers=("No.",))
    for promotion in known:
        listing.add_row(
            Text("●" if promotion.number == served else "", "green"),
            str(promotion.number),
            promotion.when[:16].replace("T", " "),
            f"{promotion.configuration.name} ({promotion.configuration.models})",
            _score(promotion),
            Text(promotion.verdict, _VERDICT_STYLES[promotion.verdict]),
            promotion.reason,
        )
    return listing


def _score(promotion: "Promotion") -> str:
    """The score of the configuration's own model over all users, with the half-width of its interval if known."""
    from recsys_assets.recommender.evaluation.score_table import DECIDING

    contest = next((each for each in promotion.contests if each.metric == DECIDING), None)
    if contest is None:
        return "–"
    shown, half = labels.metric(DECIDING).shown, (contest.score_high - contest.score_low) / 2
    return shown(contest.score) if math.isnan(half) else f"{shown(contest.score)} ±{shown(half)}"
