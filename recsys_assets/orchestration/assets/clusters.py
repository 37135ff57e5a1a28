"""Clusters: users grouped by their attributes with K-means.

The method is in `recommender.features.clusters`. Groups by taste are `segments`.
"""

import dagster as dg
import narwhals as nw

from recsys_assets.orchestration.assets.common import LAST, TABLE_KINDS, SettingsParam, pictures, pipeline_asset
from recsys_assets.recommender.data.frames import lazy, row_count
from recsys_assets.recommender.data.hints import attribute_hints
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.registry.derived import USER_CLUSTERS
from recsys_assets.recommender.report import charts

SKLEARN_TABLE = TABLE_KINDS | {"scikitlearn"}


@pipeline_asset(group="clusters", kinds=TABLE_KINDS)
def user_features(context: dg.AssetExecutionContext, users: nw.LazyFrame) -> nw.LazyFrame:
    """User attributes as features: numbers are scaled, categories are one-hot, zip codes count by their first digit.

    Case study A scaled zip codes and user ids as quantities. Here the user id is no feature, and the first digit of the
    zip code is a category (a region).
    """
    features = clusters.user_features(users, log=context.log.info)
    if features.width == 1:
        context.log.warning("The users have no attributes that tell them apart: all of them form one cluster.")
    alike = attribute_hints(users)
    for hint in alike:
        context.log.warning(hint)
    context.add_output_metadata(
        {"features": features.width - 1, "values that may mean the same": "; ".join(alike) or "none"}
    )
    return lazy(features)


@pipeline_asset(group="clusters", kinds=SKLEARN_TABLE, op_tags=LAST, settings=("clusters",))
def cluster_sweep(
    context: dg.AssetExecutionContext, user_features: nw.LazyFrame, settings: SettingsParam
) -> nw.LazyFrame:
    """SSE and silhouette of K-means by number of clusters K: SSE for 1 to `k_max`, silhouette for 2 to `k_max` - 1."""
    sweep = clusters.sweep(user_features, settings=settings.clusters, log=context.log.debug)
    choice = clusters.silhouette_choice(sweep)
    context.add_output_metadata(
        {
            "K in use": settings.clusters.k,
            "K of highest silhouette": "none: one cluster" if choice is None else choice,
            **pictures("SSE and silhouette", charts.cluster_sweep, lazy(sweep), settings.clusters.k),
        }
    )
    return lazy(sweep)


@pipeline_asset(group="clusters", kinds=SKLEARN_TABLE, settings=("clusters",))
def user_clusters(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    user_features: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """The K-means cluster of each user, from the user's attributes.

    Clusters are numbered by size: cluster 0 is the largest. Users without attributes form one cluster.
    """
    assigned = USER_CLUSTERS.make({"user_features": user_features}, settings.model_dump())
    n_clusters = row_count(assigned.select("cluster").unique())
    drawn = {}
    if n_clusters > 1:
        drawn = pictures("clusters in pairs of features", charts.cluster_pairs, user_features, assigned)
        drawn |= pictures("cluster profiles", charts.cluster_profiles, users, assigned)
    context.add_output_metadata({"clusters": n_clusters, **drawn})
    return assigned


ASSETS = [user_features, cluster_sweep, user_clusters]
