"""Charts of the segments: sizes, cards, ratings by segment, affinities of example users.

The segment model belongs in `models.segments`, the contents of cards in `segment_cards`.
"""

from collections.abc import Sequence
from textwrap import wrap

import altair as alt
import narwhals as nw
import polars as pl
from altair.typing import ChartType

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.report.segment_cards import CARD_ITEMS, Card, largest, segment_cards
from recsys_assets.recommender.report.theme import BLUE, MUTED, ORANGE, WIDTH, Spec, finished, note

# Titles take most of the bytes of a PNG; the titles of 3 cards fit into the limit of `to_png`.
SHEET_CARDS, SHEETS = 3, 4
_TITLE_WIDTH, _BAR_WIDTH = 230, 100
# Number of characters that fit above the two lists.
_LINE_LENGTH = 105
EXAMPLE_ITEMS = 6
# Case study B's example is a user whose highest and lowest affinity differ by half of all affinity.
CLEAR_SPREAD = 0.5
# With more segments, the numbers above the bars overlap.
_LABELLED_SEGMENTS = 25


def users_per_segment(user_segments: nw.LazyFrame) -> Spec:
    """Number of users with their highest affinity for each segment, split into train and test users.

    Args:
        user_segments: the table `user_segments`.
    """
    counts = to_polars(user_segments.group_by("segment", "partition").agg(nw.len().alias("users")))
    totals = counts.group_by("segment").agg(pl.col("users").sum()).sort("segment")
    x = alt.X("segment:O", title="segment", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    partitions = alt.Color(
        "partition:N",
        title="users",
        sort=["train", "test"],
        scale=alt.Scale(domain=["train", "test"], range=[BLUE, ORANGE]),
        legend=alt.Legend(orient="top", title=None),
    )
    bars = (
        alt.Chart(counts.sort("segment", "partition"))
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y("users:Q", title="users"),
            color=partitions,
            order=alt.Order("partition:N", sort="descending"),
        )
    )
    labels = (
        alt.Chart(totals)
        .mark_text(dy=-7, fontSize=11)
        .encode(x=x, y=alt.Y("users:Q"), text=alt.Text("users:Q", format=","))
    )
    chart = bars + labels if len(totals) <= _LABELLED_SEGMENTS else bars
    return finished(
        chart.properties(width=WIDTH, height=240),
        "Users per segment",
        f"{totals['users'].sum():,} users by their segment of highest affinity.",
    )


def segment_sheets(segment_items: nw.LazyFrame, user_segments: nw.LazyFrame, users: nw.LazyFrame) -> list[Spec]:
    """The cards of the largest segments, `SHEET_CARDS` per chart, because one chart of all is too large to store.

    A chart takes seconds to render, so there are at most `SHEETS`; the page shows more cards as text.

    Args:
        segment_items: the table `segment_items`.
        user_segments: the table `user_segments`.
        users: the table `users`, with the original attributes.
    """
    cards = largest(segment_cards(segment_items, user_segments, users), SHEETS * SHEET_CARDS)
    return [_sheet(cards[first : first + SHEET_CARDS]) for first in range(0, len(cards), SHEET_CARDS)]


def _sheet(cards: Sequence[Card]) -> Spec:
    numbers = ", ".join(str(card.segment) for card in cards)
    return finished(
        alt.vconcat(*[_card(card) for card in cards], spacing=26),
        f"Segment{'s' if len(cards) > 1 else ''} {numbers}: the first {CARD_ITEMS} items",
        "Left: probability of the item in the segment. Right: lift, how many times as probable it is in the segment",
        "as in all ratings, shrunk towards 1 for rare items. In brackets: the value among all users.",
    )


def _card(card: Card) -> ChartType:
    traits = (f"{each['row']}, {each['text']} ({each['everybody']})" for each in card.traits)
    # Non-breaking spaces, so that lines break only between traits.
    who = wrap("; ".join(trait.replace(" ", "\u00a0") for trait in traits), _LINE_LENGTH)
    heading = alt.TitleParams(
        f"Segment {card.segment}: {card.users:,} users, {100 * card.share:.1f}\u00a0%",
        subtitle=who or alt.Undefined,
        fontSize=13.5,
        subtitleFontSize=12,
        offset=8,
    )
    lists = alt.hconcat(
        _item_list(card.by_probability, "rank", "probability", ".1~%"),
        _item_list(card.by_lift, "lift_rank", "lift", "~r"),
        spacing=18,
    )
    return lists.properties(title=heading)


def _item_list(items: pl.DataFrame, rank: str, value: str, number: str) -> ChartType:
    """One bar per item, with its title to the left; rows are ranks, because two items can share a title."""
    base = alt.Chart(items).encode(y=alt.Y(f"{rank}:O", title=None, axis=None))
    # One scale per list: in a segment of one user, a single item can have a quarter of the ratings.
    x = alt.X(f"{value}:Q", title=value, axis=alt.Axis(format=number, tickCount=3))
    numbered = base.transform_calculate(label=f"datum.{rank} + '. ' + datum.title")
    title = numbered.mark_text(align="left", limit=_TITLE_WIDTH - 8, fontSize=11).encode(
        x=alt.XValue(-_TITLE_WIDTH), text=alt.Text("label:N")
    )
    bar = base.mark_bar(color=BLUE, height={"band": 0.7}).encode(x=x)
    return alt.layer(bar, title).properties(width=_BAR_WIDTH, height=alt.Step(15))


def most_rated(segment_ratings: nw.LazyFrame, n: int = EXAMPLE_ITEMS) -> list[int]:
    """Dense ids of the items with the most ratings by users with a segment, most ratings first."""
    totals = segment_ratings.group_by("item").agg(nw.col("count").cast(nw.Int64()).sum().alias("ratings"))
    return to_polars(totals.sort("ratings", "item", descending=[True, False]).head(n))["item"].to_list()


def rating_by_segment(
    segment_ratings: nw.LazyFrame, items: nw.LazyFrame, example_items: Sequence[int] | None = None
) -> Spec:
    """Mean rating of some items by the users of each segment, with the number of ratings behind it.

    Args:
        segment_ratings: the table `segment_ratings`.
        items: the table `items`, for the titles.
        example_items: dense ids; None for the most rated items.
    """
    title = "The same item, segment by segment"
    shown = list(most_rated(segment_ratings) if example_items is None else example_items)
    means = segment_ratings.filter(nw.col("item").is_in(shown), nw.col("count") > 0)
    table = to_polars(means.join(items.select("item", "title"), on="item", how="left"))
    if not len(table):
        return note(title, "None of these items has a rating by a user with a segment.")
    overall = (pl.col("mean") * pl.col("count")).sum() / pl.col("count").sum()
    table = table.sort("item", "segment").select(
        "item",
        "segment",
        "mean",
        "count",
        pl.col("title").fill_null("untitled"),
        overall=overall.over("item"),
    )
    parts = table.partition_by("item", as_dict=True)
    domain = list(table.select(pl.col("mean").min(), high=pl.col("mean").max()).row(0))
    rows = [_item_row(parts[(item,)], domain, last=item == shown[-1]) for item in shown if (item,) in parts]
    return finished(
        alt.vconcat(*rows, spacing=18).resolve_scale(size="shared", x="shared"),
        title,
        "Point: mean rating by the segment's train users, its area their number (also written below).",
        "Line and number beside the title: mean over all segments.",
    )


def _item_row(table: pl.DataFrame, domain: list[float], *, last: bool) -> ChartType:
    labelled = table["segment"].n_unique() <= _LABELLED_SEGMENTS
    title = "segment" if last else None
    padding = 18 if labelled else 4
    axis = alt.Axis(
        labelAngle=0,
        grid=False,
        ticks=False,
        labels=last,
        title=title,
        labelOverlap=True,
        labelPadding=padding,
    )
    base = alt.Chart(table).encode(x=alt.X("segment:O", axis=axis))
    mean = alt.Y(
        "mean:Q",
        title="mean rating",
        axis=alt.Axis(tickCount=3),
        scale=alt.Scale(zero=False, domain=domain, padding=14),
    )
    legend = None if labelled else alt.Legend(tickCount=3, orient="bottom")
    size = alt.Size("count:Q", title="ratings", scale=alt.Scale(range=[12, 260]), legend=legend)
    layers = [
        alt.Chart(table.head(1)).mark_rule(color=ORANGE, strokeWidth=1.5).encode(y=alt.Y("overall:Q")),
        base.mark_circle(color=BLUE, opacity=1).encode(y=mean, size=size),
    ]
    if labelled:
        counts = base.mark_text(fontSize=11, color=MUTED).encode(y=alt.YValue(92), text=alt.Text("count:Q", format=","))
        layers.append(counts)
    heading = f"{table['title'][0]}  ({table['overall'][0]:.2f})"
    return alt.layer(*layers).properties(
        width=WIDTH - 60, height=84, title=alt.TitleParams(heading, fontSize=13, offset=4)
    )


def example_users(user_segments: nw.LazyFrame) -> pl.DataFrame:
    """Three example users (columns user, example, affinity): smallest spread, spread just above 0.5, first user.

    The spread of a user is the highest minus the lowest affinity; of equal spreads, the lower dense id counts. The
    second example is left out if no user has such a spread.
    """
    spread = nw.col("affinity").list.max() - nw.col("affinity").list.min()
    users = user_segments.select("user", "affinity", spread.alias("spread"))
    examples = {
        "flattest": users.sort("spread", "user"),
        f"nearest above a spread of {CLEAR_SPREAD}": users.filter(nw.col("spread") > CLEAR_SPREAD).sort(
            "spread", "user"
        ),
        "first user": users.sort("user"),
    }
    return pl.concat(
        to_polars(ordered.head(1)).with_columns(example=pl.lit(name), order=pl.lit(order, pl.Int32))
        for order, (name, ordered) in enumerate(examples.items())
    )


def example_affinities(user_segments: nw.LazyFrame, users: nw.LazyFrame | None = None) -> Spec:
    """Affinities of the three users of `example_users`.

    Args:
        user_segments: the table `user_segments`.
        users: the table `users`, for the original ids; None labels users by dense id.
    """
    examples = example_users(user_segments)
    if not len(examples):
        return note("Three users", "There are no users with segments.")
    names = {} if users is None else _ids(users, examples["user"].to_list())
    panels = [
        _affinity_panel(row, names.get(row["user"], f"index {row['user']}")) for row in examples.iter_rows(named=True)
    ]
    return finished(
        alt.hconcat(*panels, spacing=28).resolve_scale(y="shared"),
        "Three users, three mixtures of taste",
        "Affinity: share of each segment in what the user rated; each user's sum to 1.",
    )


def _ids(users: nw.LazyFrame, wanted: Sequence[int]) -> dict[int, str]:
    table = to_polars(users.filter(nw.col("user").is_in(list(wanted))), "user", "user_id")
    return dict(table.iter_rows())


def _affinity_panel(example: dict, name: str) -> alt.Chart:
    affinity = pl.DataFrame({"affinity": example["affinity"]}).with_row_index("segment")
    lines = [example["example"], f"spread {example['spread']:.3f}"]
    heading = alt.TitleParams(f"User {name}", subtitle=lines, fontSize=13, subtitleFontSize=12, offset=8)
    return (
        alt.Chart(affinity)
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("segment:O", title="segment", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("affinity:Q", title="affinity (share, 0 to 1)"),
        )
        .properties(width=190, height=170, title=heading)
    )
