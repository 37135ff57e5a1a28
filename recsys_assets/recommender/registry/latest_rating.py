"""Models of the task `latest_rating` (case study B): each user's latest rating, predicted from its earlier ones."""

import narwhals as nw
import polars as pl

from recsys_assets.recommender import item_mean, segments
from recsys_assets.recommender.frames import same_engine
from recsys_assets.recommender.item_mean import ItemMeanModel
from recsys_assets.recommender.registry.types import Entry, Fit
from recsys_assets.recommender.segments import SegmentModel

HISTORY_ITEM_MEAN = Fit(
    asset="history_item_mean_model",
    group="baselines",
    function=item_mean.fit,
    model_type=ItemMeanModel,
    table="train_histories",
    settings="item_mean",
    description="The same from the train users' histories of case study B.",
)
SEGMENTS = Fit(
    asset="segment_model",
    group="segments",
    function=segments.fit,
    model_type=SegmentModel,
    table="train_histories",
    settings="segments",
    description="LDA on the train users' histories: segments of users as distributions over movies.",
)
FITS = (HISTORY_ITEM_MEAN, SEGMENTS)


def _item_mean(history_item_mean_model: ItemMeanModel, pairs: nw.LazyFrame) -> pl.DataFrame:
    return history_item_mean_model.predict(pairs)


def _user_bias(history_item_mean_model: ItemMeanModel, pairs: nw.LazyFrame, rated: nw.LazyFrame) -> nw.LazyFrame:
    return segments.user_bias_predictions(
        pairs,
        rated,
        same_engine(rated, history_item_mean_model.table),
        global_mean=history_item_mean_model.global_mean,
    )


def _segment_mean(pairs: nw.LazyFrame, user_segments: nw.LazyFrame, segment_ratings: nw.LazyFrame) -> nw.LazyFrame:
    return segments.segment_mean_predictions(pairs, user_segments, segment_ratings)


ENTRIES = (
    Entry("item_mean", "latest_rating", _item_mean),
    Entry("user_bias", "latest_rating", _user_bias),
    Entry("segment_mean", "latest_rating", _segment_mean),
)
