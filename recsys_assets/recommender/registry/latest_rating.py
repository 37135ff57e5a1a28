"""Models of the task `latest_rating` (case study B): they predict each user's latest rating from the earlier ones.

The algorithms are in `models/`; this module says which table and which settings each model takes.
"""

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import same_engine, to_polars
from recsys_assets.recommender.models import item_mean, item_neighbours, response_stack, segments
from recsys_assets.recommender.models.item_mean import ItemMeanModel, ItemMeanSettings
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel, ItemNeighboursSettings
from recsys_assets.recommender.models.response_stack import ResponseStack, ResponseStackSettings
from recsys_assets.recommender.models.segments import SegmentModel, SegmentResidualModel
from recsys_assets.recommender.models.segments.model import SegmentSettings
from recsys_assets.recommender.models.segments.residuals import SegmentResidualSettings
from recsys_assets.recommender.registry.types import Entry, Fit

HISTORY_ITEM_MEAN = Fit(
    asset="history_item_mean_model",
    function=item_mean.fit,
    model_type=ItemMeanModel,
    table="train_histories",
    settings="item_mean",
    section=ItemMeanSettings,
    description="Mean rating of each item, shrunk to the global mean, from the train users' histories of case study B.",
    needs_all=True,
)
SEGMENTS = Fit(
    asset="segment_model",
    function=segments.fit,
    model_type=SegmentModel,
    table="train_histories",
    settings="segments",
    section=SegmentSettings,
    description="LDA on the train users' histories: segments of users as distributions over items.",
)
ITEM_NEIGHBOURS = Fit(
    asset="item_neighbours_model",
    function=item_neighbours.fit,
    model_type=ItemNeighboursModel,
    table="train_histories",
    settings="item_neighbours",
    section=ItemNeighboursSettings,
    description="Item and user biases, and residuals on similar items (Koren 2010), from the train users' histories.",
)
SEGMENT_RESIDUALS = Fit(
    asset="segment_residual_model",
    function=segments.fit_residuals,
    model_type=SegmentResidualModel,
    table="train_histories",
    settings="segment_residuals",
    section=SegmentResidualSettings,
    description="Mean residual of the ratings per segment and item after all biases, shrunk.",
    others=("segment_model", "item_neighbours_model"),
)
RESPONSE_STACK = Fit(
    asset="response_stack_model",
    function=response_stack.fit,
    model_type=ResponseStack,
    table="train_responses",
    settings="response_stack",
    section=ResponseStackSettings,
    description="Ridge regression of the train users' responses on the predictions of the simpler models.",
    others=("train_histories", "items", "item_neighbours_model", "segment_residual_model"),
)
FITS = (HISTORY_ITEM_MEAN, SEGMENTS, ITEM_NEIGHBOURS, SEGMENT_RESIDUALS, RESPONSE_STACK)


def _user_bias(history_item_mean_model: ItemMeanModel, pairs: nw.LazyFrame, rated: nw.LazyFrame) -> nw.LazyFrame:
    return segments.user_bias_predictions(
        pairs,
        rated,
        same_engine(rated, history_item_mean_model.table),
        global_mean=history_item_mean_model.global_mean,
    )


def _segment_mean(pairs: nw.LazyFrame, user_segments: nw.LazyFrame, segment_ratings: nw.LazyFrame) -> nw.LazyFrame:
    return segments.segment_mean_predictions(pairs, user_segments, segment_ratings)


def _segment_bias(
    item_neighbours_model: ItemNeighboursModel,
    segment_residual_model: SegmentResidualModel,
    user_segments: nw.LazyFrame,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    """Predict the biases of item and user plus the segment residuals, weighted by the user's affinities."""
    asked = to_polars(pairs, "user", "item").sort("user", "item")
    user, item = asked["user"].to_numpy(), asked["item"].to_numpy()
    biases = item_neighbours_model.biases(user, item, rated)
    predicted = biases + segment_residual_model.parts(user, item, user_segments)
    return asked.with_columns(prediction=pl.Series(predicted.astype(np.float32)))


def _item_neighbours(
    item_neighbours_model: ItemNeighboursModel, pairs: nw.LazyFrame, rated: nw.LazyFrame
) -> pl.DataFrame:
    return item_neighbours_model.predict(pairs, rated)


def _response_stack(
    response_stack_model: ResponseStack,
    item_neighbours_model: ItemNeighboursModel,
    segment_residual_model: SegmentResidualModel,
    user_segments: nw.LazyFrame,
    items: nw.LazyFrame,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> pl.DataFrame:
    return response_stack_model.predict(
        response_stack.features(
            pairs,
            rated,
            items=items,
            user_segments=user_segments,
            item_neighbours_model=item_neighbours_model,
            segment_residual_model=segment_residual_model,
        )
    )


ENTRIES = (
    Entry("item_mean", "latest_rating", "history_item_mean_model", is_personal=False),
    Entry("user_bias", "latest_rating", _user_bias),
    Entry("segment_mean", "latest_rating", _segment_mean),
    Entry("segment_bias", "latest_rating", _segment_bias),
    Entry("item_neighbours", "latest_rating", _item_neighbours),
    Entry("response_stack", "latest_rating", _response_stack),
)
