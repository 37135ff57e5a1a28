"""Chart of the segment shares: now and in the previous refresh.

The shares belong in `models.segments`.
"""

import altair as alt
import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.models.segments import largest_shift, share_shift
from recsys_assets.recommender.report.theme import BLUE, MUTED, ORANGE, WIDTH, Spec, finished, note

# More rows make the chart too long; the chart shows the largest segments, now or before.
SHOWN = 40
_TITLE = "How large each segment is, now and before"
_NAME_WIDTH = 320
_SIMILARITY_WIDTH = 30


def segment_shares(shares: nw.LazyFrame) -> Spec:
    """Share of each segment in the users' affinity, now and for the matched segment of the previous refresh.

    Args:
        shares: the table `segment_shares`.
    """
    table = to_polars(shares)
    if table.is_empty():
        return note(_TITLE, "There are no segments.")
    rows = _rows(table)
    y = alt.Y("label:N", title=None, sort=rows["label"].to_list(), axis=alt.Axis(labelLimit=_NAME_WIDTH))
    room = alt.Scale(domain=[0, 1.35 * float(rows["larger"][0])], nice=False)
    x = alt.X("share:Q", title="share of the users' affinity", scale=room, axis=alt.Axis(format="~%", tickCount=5))
    base = alt.Chart(rows).encode(y=y)
    layers = [
        base.mark_bar(color=BLUE, height={"band": 0.65}).encode(x=x),
        base.mark_tick(color=ORANGE, thickness=3, size=15, opacity=1).encode(x=alt.X("previous_share:Q")),
        base.mark_text(align="left", dx=6, fontSize=11).encode(x=alt.X("larger:Q"), text=alt.Text("text:N")),
        alt.Chart(rows.drop_nulls("similarity"))
        .mark_text(align="right", fontSize=11, color=MUTED)
        .encode(
            y=y, x=alt.XValue(WIDTH - _NAME_WIDTH + _SIMILARITY_WIDTH), text=alt.Text("similarity:Q", format=".2f")
        ),
    ]
    chart = alt.layer(*layers).properties(width=WIDTH - _NAME_WIDTH, height=alt.Step(19))
    return finished(chart, _TITLE, *_told(table, len(rows)))


def _rows(table: pl.DataFrame) -> pl.DataFrame:
    """The drawn rows, largest first."""
    share, previous = pl.col("share").fill_null(0), pl.col("previous_share").fill_null(0)
    is_gone = pl.col("segment").is_null()
    percent = pl.format("{}\u00a0%", (100 * share).round(1))
    moved = (100 * (share - previous)).round(1)
    change = pl.format("{}{}", pl.when(moved >= 0).then(pl.lit("+")).otherwise(pl.lit("−")), moved.abs())
    text = (
        pl.when(is_gone)
        .then(pl.lit("gone"))
        .when(pl.col("previous_segment").is_null())
        .then(pl.format("{}, new", percent))
        .otherwise(pl.format("{} ({})", percent, change))
    )
    was = pl.format("(was {}) {}", "previous_segment", "previous_name")
    return (
        table.with_columns(
            label=pl.when(is_gone).then(was).otherwise(pl.format("{}  {}", "segment", "name")),
            larger=pl.max_horizontal(share, previous),
            text=percent if share_shift(table) is None else text,
        )
        .sort("larger", "segment", "previous_segment", descending=[True, False, False], nulls_last=True)
        .head(SHOWN)
    )


def _told(table: pl.DataFrame, shown: int) -> list[str]:
    """Lines of the subtitle."""
    largest = [f"The {shown} largest of {len(table)}."] if shown < len(table) else []
    moved = share_shift(table)
    if moved is None:
        return ["These are the first stored segments: there is nothing to compare them with yet.", *largest]
    which, shift = largest_shift(table)
    return [
        f"{100 * moved:.1f}\u00a0% of the users' affinity has moved since the previous refresh; "
        "a new fit alone moves some of it.",
        f"Most: {which} ({100 * shift:+.1f} points).",
        "Bar: present share, with its change. Orange: share of the matching segment in the previous refresh.",
        "Right: similarity of the two segments, at most 1; near 0.5 they may be different tastes.",
        *largest,
    ]
