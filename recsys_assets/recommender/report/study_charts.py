"""Charts of a study: RMSE by number of known ratings, leakage audit, segment sweep.

The tables belong in `tuning`.
"""

from dataclasses import dataclass

import altair as alt
import polars as pl
from altair.typing import ChartType

from recsys_assets.recommender.evaluation.protocols import LEAKAGE_AUDIT, TOP_N_LEAKAGE_AUDIT
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.theme import CATEGORIES, INK, WIDTH, Spec, finished

_NEW_USERS = r"^new_users_(\d+)$"
_SPLITS = ("cut in time", "random, 80 to 20", "last rating out")


@dataclass(frozen=True)
class Audit:
    """The same models under several splits.

    Attributes:
        metric: name of the compared metric.
        protocols: the protocol without leakage first, then the leaking ones, in the order of `_SPLITS`.
        notes: lines of the subtitle.
    """

    metric: str
    protocols: tuple[str, ...]
    notes: tuple[str, ...]


AUDIT_OF_RATINGS = Audit(
    "rmse",
    LEAKAGE_AUDIT,
    ("Under a random or a leave-last-out split, models know what other users rated later.",),
)
AUDIT_OF_RANKINGS = Audit(
    "ndcg_10",
    TOP_N_LEAKAGE_AUDIT,
    (
        "NDCG also depends on the number of relevant items, which is 1 under leave-last-out.",
        "Compare the leads of the models under each split, not their scores.",
    ),
)


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(label=pl.col("model").map_elements(labels.model, return_dtype=pl.String))


def _color(rows: pl.DataFrame, columns: int = 4) -> alt.Color:
    models = [labels.model(name) for name in labels.ordered(rows["model"], labels.MODELS)]
    colors = [CATEGORIES[place % len(CATEGORIES)] for place in range(len(models))]
    return alt.Color(
        "label:N",
        title=None,
        scale=alt.Scale(domain=models, range=colors),
        legend=alt.Legend(orient="bottom", symbolOpacity=1, symbolType="circle", columns=columns, labelLimit=220),
    )


def _shown(scores: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Scores of all models for all users, without `selected`, which repeats a model, and without bounds."""
    hidden = [*labels.BOUNDS, labels.SELECTED, "als_unadjusted"]
    return scores.filter(metric=metric, population="all").filter(~pl.col("model").is_in(hidden))


def cold_to_warm(scores: pl.DataFrame) -> Spec | None:
    """RMSE of every model by the number of known ratings of a new user; None without two such protocols.

    Args:
        scores: table `study_scores`.
    """
    rows = (
        _shown(scores, "rmse")
        .with_columns(known=pl.col("protocol").str.extract(_NEW_USERS).cast(pl.Int32))
        .drop_nulls("known")
    )
    if rows["known"].n_unique() < 2:
        return None
    # Equal steps, because RMSE changes more from 0 to 1 rating than from 10 to 20.
    x = alt.X("known:O", title="ratings of the new user that are known", axis=alt.Axis(labelAngle=0))
    drawn = alt.Chart(_named(rows)).encode(x=x, color=_color(rows))
    # The axis ends near the item mean: a single bad model would squeeze all others into one line.
    baseline = rows.filter(model=labels.ITEM_MEAN)
    highest = float((baseline if len(baseline) else rows)["high"].to_numpy().max())
    lowest = float(rows["low"].to_numpy().min())
    scale = alt.Scale(zero=False, nice=False, domain=[lowest, highest])
    layers = alt.layer(
        drawn.mark_rule(strokeWidth=1.5, opacity=1, clip=True).encode(
            y=alt.Y("low:Q", title="RMSE", scale=scale), y2=alt.Y2("high:Q")
        ),
        drawn.mark_line(strokeWidth=2, clip=True).encode(y=alt.Y("value:Q", title="RMSE", scale=scale)),
        drawn.mark_circle(size=60, opacity=1, clip=True).encode(y=alt.Y("value:Q", scale=scale)),
    )
    beyond = rows.filter(pl.col("value") > highest).sort("value").unique("model", keep="last", maintain_order=True)
    astray = [f"{labels.model(row['model'])} {row['value']:.2f}" for row in beyond.iter_rows(named=True)]
    return finished(
        layers.properties(width=WIDTH, height=340),
        "From cold to warm: RMSE for new users, lower is better",
        "A tenth of the users is new; the same later ratings are predicted each time. Bar: 95 % interval.",
        *([f"Outside of the chart, with their largest value: {', '.join(astray)}."] if astray else []),
    )


def optimism(scores: pl.DataFrame, audit: Audit = AUDIT_OF_RATINGS) -> Spec | None:
    """The same models under leaking splits and under a split without leakage; None without both.

    Args:
        scores: table `study_scores`.
        audit: metric and splits of the audit.
    """
    splits = dict(zip(audit.protocols, _SPLITS, strict=True))
    rows = _shown(scores, audit.metric).filter(pl.col("protocol").is_in(audit.protocols))
    if audit.protocols[0] not in set(rows["protocol"]) or rows["protocol"].n_unique() < 2:
        return None
    facts = labels.metric(audit.metric)
    named = _named(rows).with_columns(split=pl.col("protocol").replace_strict(splits))
    order = [split for name, split in splits.items() if name in set(rows["protocol"])]
    color = alt.Color(
        "split:N",
        title=None,
        sort=order,
        scale=alt.Scale(domain=order, range=list(CATEGORIES[: len(order)])),
        legend=alt.Legend(orient="bottom", symbolOpacity=1, symbolType="circle"),
    )
    models = [labels.model(name) for name in labels.ordered(rows["model"], labels.MODELS)]
    drawn = alt.Chart(named).encode(y=alt.Y("label:N", title=None, sort=models), color=color)
    x = alt.X("value:Q", title=facts.label, scale=alt.Scale(zero=False))
    layers = alt.layer(
        drawn.mark_rule(strokeWidth=2, opacity=1).encode(x=alt.X("low:Q", title=facts.label), x2=alt.X2("high:Q")),
        drawn.mark_circle(size=90, opacity=1).encode(x=x),
    )
    return finished(
        layers.properties(width=WIDTH - 170, height=alt.Step(24)),
        f"Leakage audit: {facts.label} of the same models by split, {facts.direction}",
        *audit.notes,
    )


def segment_sweep(sweep: pl.DataFrame, n_segments: int) -> Spec | None:
    """Perplexity, R² and next-item hits by number of segments; None without two numbers.

    Args:
        sweep: table `segment_sweep`.
        n_segments: the number in use.
    """
    if sweep.is_empty() or sweep["n_segments"].n_unique() < 2:
        return None
    named = _named(sweep).with_columns(in_use=pl.lit(n_segments))
    panels = [
        _over_segments(named.filter(metric=metric), title)
        for metric, title in (
            ("perplexity", "perplexity, lower is better"),
            ("r2", "R² of the latest rating"),
            ("next_item_hit_10", "next item hit at 10"),
        )
    ]
    return finished(
        alt.hconcat(*panels, spacing=24).resolve_scale(color="independent"),
        "How many segments?",
        f"{n_segments} are in use (dashed line). Scored on held-out train users; bar: 95 % interval.",
        "Perplexity of half of a user's items given the other half: number of equally likely items.",
    )


def _over_segments(rows: pl.DataFrame, title: str) -> ChartType:
    numbers = rows["n_segments"].unique().sort().to_list()
    axis = alt.Axis(values=numbers, format="d", grid=False)
    drawn = alt.Chart(rows).encode(
        x=alt.X("n_segments:Q", title="number of segments", scale=alt.Scale(type="log", base=2, nice=False), axis=axis),
        color=_color(rows, columns=1),
    )
    low = alt.Y("low:Q", title=title, scale=alt.Scale(zero=False))
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    return alt.layer(
        drawn.mark_rule(strokeWidth=1.5, opacity=1).encode(y=low, y2=alt.Y2("high:Q")),
        drawn.mark_line(strokeWidth=2).encode(y=value),
        drawn.mark_circle(size=60, opacity=1).encode(y=value),
        alt.Chart(rows).mark_rule(strokeDash=[4, 3], color=INK).encode(x=alt.X("in_use:Q")),
    ).properties(width=(WIDTH - 150) // 3, height=220)
