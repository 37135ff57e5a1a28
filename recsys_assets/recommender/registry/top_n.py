"""Models of the task `top_n`: what to show a user, out of all that it has not rated; and the one that is served."""

from functools import partial

import narwhals as nw
import polars as pl

from recsys_assets.recommender import als, rankings, serving
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.registry.types import Entry, Fit

RANKING = Fit(
    asset="ranking_model",
    group="als",
    function=partial(als.fit, implicit_prefs=True),
    model_type=ALSModel,
    table="train_ratings",
    settings="ranking",
    description="ALS with implicit preferences: the model for top N, where rating models are the wrong tool.",
    needs_spark=True,
)
SERVING = Fit(
    asset="serving_model",
    group="serving",
    function=partial(als.fit, implicit_prefs=True),
    model_type=ALSModel,
    table="ratings",
    settings="ranking",
    description="The promoted top-N configuration fitted on **all** ratings. It is never scored on the test rows.",
    needs_spark=True,
    promoted=True,
)
FITS = (RANKING, SERVING)
# The entry of the task `top_n` that is scored with what `SERVING` is fitted with.
SERVED = "implicit_als"


def by_popularity(
    users: nw.LazyFrame, movies: nw.LazyFrame, pairs: nw.LazyFrame, rated: nw.LazyFrame, trained: nw.LazyFrame
) -> pl.DataFrame:
    """Ranks by number of training ratings."""
    return rankings.by_popularity(users, movies, pairs, rated=rated, counted=trained)


def _explicit_als(
    als_model: ALSModel, user_clusters: nw.LazyFrame, rated: nw.LazyFrame, pairs: nw.LazyFrame
) -> pl.DataFrame:
    return _als_ranks(als_model, user_clusters, rated, pairs)


def _implicit_als(
    ranking_model: ALSModel, user_clusters: nw.LazyFrame, rated: nw.LazyFrame, pairs: nw.LazyFrame
) -> pl.DataFrame:
    return _als_ranks(ranking_model, user_clusters, rated, pairs)


def _als_ranks(model: ALSModel, user_clusters: nw.LazyFrame, rated: nw.LazyFrame, pairs: nw.LazyFrame) -> pl.DataFrame:
    factors = serving.warm_up(model, user_clusters)
    return rankings.by_vectors(factors, model.movie_factors, pairs, rated=rated)


ENTRIES = (
    Entry("popularity", "top_n", by_popularity),
    Entry("als_adjusted", "top_n", _explicit_als),
    Entry("implicit_als", "top_n", _implicit_als),
)
