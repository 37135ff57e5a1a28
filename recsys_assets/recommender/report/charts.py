"""Charts of ratings and scores, and re-exports of all other charts.

A chart aggregates with Narwhals on the engine of its table and collects only the data it draws. Charts of clusters and
segments belong in `cluster_charts` and `segment_charts`, colours and fonts in `theme`.
"""

from typing import Literal

import altair as alt
import narwhals as nw
import numpy as np
import polars as pl
import polars.selectors as cs

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.cluster_charts import cluster_pairs, cluster_profiles, cluster_sweep, cold_error
from recsys_assets.recommender.report.segment_charts import (
    example_affinities,
    rating_by_segment,
    segment_sheets,
    users_per_segment,
)
from recsys_assets.recommender.report.segment_share_charts import segment_shares
from recsys_assets.recommender.report.theme import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    VERMILLION,
    WIDTH,
    Spec,
    finished,
    note,
    to_png,
    to_svg,
)

__all__ = [
    "cluster_pairs",
    "cluster_profiles",
    "cluster_sweep",
    "cold_error",
    "example_affinities",
    "rating_by_segment",
    "ratings_per_user",
    "scores",
    "segment_shares",
    "segment_sheets",
    "to_png",
    "to_svg",
    "users_per_segment",
]

_BINS = 40
# A bound that leaves the models a smaller share of the axis stays outside: their differences would be invisible.
_LEAST_SHARE_OF_MODELS = 0.15
_TEXT = {"field": "text", "type": "nominal"}
# Legend entry and colour by the role of a model.
_ROLES = {"model": ("model", BLUE), "selected": ("selected", VERMILLION), "baseline": ("simple baseline", ORANGE)}


def ratings_per_user(ratings: nw.LazyFrame) -> Spec:
    """Histogram of the number of ratings per user on a logarithmic axis, with mean and median.

    Args:
        ratings: column user; other columns are not read. Users without a rating are not counted.
    """
    title = "Ratings per user"
    per_user = ratings.group_by("user").agg(nw.len().alias("ratings"))
    counted = to_polars(per_user.group_by("ratings").agg(nw.len().alias("users")))
    if not len(counted):
        return note(title, "There are no ratings.")
    each = np.repeat(counted["ratings"].to_numpy(), counted["users"].to_numpy())
    mean, median = float(each.mean()), float(np.median(each))
    edges = np.unique(np.geomspace(each.min(), each.max() + 1, _BINS + 1).round()).astype(int)
    heights, _ = np.histogram(each, edges)
    bins = pl.DataFrame({"from": edges[:-1], "to": edges[1:], "users": heights})
    axis = alt.Axis(grid=False, format="~s", tickCount=8, labelOverlap=True)
    scale = alt.Scale(type="log", domain=[int(edges[0]), int(edges[-1])], nice=False)
    bars = (
        alt.Chart(bins)
        .mark_bar(color=BLUE, opacity=1, binSpacing=1)
        .encode(
            x=alt.X("from:Q", title="ratings per user (logarithmic)", scale=scale, axis=axis),
            x2=alt.X2("to:Q"),
            y=alt.Y("users:Q", title="users", axis=alt.Axis(tickMinStep=1)),
            y2=alt.Y2Datum(0),
        )
    )
    middle = alt.layer(
        bars,
        *_marked(median, f"median {median:,.1f}", to_the_right=median > mean),
        *_marked(mean, f"mean {mean:,.1f}", to_the_right=median <= mean),
    )
    return finished(
        middle.properties(width=WIDTH, height=240),
        title,
        f"{len(each):,} users with {each.sum():,} ratings, from {each.min():,} to {each.max():,} each.",
    )


def _marked(value: float, label: str, *, to_the_right: bool) -> list[alt.Chart]:
    """A vertical line with its label at the top, on the side away from the other line."""
    at = alt.Chart(pl.DataFrame({"from": [value], "label": [label]})).encode(x=alt.X("from:Q"))
    text = at.mark_text(align="left" if to_the_right else "right", dx=6 if to_the_right else -6, fontSize=12.5)
    return [
        at.mark_rule(color=INK, strokeWidth=1.5, strokeDash=[5, 3]),
        text.encode(y=alt.YValue(-4), text=alt.Text("label:N")),
    ]


def scores(
    evaluation_scores: nw.LazyFrame | pl.DataFrame,
    protocol: str,
    metric: str,
    kind: DataKind = RATINGS_WITH_TIMES,
) -> Spec:
    """One metric of one protocol: a point with 95 % confidence interval per model, one panel per population.

    `random` and `upper_bound` are lines: a score outside them is worse than chance or impossible. The specification is
    written by hand: a report has dozens of these charts, and Altair copies a chart whenever it joins it with others,
    which takes longer than rendering.

    Args:
        evaluation_scores: the table `evaluation_scores`.
        protocol: name of the protocol.
        metric: name of the metric.
        kind: kind of the data.

    Raises:
        ValueError: the table has no score of this metric under this protocol.
    """
    rows = nw.from_native(evaluation_scores).lazy()
    table = to_polars(rows.filter(nw.col("protocol") == protocol, nw.col("metric") == metric))
    if not len(table):
        raise ValueError(f"evaluation_scores has no {metric} under {protocol}")
    facts = labels.metric(metric)
    table = table.with_columns(
        role=pl.col("model").map_elements(labels.role, return_dtype=pl.String),
        label=pl.col("model").map_elements(labels.model, return_dtype=pl.String),
        text=pl.col("value").map_elements(facts.shown, return_dtype=pl.String),
    )
    populations = labels.ordered(table["population"], labels.POPULATIONS)
    domain, color = _domain(table), _role_color(set(table["role"]))
    panels = [
        _score_panel(table.filter(pl.col("population") == name), domain, color, facts, last=name == populations[-1])
        for name in populations
    ]
    return finished(
        {"vconcat": panels, "spacing": 22, "resolve": {"scale": {"color": "shared"}}},
        ": ".join(filter(None, (facts.label, facts.direction))),
        f"{labels.protocol(protocol, kind).label}. Point: score; bar: 95 % interval, bootstrap over users.",
    )


def _domain(table: pl.DataFrame) -> list[float]:
    """Ends of the axis, with room for the number to the right of a model's point.

    A bound that is so far away that it would squeeze the models together stays outside.
    """
    ends = table.select("role", low=pl.min_horizontal("low", "value"), high=pl.max_horizontal("high", "value"))
    models = ends.filter(pl.col("role") != "bound")
    shown = models if len(models) else ends
    low, high = _ends(shown)
    for bound_low, bound_high in ends.filter(pl.col("role") == "bound").select("low", "high").iter_rows():
        wider = (min(low, bound_low), max(high, bound_high))
        if (high - low) >= _LEAST_SHARE_OF_MODELS * (wider[1] - wider[0]):
            low, high = wider
    span = (high - low) or 1.0
    return [low - 0.04 * span, high + (0.12 if high == _ends(shown)[1] else 0.04) * span]


def _ends(table: pl.DataFrame) -> tuple[float, float]:
    low, high = table.select(pl.col("low").min(), pl.col("high").max()).row(0)
    return low, high


def _score_panel(table: pl.DataFrame, domain: list[float], color: Spec, facts: labels.Metric, *, last: bool) -> Spec:
    """The models of one population, best at the top."""
    models = (
        table.filter(pl.col("role") != "bound")
        .sort("value", "model", descending=[facts.better != "lower", False])
        .with_columns(
            right=pl.max_horizontal("high", "value"),
            role_name=pl.col("role").replace({role: name for role, (name, _) in _ROLES.items()}),
        )
    )
    x = {
        "type": "quantitative",
        "title": facts.label if last else None,
        "scale": {"domain": domain, "nice": False, "zero": False},
        "axis": {"labels": last, "ticks": last, "tickCount": 7},
    }
    y = {"field": "label", "type": "nominal", "title": None, "sort": models["label"].to_list()}
    marks: list[tuple[Spec, Spec]] = [
        ({"type": "rule", "strokeWidth": 2.5, "opacity": 1}, {"x": x | {"field": "low"}, "x2": {"field": "high"}}),
        ({"type": "circle", "size": 75, "opacity": 1}, {"x": x | {"field": "value"}}),
        (
            {"type": "text", "align": "left", "dx": 10},
            {"x": x | {"field": "right"}, "text": _TEXT, "color": {"value": INK}},
        ),
    ]
    own = [
        {"data": _data(models), "mark": mark, "encoding": {"y": y, "color": color} | encoding}
        for mark, encoding in marks
    ]
    return {
        "title": {"text": labels.population(table["population"][0]), "fontSize": 13, "offset": 6},
        "width": WIDTH - 170,
        "height": {"step": 24},
        "layer": [*_bound_lines(table.filter(pl.col("role") == "bound"), x, domain), *own],
    }


def _role_color(present: set[str]) -> Spec:
    names, colors = zip(*[_ROLES[role] for role in _ROLES if role in present] or [_ROLES["model"]], strict=True)
    legend = {"orient": "bottom", "symbolOpacity": 1, "symbolType": "circle", "symbolSize": 75}
    return {
        "field": "role_name",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(names), "range": list(colors)},
        "legend": legend if len(names) > 1 else None,
    }


def _bound_lines(bounds: pl.DataFrame, x: Spec, domain: list[float]) -> list[Spec]:
    """A dashed line per bound, labelled on its inner side; a bound outside the panel is a label with an arrow."""
    low, high = domain
    # Without the text in brackets, because the labels of two close bounds would overlap.
    value, label = pl.col("value"), pl.format("{} {}", pl.col("label").str.replace(r" \(.*\)$", ""), "text")
    to_the_left = value <= (low + high) / 2
    arrow = pl.when(value < low).then(pl.format("← {}", label)).when(value > high).then(pl.format("{} →", label))
    named = bounds.with_columns(text=arrow.otherwise(label), at=value.clip(low, high))
    return [
        {
            "data": _data(named.filter(value.is_between(low, high))),
            "mark": {"type": "rule", "color": GREEN, "strokeDash": [4, 3], "strokeWidth": 1.5},
            "encoding": {"x": x | {"field": "value"}},
        },
        _bound_labels(named.filter(to_the_left), "left", x),
        _bound_labels(named.filter(~to_the_left), "right", x),
    ]


def _bound_labels(bounds: pl.DataFrame, align: Literal["left", "right"], x: Spec) -> Spec:
    return {
        "data": _data(bounds),
        "mark": {"type": "text", "align": align, "fontSize": 11, "color": MUTED},
        "encoding": {"x": x | {"field": "at"}, "y": {"value": -8}, "text": _TEXT},
    }


def _data(table: pl.DataFrame) -> Spec:
    # JSON has no NaN.
    return {"values": table.with_columns(cs.float().fill_nan(None)).to_dicts()}
