"""Chart of the backtests: scores of each model by cut-off.

Scores belong in `evaluation.backtest`.
"""

import altair as alt
import polars as pl

from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.theme import CATEGORIES, WIDTH, Spec, finished

_SHOWN_POPULATION = "all"


def curve(backtest_scores: pl.DataFrame, metric: str) -> Spec:
    """One metric of every model by cut-off, for all users: points with 95 % confidence intervals.

    Args:
        backtest_scores: the table `backtest_scores`, with one or more cut-offs.
        metric: name of the metric.

    Raises:
        ValueError: the table has no score of this metric.
    """
    rows = backtest_scores.filter(
        pl.col("metric") == metric,
        pl.col("population") == _SHOWN_POPULATION,
        # The bounds would squeeze the models together; the selected model has a line already.
        ~pl.col("model").is_in([*labels.BOUNDS, labels.SELECTED]),
    )
    if rows.is_empty():
        raise ValueError(f"backtest_scores has no {metric}")
    facts = labels.metric(metric)
    named = rows.with_columns(label=pl.col("model").map_elements(labels.model, return_dtype=pl.String))
    models = [labels.model(name) for name in labels.ordered(named["model"], labels.MODELS)]
    color = alt.Color(
        "label:N",
        title=None,
        scale=alt.Scale(domain=models, range=list(CATEGORIES[: len(models)])),
        legend=alt.Legend(orient="bottom", symbolOpacity=1, symbolType="circle"),
    )
    cut_offs = named["cut_off"].unique().sort().to_list()
    x = alt.X(
        "cut_off:Q",
        title="share of the ratings, in time, for training",
        scale=alt.Scale(domain=[cut_offs[0] - 0.05, cut_offs[-1] + 0.05], nice=False),
        axis=alt.Axis(values=cut_offs, grid=False, format=".1f"),
    )
    y = alt.Y("value:Q", title=facts.label, scale=alt.Scale(zero=False))
    drawn = alt.Chart(named).encode(x=x, color=color)
    layers = alt.layer(
        drawn.mark_rule(strokeWidth=1.5, opacity=1).encode(y=alt.Y("low:Q", title=facts.label), y2=alt.Y2("high:Q")),
        drawn.mark_line(strokeWidth=2).encode(y=y),
        drawn.mark_circle(size=70, opacity=1).encode(y=y),
    )
    return finished(
        layers.properties(width=WIDTH, height=280),
        ": ".join(filter(None, (f"{facts.label} at each cut-off", facts.direction))),
        "Scored on the tenth of the ratings that follows. Bar: 95 % interval, bootstrap over users.",
    )
