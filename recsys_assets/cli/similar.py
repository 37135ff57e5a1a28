"""The command `similar`: items like one item, by the served model and by attributes.

The method is in `recommender.serving.similar`. Lists for all items are the asset `similar_items`.
"""

import json
from typing import Annotated, Any

import numpy as np
import typer

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import HomeOption, console, genre_text, table, titled

_PANEL = "Results"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=_PANEL)(similar)


def similar(
    item: Annotated[str, typer.Argument(help="The item's id in your data, or its title.")],
    n: Annotated[int, typer.Option("-n", "--top", min=1, help="Number of items.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Show the items most similar to one item, within the present rules for lists.

    Items "by ratings" are similar to this item in the served model. Items "by attributes" share attributes with this
    item; they fill the remaining places. Scores of the two kinds cannot be compared. The table
    `similar_items` has such a list for every item: `recsys-assets export similar_items FILE`.

    Examples: `recsys-assets similar 50`, `recsys-assets similar 'Star Wars' --top 5`, `recsys-assets similar 50 --json`
    """
    reader, out = Reader.of(home), console()
    shown = reader.item_named(item)
    rows, notes = _similar(reader, str(shown["item_id"]), n)
    if as_json:
        typer.echo(json.dumps({"item_id": shown["item_id"], "items": rows, "notes": notes}, indent=1))
        return
    out.print(f"Like {titled(shown)} ({shown['item_id']})", style="bold", soft_wrap=True)
    if rows:
        listed = table("", "Id", "Title", "Genres", "Score", "By", numbers=("", "Id", "Score"))
        for row in rows:
            facts = (str(row["rank"]), row["item_id"], titled(row), genre_text(row))
            listed.add_row(*facts, f"{row['score']:.3f}", row["by"])
        out.print(listed)
        if out.is_terminal:
            out.print("Scores by ratings and scores by attributes cannot be compared.", style="dim")
    else:
        out.print("No similar item may be shown: no model and no attribute connects it with another item.")
    for note in notes:
        out.print(note, style="dim", soft_wrap=True)


def _similar(reader: Reader, item_id: str, n: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The list of one item, with the facts of each similar item; and notes for the reader of the list."""
    # Imported here, because the models take a second that an error in the arguments does not need.
    from recsys_assets.cli.recommending import audience_of, from_before
    from recsys_assets.home.blocking import rules_for_lists
    from recsys_assets.home.settings import Settings
    from recsys_assets.recommender.data.frames import lazy
    from recsys_assets.recommender.data.index import Index
    from recsys_assets.recommender.serving.recommendations import ServingModel
    from recsys_assets.recommender.serving.similar import similar_items

    model = reader.model("serving_model", ServingModel)
    users, items = reader.table("users"), reader.table("items").collect()
    index = Index.of(lazy(users), lazy(items))
    catalogue = audience_of(reader, model, index).catalogue(items)
    rules = rules_for_lists(reader.home, Settings.load(reader.home).serving)
    allowed = items.filter(rules.allowed(items))["item_id"]
    found = similar_items(
        model,
        catalogue,
        np.flatnonzero((catalogue["item_id"] == item_id).to_numpy()).astype(np.int32),
        n=n,
        allowed=catalogue["item_id"].is_in(allowed.implode()).to_numpy(),
        limits=rules.limits(catalogue),
    )
    facts = items.select("item_id", "title", "year", "genres")
    rows = found.select("rank", "score", "by", item_id="similar_item_id").join(facts, on="item_id").sort("rank")
    return rows.to_dicts(), from_before(reader, model, index, None)
