"""Models of the task `top_n`: what to show a user, out of all that it has not rated; and the one that is served."""

from functools import partial

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender import als, blend, ease, liking, rankings, serving
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.blend import Blend
from recsys_assets.recommender.ease import EASEModel
from recsys_assets.recommender.liking import LikingModel
from recsys_assets.recommender.rankings import Scorer
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
EASE = Fit(
    asset="ease_model",
    group="ranking",
    function=ease.fit,
    model_type=EASEModel,
    table="train_ratings",
    settings="ease",
    description="EASE: weights between movies in closed form; what a user liked says what it is shown.",
)
LIKING = Fit(
    asset="liking_model",
    group="ranking",
    function=liking.fit,
    model_type=LikingModel,
    table="train_ratings",
    settings="liking",
    description="What users like by their attributes, recent ratings first: the answer for new users.",
    others=("user_features",),
)
BLEND = Fit(
    asset="blend_weights",
    group="ranking",
    function=blend.fit,
    model_type=Blend,
    table="train_ratings",
    settings="blend",
    description="How EASE, implicit ALS and the liking by attributes are mixed.",
)
FITS = (RANKING, SERVING, EASE, LIKING, BLEND)
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


def _liking(
    liking_model: LikingModel, user_features: nw.LazyFrame, pairs: nw.LazyFrame, rated: nw.LazyFrame
) -> pl.DataFrame:
    features = liking.feature_matrix(user_features)

    def scores(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return liking_model.scores(features[users])

    return rankings.by_scores(scores, liking_model.movie_known, pairs, rated=rated)


def _ease(
    ease_model: EASEModel,
    liking_model: LikingModel,
    user_features: nw.LazyFrame,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    """EASE for users with a rating, the liking by attributes for the others."""
    features = liking.feature_matrix(user_features)

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        scored = ease_model.scores(rows)
        new = np.diff(rows.indptr) == 0
        scored[new] = liking_model.scores(features[users[new]])
        return scored

    return rankings.by_scores(scores, ease_model.movie_known, pairs, rated=rated)


def _blend(
    blend_weights: Blend,
    ease_model: EASEModel,
    ranking_model: ALSModel,
    liking_model: LikingModel,
    user_features: nw.LazyFrame,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    scores = blended(blend_weights, ease_model, ranking_model, liking_model, liking.feature_matrix(user_features))
    return rankings.by_scores(scores, liking_model.movie_known | ease_model.movie_known, pairs, rated=rated)


def blended(
    weights: Blend,
    ease_model: EASEModel,
    ranking_model: ALSModel,
    liking_model: LikingModel,
    features: np.ndarray,
) -> Scorer:
    """The blend's scores of users from their ratings, which is all that it knows of them beside their attributes."""

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        return weights.scores(
            ease=ease_model.scores(rows),
            als=ranking_model.fold_in(rows) @ ranking_model.movie_factors.T,
            prior=liking_model.scores(features[users]),
            n_ratings=np.diff(rows.indptr),
        )

    return scores


ENTRIES = (
    Entry("popularity", "top_n", by_popularity),
    Entry("als_adjusted", "top_n", _explicit_als),
    Entry("implicit_als", "top_n", _implicit_als),
    Entry("liking", "top_n", _liking),
    Entry("ease", "top_n", _ease),
    Entry("blend", "top_n", _blend),
)
