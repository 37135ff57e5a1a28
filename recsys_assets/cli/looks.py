"""The commands `items`, `item`, `user` and `segment`: look-ups in the stored tables.

`reader` reads the tables.
"""

import json
import unicodedata
from typing import Annotated, Any

import narwhals as nw
import polars as pl
import typer
from rich.text import Text

from recsys_assets.cli.reader import ITEM_NAME, Reader
from recsys_assets.cli.terminal import CommandError, HomeOption, bar, console, facts, genre_text, nearest, table, titled
from recsys_assets.recommender.data.characters import searchable
from recsys_assets.recommender.data.frames import empty, lazy
from recsys_assets.recommender.data.tables import N_EVENTS, TABLES
from recsys_assets.recommender.report.attributes import attributes_by_group

_PANEL = "Looks into the data"
_LATEST = 5
_TOP = 20
_ATTRIBUTE_ROWS = 12
# A mean of fewer ratings is not reliable, so such segments come last.
_ENOUGH = 10
JSONOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
# A smaller share would be shown as 0 %, so it is left out.
_SMALLEST_SHARE = 0.005


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (items, item, user, segment):
        app.command(rich_help_panel=_PANEL)(command)


def items(
    regex: Annotated[str, typer.Argument(help="A regular expression; case does not matter.")],
    limit: Annotated[int, typer.Option("-n", min=1, help="Largest number of items.")] = 20,
    home: HomeOption = None,
) -> None:
    """List the items whose title matches a regular expression, the most rated first. Items without title match by id.

    Examples: `recsys-assets items 'star (wars|trek)'`, `recsys-assets items '^alien'`
    """
    reader = Reader.of(home)
    catalogue = reader.table("items").collect()
    try:
        wanted = f"(?i){unicodedata.normalize('NFC', regex)}"
        found = catalogue.filter(searchable(ITEM_NAME).str.contains(wanted) | ITEM_NAME.str.contains(f"(?i){regex}"))
    except pl.exceptions.ComputeError as error:
        # Only the parser's own line helps: Polars adds its whole expression around it.
        told = [line for line in str(error).splitlines() if line.startswith("error: ")]
        raise CommandError(f"{regex!r} is no regular expression: {(told or [str(error)])[0]}") from None
    if found.is_empty():
        alike = nearest(regex, catalogue.select(ITEM_NAME).to_series().unique().to_list())
        hint = f" Similar titles: {', '.join(alike)}." if alike else ""
        raise CommandError(f"No title matches {regex!r}.{hint}")
    stats = _rating_stats(reader.table("ratings"), "item")
    rated = found.join(stats, on="item", how="left").with_columns(pl.col("n").fill_null(0))
    count = reader.words("Ratings")
    listed = table("Id", "Title", "Genres", count, "Mean", numbers=("Id", count, "Mean"))
    for row in rated.sort("n", "item", descending=[True, False]).head(limit).iter_rows(named=True):
        mean = f"{row['mean']:.2f}" if row["n"] else "–"
        listed.add_row(row["item_id"], titled(row), genre_text(row), f"{row['n']:,}", mean)
    out = console()
    out.print(listed)
    if len(found) > limit:
        out.print(f"and {len(found) - limit:,} more; -n {len(found)} shows all", style="dim")


def item(item_id: Annotated[str, typer.Argument(help="The item's id in your data.")], home: HomeOption = None) -> None:
    """Show one item: title, genres, ratings, and its mean rating in each segment.

    Example: `recsys-assets item 50`
    """
    reader = Reader.of(home)
    shown = reader.item(item_id)
    ratings = reader.table("ratings")
    stats = _rating_stats(ratings.filter(pl.col("item") == shown["item"]), "item")
    low, high = ratings.select(low=pl.col("rating").min(), high=pl.col("rating").max()).collect().row(0)
    by_segment = _segments(reader, "segment_ratings").filter(pl.col("item") == shown["item"])
    enough = pl.col("count") >= _ENOUGH
    rows = by_segment.sort(enough, "mean", descending=True).collect()
    names = _segment_names(reader)
    out = console()
    out.print(Text(titled(shown), "bold"))
    rated = f"{stats['n'][0]:,}, mean {stats['mean'][0]:.2f}" if len(stats) else "none"
    out.print(facts([("id", shown["item_id"]), ("genres", genre_text(shown)), (reader.words("ratings"), rated)]))
    if rows.is_empty():
        out.print(reader.words("No train user has rated it, so there is no mean by segment."))
        return
    out.print("\nMean rating by segment", style="bold")
    legend = f"Train users only. Bars from {low:g} to {high:g}; segments with fewer than {_ENOUGH} ratings last."
    out.print(legend, style="dim")
    chart = table("Segment", "", "Mean", "Ratings", "Segment's first items", numbers=("Segment", "Mean", "Ratings"))
    for row in rows.iter_rows(named=True):
        number, mean = row["segment"], row["mean"]
        cells = (str(number), bar(mean, low, high), f"{mean:.2f}", f"{row['count']:,}", names.get(number, ""))
        chart.add_row(*cells, style="" if row["count"] >= _ENOUGH else "dim")
    out.print(chart)


def user(
    user_id: Annotated[str, typer.Argument(help="The user's id in your data.")],
    as_json: JSONOption = False,
    home: HomeOption = None,
) -> None:
    """Show one user: attributes, latest ratings, cluster, and affinity to each segment.

    Examples: `recsys-assets user 42`, `recsys-assets user 42 --json`
    """
    reader = Reader.of(home)
    shown = reader.user(user_id)
    index = shown.pop("user")
    mine = reader.table("ratings").filter(pl.col("user") == index).collect()
    clusters = reader.table("user_clusters").filter(pl.col("user") == index).collect()["cluster"]
    # A user who was ingested after the last clustering has no cluster.
    cluster = clusters[0] if len(clusters) else "–"
    affinity = _segments(reader, "user_segments").filter(pl.col("user") == index).collect()
    latest = mine.sort("timestamp", "batch", "row", descending=True)
    rated = latest.join(reader.table("items").collect(), on="item", how="left", maintain_order="left")
    if as_json:
        columns = ("item_id", "title", "rating", "timestamp")
        _echo(
            {
                "user_id": shown.pop("user_id"),
                "attributes": shown,
                "cluster": None if cluster == "–" else cluster,
                "ratings": rated.select(columns).to_dicts(),
                "affinity": affinity["affinity"].to_list()[0] if len(affinity) else None,
            }
        )
        return
    names = _segment_names(reader)
    is_events = N_EVENTS in mine.columns
    mean = f", mean {mine['rating'].to_numpy().mean():.2f}" if len(mine) and not is_events else ""
    count = f"of {len(mine):,} items" if is_events else f"{len(mine):,}{mean}"
    out = console()
    out.print(Text(f"User {shown.pop('user_id')}", "bold"))
    attributes = [(name, "–" if value is None else _plain(value)) for name, value in shown.items()]
    out.print(facts([*attributes, ("cluster", cluster), (reader.words("ratings"), count)]))
    if len(rated):
        out.print(reader.words("\nLatest ratings"), style="bold")
        value = "Weight" if is_events else "Rating"
        listed = table(value, "When", "Id", "Title", numbers=(value, "Id"))
        for row in rated.head(_LATEST).iter_rows(named=True):
            listed.add_row(f"{row['rating']:g}", f"{row['timestamp']:%Y-%m-%d}", row["item_id"], titled(row))
        out.print(listed)
    _print_affinity(affinity, names)


def _echo(content: object) -> None:
    """Print JSON; times are ISO 8601 in UTC."""
    typer.echo(json.dumps(content, indent=1, default=lambda value: value.isoformat()))


def _print_affinity(found: pl.DataFrame, names: dict[int, str]) -> None:
    out = console()
    if found.is_empty():
        out.print("\nNo segment: it needs at least two ratings before the last refresh.")
        return
    out.print(f"\nSegment affinity ({found['partition'][0]} user)", style="bold")
    shares = sorted(enumerate(found["affinity"][0].to_list()), key=lambda item: -item[1])
    chart = table("Segment", "", "Share", "Segment's first items", numbers=("Segment", "Share"))
    largest = shares[0][1]
    for number, share in shares:
        if share >= _SMALLEST_SHARE:
            chart.add_row(str(number), bar(share, 0, largest), f"{share:.0%}", names.get(number, ""))
    out.print(chart)


def segment(
    number: Annotated[int, typer.Argument(help="The segment's number, from 0.")],
    as_json: JSONOption = False,
    home: HomeOption = None,
) -> None:
    """Show one segment: its size, its first items by probability and by lift, and the attributes of its users.

    The lift of an item is P(item | segment) / P(item), shrunk towards 1 for rare items. The attributes of the
    segment's users are compared with those of all users.

    Examples: `recsys-assets segment 3`, `recsys-assets segment 3 --json`
    """
    reader = Reader.of(home)
    top = reader.table("segment_items").collect()
    numbers = top["segment"].unique().sort().to_list()
    if number not in numbers:
        raise CommandError(f"There is no segment {number}; segments are numbered {numbers[0]} to {numbers[-1]}.")
    segments = reader.table("user_segments").select("user", "segment", "partition").collect()
    members = segments.filter(pl.col("segment") == number)
    by_partition = dict(members["partition"].value_counts().sort("partition").iter_rows())
    mine = top.filter(pl.col("segment") == number)
    if as_json:
        catalogue = reader.table("items").select("item", "item_id").collect()
        columns = ("item_id", "title", "rank", "lift_rank", "probability", "lift")
        listed = mine.sort("rank").join(catalogue, on="item", how="left", maintain_order="left").select(columns)
        _echo({"segment": number, "users": by_partition, "items": listed.to_dicts()})
        return
    out = console()
    out.print(Text(f"Segment {number}", "bold"))
    split = ", ".join(f"{count:,} {partition}" for partition, count in by_partition.items()) or "none"
    users = f"{len(members):,} of {len(segments):,} ({split})"
    out.print(facts([("users", users), *_share(reader, number)]))
    _print_items(reader, reader.words("Most probable items"), mine.sort("rank").head(_TOP))
    _print_items(reader, reader.words("Items of the highest lift"), mine.sort("lift_rank").head(_TOP))
    _print_attributes(reader.table("users"), segments, number)


def _share(reader: Reader, number: int) -> list[tuple[str, str]]:
    """The segment's share now and in the previous fit; empty if the table of shares does not have this segment."""
    if not reader.store.has(["segment_shares"]):
        return []
    shares = reader.table("segment_shares").collect()
    mine = shares.filter(segment=number)
    if mine.is_empty():
        return []
    row = mine.row(0, named=True)
    if row["previous_share"] is not None:
        before = f", {row['previous_share']:.1%} before (similarity {row['similarity']:.2f})"
    else:
        before = "" if shares["previous_share"].is_null().all() else ", new"
    return [("share", f"{row['share']:.1%} of the users' affinity{before}")]


def _print_items(reader: Reader, heading: str, listed: pl.DataFrame) -> None:
    out = console()
    out.print(f"\n{heading}", style="bold")
    catalogue = reader.table("items").select("item", "item_id", "year", "genres").collect()
    numbers = ("", "Id", "Probability", "Lift")
    shown = table("", "Id", "Title", "Genres", "Probability", "Lift", numbers=numbers)
    rows = listed.join(catalogue, on="item", how="left", maintain_order="left").iter_rows(named=True)
    for place, row in enumerate(rows, 1):
        values = f"{row['probability']:.2%}", f"{row['lift']:.1f}"
        shown.add_row(str(place), row["item_id"], titled(row), genre_text(row), *values)
    out.print(shown)


def _print_attributes(users: pl.LazyFrame, segments: pl.DataFrame, number: int) -> None:
    """Print means and shares of attributes in the segment and among all users, the largest deviations first."""
    compared = attributes_by_group(nw.from_native(users), lazy(segments), "segment").filter(segment=number)
    if compared.is_empty():
        return
    out = console()
    out.print("\nAttributes, compared with all users", style="bold")
    shown = table("", "Here", "All", numbers=("Here", "All"))
    for row in compared.sort(pl.col("deviation").abs(), descending=True).head(_ATTRIBUTE_ROWS).iter_rows(named=True):
        style = "green" if row["deviation"] >= 0 else "yellow"
        shown.add_row(row["row"], Text(row["text"], style), row["everybody"])
    out.print(shown)


def _rating_stats(ratings: pl.LazyFrame, key: str) -> pl.DataFrame:
    return ratings.group_by(key).agg(n=pl.len(), mean=pl.col("rating").cast(pl.Float64).mean()).collect()


def _segments(reader: Reader, asset: str) -> pl.LazyFrame:
    """A table of segments. It is empty in a home without segments, where no user has two ratings."""
    return reader.table(asset) if reader.store.has([asset]) else empty(TABLES[asset]).lazy()


def _segment_names(reader: Reader, first: int = 2) -> dict[int, str]:
    """Names of segments: the titles of their first items."""
    top = _segments(reader, "segment_items").filter(pl.col("rank") <= first).sort("segment", "rank")
    named = top.group_by("segment", maintain_order=True).agg(pl.col("title").str.join(" · ")).collect()
    return dict(named.iter_rows())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
