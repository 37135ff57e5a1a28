"""Charts of the user clusters: sweep over K, clusters in pairs of features, profiles.

Clustering belongs in `features.clusters`.
"""

import json
from itertools import combinations

import altair as alt
import narwhals as nw
import numpy as np
import polars as pl
from altair.typing import ChartType

from recsys_assets.recommender.data.frames import lazy, pseudo_random, to_polars
from recsys_assets.recommender.features.clusters import silhouette_choice
from recsys_assets.recommender.report.attributes import attributes_by_group
from recsys_assets.recommender.report.theme import (
    BLUE,
    INK,
    ORANGE,
    VERMILLION,
    WIDTH,
    Spec,
    category_scale,
    finished,
    note,
)

_FORMATS = {"sse": "~s", "silhouette": ".2f", "rmse": ".4f"}
# Enough to show the shape of the point cloud; more points only make the file larger.
PAIRED_USERS = 300
PAIRED_FEATURES = 4
# More categories make the profile long, and the shares of rare categories differ by chance.
PROFILE_CATEGORIES = 8
# Larger deviations get the same colour, so that one rare category does not make all others pale.
_STRONG = 1.5
# The page is seen through the colours, in both modes. Numbers in the colour of text stand out from this much of them.
_MOST_OPACITY = 0.6


def cluster_sweep(sweep: nw.LazyFrame, chosen_k: int) -> Spec:
    """SSE and silhouette by K, with the K in use and the K that the silhouette would choose.

    Args:
        sweep: the table `cluster_sweep`.
        chosen_k: the number of clusters in use.
    """
    table = to_polars(sweep, "k", "sse", "silhouette").sort("k")
    best = silhouette_choice(table)
    if not len(table):
        return note("Number of clusters", "There is no sweep: the users have no attributes to form clusters by.")
    verdict = "no K has a silhouette here" if best is None else f"the silhouette would choose K = {best}"
    panels = alt.hconcat(
        _over_k(table, "sse", "sum of squared distances (SSE)", chosen_k, best),
        _over_k(table.drop_nulls("silhouette"), "silhouette", "mean silhouette (−1 to 1)", chosen_k, best),
        spacing=36,
    )
    return finished(
        panels,
        "How many clusters?",
        f"K = {chosen_k} is used (dashed line); {verdict}{'' if best is None else ' (orange point)'}.",
    )


def cold_error(study_trials: pl.DataFrame, sweep: nw.LazyFrame, chosen_k: int) -> Spec | None:
    """RMSE of users without a rating by K, from the trials of a study on the validation split of the cut in time.

    None if no study has tried at least two values of K.

    Args:
        study_trials: the table `study_trials`.
        sweep: the table `cluster_sweep`.
        chosen_k: the number of clusters in use.
    """
    table = _tried_k(study_trials)
    if len(table) < 2:
        return None
    best = int(table.sort("rmse", "k")["k"][0])
    silhouette = silhouette_choice(to_polars(sweep))
    choices = [
        "The silhouette would choose no K" if silhouette is None else f"The silhouette would choose K = {silhouette}",
        f"the held-out error of new users K = {best} (orange point)",
        f"in use is K = {chosen_k} (dashed line).",
    ]
    return finished(
        _over_k(table, "rmse", "RMSE, lower is better", chosen_k, best).properties(width=WIDTH - 60),
        "How many clusters for new users? RMSE of users without a rating, by K",
        ", ".join(choices),
        "ALS with cold users filled in from their cluster, on the validation split of the training ratings.",
    )


def _tried_k(study_trials: pl.DataFrame) -> pl.DataFrame:
    """Columns k and rmse of the successful trials of the search over K, sorted by k."""
    if study_trials.is_empty():
        return study_trials
    tried = study_trials.filter(validation_split="time_cut", search="clusters", metric="rmse", population="unseen")
    rows = [
        (json.loads(candidate)["clusters.k"], value)
        for candidate, value in tried.drop_nulls("value").select("candidate", "value").iter_rows()
    ]
    return pl.DataFrame(rows, schema={"k": pl.Int32, "rmse": pl.Float64}, orient="row").sort("k")


def _over_k(table: pl.DataFrame, column: str, title: str, chosen_k: int, best: int | None) -> ChartType:
    number = _FORMATS[column]
    axis = alt.Axis(grid=False, tickMinStep=1, format="d")
    k = alt.X("k:Q", title="number of clusters K", scale=alt.Scale(zero=False, nice=False, padding=10), axis=axis)
    value = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, format=number))
    curve = alt.Chart(table).encode(x=k, y=value)
    in_use = alt.Chart(pl.DataFrame({"k": [chosen_k], "label": [f"K = {chosen_k}"]})).encode(x=alt.X("k:Q"))
    marked = table.filter(pl.col("k") == (-1 if best is None else best))
    return alt.layer(
        in_use.mark_rule(strokeDash=[4, 3], color=INK),
        in_use.mark_text(align="left", dx=5, dy=4).encode(y=alt.YValue(4), text=alt.Text("label:N")),
        curve.mark_line(color=BLUE, strokeWidth=2),
        curve.mark_circle(color=BLUE, size=36, opacity=1),
        alt.Chart(marked).mark_circle(color=ORANGE, size=130, opacity=1).encode(x=alt.X("k:Q"), y=alt.Y(f"{column}:Q")),
    ).properties(width=WIDTH // 2 - 50, height=230)


def cluster_pairs(user_features: nw.LazyFrame, user_clusters: nw.LazyFrame) -> Spec:
    """Users as points in pairs of features, coloured by cluster.

    The chart shows the features that separate the clusters best, at most `PAIRED_FEATURES`: for each attribute, the
    feature with the largest share of variance between clusters. At most `PAIRED_USERS` users are shown, sampled by
    their dense id. Points of equal value are jittered, because thousands of users would otherwise be one point.

    Args:
        user_features: the table `user_features`.
        user_clusters: the table `user_clusters`.
    """
    title = "The clusters in pairs of features"
    names = separating_features(user_features, user_clusters)
    if len(names) < 2:
        return note(title, "The users have fewer than two attributes that tell them apart: there is no pair to show.")
    points = _spread_sample(user_features, user_clusters, names)
    clusters = points["cluster"].unique().sort().to_list()
    color = alt.Color("cluster:N", title="cluster", scale=category_scale(clusters))
    base = alt.Chart(points).mark_circle(size=20, opacity=0.8).encode(color=color).properties(width=200, height=170)
    panels = [
        base.encode(x=_feature_axis(alt.X, names, x), y=_feature_axis(alt.Y, names, y))
        for x, y in combinations(range(len(names)), 2)
    ]
    shown = f"{len(points):,} users, equal values jittered; "
    return finished(
        alt.concat(*panels, columns=min(3, len(panels)), spacing=24),
        title,
        f"{shown}the features that separate the clusters best.",
        "Numbers: standard deviations from the mean. Categories: 1 for users who have it, else 0.",
    )


def _feature_axis(channel: type, names: list[str], position: int) -> alt.X | alt.Y:
    axis = alt.Axis(values=[0, 1], format="d") if "=" in names[position] else alt.Axis(tickCount=4)
    return channel(f"f{position}:Q", title=names[position], axis=axis, scale=alt.Scale(zero=False, padding=6))


def separating_features(user_features: nw.LazyFrame, user_clusters: nw.LazyFrame) -> list[str]:
    """For each attribute, the feature with the largest share of variance between clusters, best first."""
    names = [name for name in user_features.collect_schema().names() if name != "user"]
    if not names:
        return []
    means = [nw.col(name).mean().alias(f"mean {name}") for name in names]
    squares = [(nw.col(name) * nw.col(name)).mean().alias(f"square {name}") for name in names]
    joined = user_features.join(user_clusters, on="user")
    table = to_polars(joined.group_by("cluster").agg(nw.len().alias("users"), *means, *squares)).sort("cluster")
    weights = table["users"].to_numpy() / table["users"].sum()
    per_cluster = table.select(f"mean {name}" for name in names).to_numpy()
    overall = weights @ per_cluster
    variance = np.maximum(weights @ table.select(f"square {name}" for name in names).to_numpy() - overall**2, 0.0)
    between = weights @ (per_cluster - overall) ** 2
    # The variance of a constant is rounding error: the ratio would be arbitrary.
    share = np.divide(between, variance, out=np.zeros(len(names)), where=variance > 1e-9)
    ranked = pl.DataFrame({"name": names, "share": share.round(9)}).filter(pl.Series(variance > 1e-9))
    ranked = ranked.with_columns(attribute=pl.col("name").str.splitn("=", 2).struct[0])
    ranked = ranked.sort("share", "name", descending=[True, False]).unique(
        "attribute", keep="first", maintain_order=True
    )
    return ranked["name"].head(PAIRED_FEATURES).to_list()


def _spread_sample(user_features: nw.LazyFrame, user_clusters: nw.LazyFrame, names: list[str]) -> pl.DataFrame:
    """Cluster and f0, f1, … of the sampled users; short names, because feature names can hold any character."""
    columns = [nw.col(name).cast(nw.Float64()).alias(f"f{position}") for position, name in enumerate(names)]
    drawn = user_features.select("user", *columns).with_columns(draw=pseudo_random(0, ["user"]))
    sample = drawn.sort("draw", "user").head(PAIRED_USERS).join(user_clusters, on="user")
    table = to_polars(sample).sort("draw", "user")
    noise = to_polars(
        lazy(table).select(
            "user", *[pseudo_random(0, ["user"], stream=stream + 1).alias(f"f{stream}") for stream in range(len(names))]
        )
    ).select(pl.exclude("user") / 2**31 - 0.5)
    spread = [(pl.col(name) + noise[name] * _gap(table[name])).round(3) for name in noise.columns]
    return table.select("cluster", *spread)


def _gap(values: pl.Series) -> float:
    """Width of the jitter: 70 % of the smallest step between values, 0 for continuous values."""
    distinct = values.unique().sort()
    return 0.7 * float(distinct.diff().min() or 0.0) if 1 < len(distinct) <= 30 else 0.0  # type: ignore[arg-type]


def cluster_profiles(users: nw.LazyFrame, user_clusters: nw.LazyFrame) -> Spec:
    """Profile of each cluster: size, mean of each numeric attribute, share of each category.

    Colour shows the difference from all users in standard deviations, so numbers and shares are comparable.

    Args:
        users: the table `users`, with the original attributes.
        user_clusters: the table `user_clusters`.
    """
    title = "Who is in each cluster?"
    sizes = to_polars(user_clusters.group_by("cluster").agg(nw.len().alias("users"))).sort("cluster")
    cells = attributes_by_group(users, user_clusters, "cluster", categories=PROFILE_CATEGORIES)
    if not len(cells):
        return note(
            title,
            f"The users have no attributes: one cluster holds all {sizes['users'].sum():,} of them.",
        )
    headings = sizes.select("cluster", heading=pl.format("{}|{}", "cluster", _with_commas("users")))
    column = max(44, min(110, WIDTH // len(sizes)))
    axis = alt.Axis(
        orient="top",
        labelExpr="split(datum.label, '|')",
        labelAngle=0,
        labelPadding=20,
        ticks=False,
        domain=False,
        title="cluster, and its number of users",
    )
    strength = alt.Scale(domain=[0, _STRONG], range=[0, _MOST_OPACITY], clamp=True)
    cells = cells.with_columns(strength=pl.col("deviation").abs())
    base = alt.Chart(cells.join(headings, on="cluster")).encode(
        x=alt.X("heading:O", sort=headings["heading"].to_list(), axis=axis),
        y=alt.Y("row:N", sort=cells["row"].unique(maintain_order=True).to_list(), title=None),
    )
    cell = base.mark_rect(stroke="white", strokeWidth=2).encode(
        color=alt.condition("datum.deviation > 0", alt.value(VERMILLION), alt.value(BLUE)),
        fillOpacity=alt.FillOpacity("strength:Q", scale=strength, legend=None),
    )
    heatmap = (cell + base.mark_text(color=INK).encode(text=alt.Text("text:N"))).properties(
        width=column * len(sizes), height=alt.Step(22)
    )
    return finished(
        heatmap,
        title,
        "Numbers: the cluster's mean. Categories: the share of its users, the most common categories only.",
        f"Colour: difference from all users, orange above and blue below; full from {_STRONG} standard deviations on.",
    )


def _with_commas(column: str) -> pl.Expr:
    return pl.col(column).map_elements(lambda number: f"{number:,}", return_dtype=pl.String)
