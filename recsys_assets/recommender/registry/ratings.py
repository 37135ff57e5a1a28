"""Models of the task `time_cut`: ratings after a moment, predicted from those before it."""

import narwhals as nw
import polars as pl

from recsys_assets.recommender import als, item_mean
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.item_mean import ItemMeanModel
from recsys_assets.recommender.registry.types import Entry, Fit

ITEM_MEAN = Fit(
    asset="item_mean_model",
    group="baselines",
    function=item_mean.fit,
    model_type=ItemMeanModel,
    table="train_ratings",
    settings="item_mean",
    description="Mean rating of each movie, shrunk to the global mean: the baseline, and the fallback of other models.",
)
ALS_UNADJUSTED = Fit(
    asset="als_model_unadjusted",
    group="als",
    function=als.fit,
    model_type=ALSModel,
    table="train_ratings",
    settings="als",
    description="Explicit ALS on the training ratings as they are: it knows nothing of users without one.",
    needs_spark=True,
)
ALS_ADJUSTED = Fit(
    asset="als_model",
    group="als",
    function=als.fit,
    model_type=ALSModel,
    table="adjusted_train_ratings",
    settings="als",
    description="Explicit ALS on the adjusted training set: case study A's repair of the cold start.",
    needs_spark=True,
)
FITS = (ITEM_MEAN, ALS_UNADJUSTED, ALS_ADJUSTED)


def _item_mean(item_mean_model: ItemMeanModel, pairs: nw.LazyFrame) -> pl.DataFrame:
    return item_mean_model.predict(pairs)


def _als_unadjusted(als_model_unadjusted: ALSModel, pairs: nw.LazyFrame) -> pl.DataFrame:
    return als_model_unadjusted.predict(pairs)


def _als_adjusted(als_model: ALSModel, pairs: nw.LazyFrame) -> pl.DataFrame:
    return als_model.predict(pairs)


ENTRIES = (
    Entry("item_mean", "time_cut", _item_mean),
    Entry("als_unadjusted", "time_cut", _als_unadjusted),
    Entry("als_adjusted", "time_cut", _als_adjusted),
)
