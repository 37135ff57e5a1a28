"""Serving: what users are shown. The model it rests on is made by `models`, like all of them."""

import dagster as dg
import narwhals as nw

from recsys_assets.assets.common import TABLE_KINDS, SettingsParam, pipeline_asset
from recsys_assets.recommender import serving
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.frames import lazy
from recsys_assets.recommender.index import Index


@pipeline_asset(group="serving", kinds=TABLE_KINDS)
def recommendations(
    context: dg.AssetExecutionContext,
    serving_model: ALSModel,
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """The N best movies that each user has not rated, for everybody, users without a rating included.

    A user whom the model does not know is shown what its cluster prefers on average.
    """
    Index.of(users, movies).require(serving_model.index, "serving_model")
    best = serving.top_n(serving_model, ratings, user_clusters, n=settings.serving.n)
    context.add_output_metadata({"users without a rating": int((~serving_model.user_known).sum())})
    return lazy(serving.recommendations(best, users, movies))


ASSETS = [recommendations]
