"""Cold start: case study A's adjusted training set, which gives predicted ratings to users without any.

The method is in `recommender.models.cold_start`; the ALS model of this training set is an asset of `models`.
"""

import dagster as dg
import narwhals as nw

from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pipeline_asset
from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.registry.derived import ADJUSTED_TRAIN_RATINGS, CLUSTER_RATINGS
from recsys_assets.recommender.registry.fitting import sampled


@pipeline_asset(group="clusters", kinds=TABLE_KINDS, settings=("als", "scale"))
def cluster_ratings(
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """Predicted rating of each cluster of users for each item with a training rating.

    Case study A: ALS is fitted on the training ratings with clusters instead of users.
    """
    parameters, index = settings.model_dump(), Index.of(users, items)
    given = {"train_ratings": train_ratings, "user_clusters": user_clusters}
    return CLUSTER_RATINGS.make(
        sampled(CLUSTER_RATINGS, given, Scale.of(parameters), n_users=index.n_users),
        parameters,
        index=index,
    )


@pipeline_asset(group="clusters", kinds=TABLE_KINDS, settings=("cold_start",))
def adjusted_train_ratings(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    cluster_ratings: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """The training ratings plus predicted ratings (rows with `is_fill`) for each user without a training rating.

    Case study A: the items of a new user are drawn at random, and their ratings are the predicted ratings of the
    user's cluster (`cluster_ratings`). `cold_start.fill_size` is the number of items per user; by default the median
    number of training ratings per user. Users of a cluster without any training rating get none.
    """
    given = {
        "train_ratings": train_ratings,
        "users": users,
        "user_clusters": user_clusters,
        "cluster_ratings": cluster_ratings,
    }
    adjusted = ADJUSTED_TRAIN_RATINGS.make(given, settings.model_dump())
    filled = adjusted.filter("is_fill")
    context.add_output_metadata(
        {"drawn ratings": row_count(filled), "filled users": row_count(filled.select("user").unique())}
    )
    return adjusted


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The filled training set, which holds predicted ratings: events have none."""
    return [] if kind.is_events else [cluster_ratings, adjusted_train_ratings]
