"""Models of the task `time_cut`: they predict the ratings after a cut in time from the ratings before it.

The algorithms are in `models/`; this module says which table and which settings each model takes.
"""

import narwhals as nw
import polars as pl

from recsys_assets.recommender.models import (
    als,
    attribute_effects,
    bayesian_factors,
    biases,
    cluster_mean,
    item_mean,
    item_neighbours,
    stack,
)
from recsys_assets.recommender.models.als import ALSModel, ALSSettings
from recsys_assets.recommender.models.attribute_effects import AttributeEffects, AttributeEffectsSettings
from recsys_assets.recommender.models.bayesian_factors import (
    BayesianFactors,
    BayesianFactorsSettings,
    ProfileFactorsSettings,
)
from recsys_assets.recommender.models.biases import BiasModel, UserItemBiasSettings
from recsys_assets.recommender.models.cluster_mean import ClusterMeanModel, ClusterMeanSettings
from recsys_assets.recommender.models.item_mean import ItemMeanModel, ItemMeanSettings
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel, RatingNeighboursSettings
from recsys_assets.recommender.models.stack import Bases, Holdout, StackHoldoutSettings, StackModel, StackSettings
from recsys_assets.recommender.registry.types import Entry, Fit

ITEM_MEAN = Fit(
    asset="item_mean_model",
    function=item_mean.fit,
    model_type=ItemMeanModel,
    table="train_ratings",
    settings="item_mean",
    section=ItemMeanSettings,
    description="Mean rating of each item, shrunk to the global mean: the baseline, and the fallback of other models.",
    needs_all=True,
)
ALS_UNADJUSTED = Fit(
    asset="als_unadjusted_model",
    function=als.fit,
    model_type=ALSModel,
    table="train_ratings",
    settings="als",
    section=ALSSettings,
    description="Explicit ALS on the training ratings alone: no prediction for users without a training rating.",
    fits_on_spark=True,
)
ALS_ADJUSTED = Fit(
    asset="als_adjusted_model",
    function=als.fit,
    model_type=ALSModel,
    table="adjusted_train_ratings",
    settings="als",
    section=ALSSettings,
    description="Explicit ALS on `adjusted_train_ratings`: case study A's answer to cold start.",
    fits_on_spark=True,
)
USER_ITEM_BIAS = Fit(
    asset="user_item_bias_model",
    function=biases.fit,
    model_type=BiasModel,
    table="train_ratings",
    settings="user_item_bias",
    section=UserItemBiasSettings,
    description="Global mean, user bias and item bias, both shrunk.",
    needs_all=True,
)
CLUSTER_MEAN = Fit(
    asset="cluster_mean_model",
    function=cluster_mean.fit,
    model_type=ClusterMeanModel,
    table="train_ratings",
    settings="cluster_mean",
    section=ClusterMeanSettings,
    description="Mean rating of each item in each cluster of users, shrunk to the item mean.",
    others=("user_clusters",),
    needs_all=True,
)
BAYESIAN_FACTORS = Fit(
    asset="bayesian_factors_model",
    function=bayesian_factors.fit,
    model_type=BayesianFactors,
    table="train_ratings",
    settings="bayesian_factors",
    section=BayesianFactorsSettings,
    description="Bayesian matrix factorisation with attributes of users and items as prior.",
    others=("user_features", "items"),
)
PROFILE_FACTORS = Fit(
    asset="profile_factors_model",
    function=bayesian_factors.fit,
    model_type=BayesianFactors,
    table="train_ratings",
    settings="profile_factors",
    section=ProfileFactorsSettings,
    description="Bayesian matrix factorisation with attributes and the set of rated items as prior.",
    others=("user_features", "items"),
)
ATTRIBUTE_EFFECTS = Fit(
    asset="attribute_effects_model",
    function=attribute_effects.fit,
    model_type=AttributeEffects,
    table="train_ratings",
    settings="attribute_effects",
    section=AttributeEffectsSettings,
    description="Ridge regression per item: effect of user attributes on a rating, beyond `bayesian_factors_model`.",
    others=("user_features", "bayesian_factors_model"),
)
RATING_NEIGHBOURS = Fit(
    asset="rating_neighbours_model",
    function=item_neighbours.fit,
    model_type=ItemNeighboursModel,
    table="train_ratings",
    settings="rating_neighbours",
    section=RatingNeighboursSettings,
    description="Item and user biases, and residuals on similar items (Koren 2010), from the training ratings.",
)
_STACKED = (
    "bayesian_factors_model",
    "profile_factors_model",
    "attribute_effects_model",
    "cluster_mean_model",
    "rating_neighbours_model",
)
STACK_HOLDOUT = Fit(
    asset="stack_holdout",
    function=stack.hold_out,
    model_type=Holdout,
    table="train_ratings",
    settings="stack_holdout",
    section=StackHoldoutSettings,
    description="Held-out training ratings, with predictions of rating models that were fitted on the rest.",
    others=("user_features", "items", "user_clusters", *_STACKED),
)
STACK = Fit(
    asset="stack_model",
    function=stack.fit,
    model_type=StackModel,
    table="train_ratings",
    settings="stack",
    section=StackSettings,
    description="Linear stack of the rating models (Wolpert 1992), fitted on `stack_holdout`.",
    others=("stack_holdout",),
)
FITS = (
    ITEM_MEAN,
    ALS_UNADJUSTED,
    ALS_ADJUSTED,
    USER_ITEM_BIAS,
    CLUSTER_MEAN,
    BAYESIAN_FACTORS,
    PROFILE_FACTORS,
    ATTRIBUTE_EFFECTS,
    RATING_NEIGHBOURS,
    STACK_HOLDOUT,
    STACK,
)


def _item_neighbours(
    rating_neighbours_model: ItemNeighboursModel, pairs: nw.LazyFrame, rated: nw.LazyFrame
) -> pl.DataFrame:
    return rating_neighbours_model.predict(pairs, rated)


def _stack(
    stack_model: StackModel,
    bayesian_factors_model: BayesianFactors,
    profile_factors_model: BayesianFactors,
    attribute_effects_model: AttributeEffects,
    cluster_mean_model: ClusterMeanModel,
    rating_neighbours_model: ItemNeighboursModel,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    bases = Bases(
        bayesian_factors_model,
        profile_factors_model,
        attribute_effects_model,
        cluster_mean_model,
        rating_neighbours_model,
    )
    return stack_model.predict(pairs, rated, bases)


ENTRIES = (
    Entry("item_mean", "time_cut", "item_mean_model", is_personal=False),
    Entry("als_unadjusted", "time_cut", "als_unadjusted_model"),
    Entry("als_adjusted", "time_cut", "als_adjusted_model"),
    Entry("user_item_bias", "time_cut", "user_item_bias_model"),
    Entry("cluster_mean", "time_cut", "cluster_mean_model", is_personal=False),
    Entry("bayesian_factors", "time_cut", "bayesian_factors_model"),
    Entry("profile_factors", "time_cut", "profile_factors_model"),
    Entry("item_neighbours", "time_cut", _item_neighbours),
    Entry("stack", "time_cut", _stack),
)
