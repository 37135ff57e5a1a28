"""The commands `recommend`, `report` and `export`: lists for one user, the report, and whole tables as files.

`recommending` computes a user's list.
"""

import json
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import CommandError, HomeOption, console, genre_text, joined, nearest, table, titled
from recsys_assets.recommender.data.characters import without_formulas
from recsys_assets.recommender.data.tables import TABLES

_PANEL = "Results"
_LIST_SEPARATOR = "|"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (recommend, report, export):
        app.command(rich_help_panel=_PANEL)(command)


def recommend(
    user_id: Annotated[str | None, typer.Argument(help="The user's id in your data.", show_default=False)] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of items.")] = 10,
    newcomer: Annotated[
        bool, typer.Option("--newcomer", help="Show the list of a new user without ratings and attributes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON, for programs.")] = False,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Make the table of all users' lists again, with the present rules.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Show the best items that a user has not rated, each with its reason.

    The reason is up to three of the user's own ratings: those that contributed most to the score. After new data are
    ingested, the list comes from the previous model until a refresh has fitted a new one. The last line then says so.

    Rules of the section `[serving]` of settings.toml say which items may be shown, and `block` leaves single items out.
    `--everybody` applies them to the table `recommendations`; no model is fitted unless users or items have changed.

    Examples: `recsys-assets recommend 42 -n 5`, `recsys-assets recommend --newcomer`,
    `recsys-assets recommend 42 --json`, `recsys-assets recommend --everybody`
    """
    if (user_id is not None) + newcomer + everybody != 1:
        raise typer.BadParameter("Name one user, or give --newcomer or --everybody.", param_hint="USER_ID")
    if everybody:
        from recsys_assets.cli.recommending import recommend_to_everybody

        recommend_to_everybody(Reader.of(home), console())
        return
    from recsys_assets.cli.recommending import recommended
    from recsys_assets.recommender.serving.new_items import OTHERWISE as OF_NEW_ITEMS

    reader, out = Reader.of(home), console()
    found = recommended(reader, user_id, n)
    if as_json:
        typer.echo(json.dumps({"user_id": user_id, "items": found.rows, "notes": found.notes}, indent=1))
        return
    if found.rows:
        listed = table("", "Id", "Title", "Genres", "Score", "Because of", numbers=("", "Id", "Score"))
        for rank, row in enumerate(found.rows, 1):
            # The model has no score for an item that it does not know.
            score = "–" if row["score"] is None else f"{row['score']:.3f}"
            because = joined(row["because"]) or reader.words(OF_NEW_ITEMS if row["new"] else found.otherwise)
            listed.add_row(str(rank), row["item_id"], titled(row), genre_text(row), score, because)
        out.print(listed)
        if out.is_terminal:
            # Not in a pipe: its reader takes each line for an item.
            out.print("Scores order this list only: scores of two users cannot be compared.", style="dim")
    for note in found.notes:
        out.print(reader.words(note), style="dim", soft_wrap=True)


def report(
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    home: HomeOption = None,
) -> None:
    """Print the path of the report, one HTML file that needs no network.

    Examples: `recsys-assets report`, `recsys-assets report --open`
    """
    path = Reader.of(home).home.report
    if not path.is_file():
        raise CommandError("There is no report yet. Make one: `recsys-assets run`")
    typer.echo(path)
    if open_it and not webbrowser.open(path.as_uri()):
        raise CommandError("No browser was found. Open the file yourself.")


def export(
    asset: Annotated[str, typer.Argument(help="A table, such as recommendations or predictions/time_cut/item_mean.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .parquet or .csv.", dir_okay=False)],
    home: HomeOption = None,
) -> None:
    """Write a table as a Parquet or CSV file, with the ids of your data in place of dense ids.

    CSV separates the values of a list by `|`, and puts an apostrophe before a text that a spreadsheet would execute as
    a formula. Parquet keeps every text as it is. An existing file is replaced atomically. Only you can read the file;
    `chmod` opens it to others.

    Examples: `recsys-assets export recommendations top.csv`, `recsys-assets export ratings ratings.parquet`
    """
    if out.suffix not in (".parquet", ".csv"):
        raise CommandError(f"{out}: the name of the file has to end in .parquet or .csv.")
    if not out.parent.is_dir():
        raise CommandError(f"{out.parent}: no such folder. Create it first.")
    reader = Reader.of(home)
    _check_exportable(asset, reader)
    frame = _with_original_ids(_whole(reader, asset), reader)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        written = Path(folder) / out.name
        if out.suffix == ".csv":
            _for_spreadsheets(frame).sink_csv(written)
            rows = pl.scan_csv(written).select(pl.len())
        else:
            frame.sink_parquet(written)
            rows = pl.scan_parquet(written).select(pl.len())
        n_rows = rows.collect().item()
        written.replace(out)
    console().print(f"{asset}: {n_rows:,} rows written to {out}", soft_wrap=True)


def _check_exportable(asset: str, reader: Reader) -> None:
    """Check that an asset is a table.

    Raises:
        CommandError: the asset is no table; the message lists the tables of the home.
    """
    from recsys_assets.recommender.registry import ENTRIES, FITS

    models = ("serving_model", *(fit.asset for fit in FITS))
    predictions = [f"predictions/{entry.task}/{entry.name}" for entry in ENTRIES]
    if asset in TABLES or asset in predictions:
        return
    what = f"{asset} is a model, not a table." if asset in models else f"There is no table {asset!r}."
    alike = nearest(asset, [*TABLES, *predictions], limit=3)
    meant = f" Did you mean {' or '.join(alike)}?" if alike and asset not in models else ""
    here = sorted(name for name in TABLES if reader.store.has([name]) or reader.store.batches([name]))
    tasks = ", ".join(dict.fromkeys(entry.task for entry in ENTRIES))
    raise CommandError(
        f"{what}{meant}\nThis home has {', '.join(here) or 'no tables yet'}, and predictions/TASK/MODEL for the tasks "
        f"{tasks}; `recsys-assets scores --protocol TASK` lists the models."
    )


def _whole(reader: Reader, asset: str) -> pl.LazyFrame:
    """A whole table. If it is partitioned, the column `batch` has the partition of each row."""
    batches = reader.store.batches(asset.split("/"))
    if not batches:
        return reader.table(asset)
    parts = [reader.table(asset, batch).with_columns(batch=pl.lit(batch)) for batch in batches]
    return pl.concat(parts, how="diagonal_relaxed")


def _with_original_ids(frame: pl.LazyFrame, reader: Reader) -> pl.LazyFrame:
    names = frame.collect_schema().names()
    for index, added in (("user", ["user_id"]), ("item", ["item_id", "title"])):
        if index not in names:
            continue
        new = [name for name in added if name not in names]
        if new:
            facts = reader.table(f"{index}s").select(index, *new)
            frame = frame.join(facts, on=index, how="left", maintain_order="left")
        place = names.index(index)
        names = [*names[:place], *new, *names[place + 1 :]]
    return frame.select(names)


def _for_spreadsheets(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Join lists to texts, and protect texts that a spreadsheet would execute. Lists of numbers need no protection."""
    texts = [name for name, dtype in frame.collect_schema().items() if dtype in (pl.String, pl.List(pl.String))]
    joined = frame.with_columns(pl.selectors.list().cast(pl.List(pl.String)).list.join(_LIST_SEPARATOR))
    return joined.with_columns(without_formulas(pl.col(texts)))
