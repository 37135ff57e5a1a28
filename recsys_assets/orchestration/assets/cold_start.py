"""Cold start: case study A's adjusted training set, in which every user has ratings."""

import dagster as dg
import narwhals as nw
from dagster_pyspark import LazyPySparkResource

from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pipeline_asset
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.data.frames import lazy, row_count
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import als, cold_start


@pipeline_asset(group="cold_start", kinds=TABLE_KINDS | {"pyspark"})
def cluster_ratings(
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    settings: SettingsParam,
    home: HomeResource,
    spark: LazyPySparkResource,
) -> nw.LazyFrame:
    """The rating of each cluster for each movie with a training rating, by ALS with clusters in the users' place."""
    model = als.fit(
        cold_start.ratings_of_clusters(train_ratings, user_clusters),
        spark=spark.spark_session,
        scratch=home.scratch,
        index=Index.of(users, movies),
        user_column="cluster",
        **settings.als.model_dump(),
    )
    return lazy(cold_start.predict_clusters(model))


@pipeline_asset(group="cold_start", kinds=TABLE_KINDS)
def adjusted_train_ratings(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    cluster_ratings: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """The training ratings plus, for each user without one, as many drawn from its cluster as the median user has."""
    adjusted = cold_start.fill_cold_users(
        train_ratings,
        users,
        user_clusters,
        cluster_ratings,
        fill_size=settings.cold_start.fill_size,
        seed=settings.cold_start.seed,
    )
    filled = adjusted.filter("is_fill")
    context.add_output_metadata(
        {"drawn ratings": row_count(filled), "filled users": row_count(filled.select("user").unique())}
    )
    return adjusted


ASSETS = [cluster_ratings, adjusted_train_ratings]
