"""Predicts each user's response by the segment's mean, and by the item's mean plus the user's bias.

The plain item mean is in `item_mean`. Evaluation replaces missing predictions.
"""

import narwhals as nw

from recsys_assets.recommender.data.frames import conform
from recsys_assets.recommender.data.tables import RATING_PREDICTIONS


def segment_mean_predictions(
    responses: nw.LazyFrame, user_segments: nw.LazyFrame, segment_ratings: nw.LazyFrame
) -> nw.LazyFrame:
    """Predict the mean rating of the item in the user's segment, as case study B does; null if nobody there rated it.

    Args:
        responses: user, item; one row per user, of either partition.
        user_segments: user, segment.
        segment_ratings: segment, item, mean.
    """
    predicted = (
        responses.select("user", "item")
        .join(user_segments.select("user", "segment"), on="user", how="left")
        .join(segment_ratings.select("segment", "item", prediction="mean"), on=["segment", "item"], how="left")
    )
    return conform(predicted, RATING_PREDICTIONS)


def user_bias_predictions(
    responses: nw.LazyFrame,
    histories: nw.LazyFrame,
    item_means: nw.LazyFrame,
    *,
    global_mean: float,
    shrinkage: float = 5.0,
) -> nw.LazyFrame:
    """Predict the item's mean plus the user's bias, without nulls.

    A user whose n ratings exceed their items' means by s in sum has the bias s / (n + shrinkage).

    Args:
        responses: user, item; one row per user, of either partition.
        histories: user, item, rating; of the same users.
        item_means: item, prediction; means from the train histories.
        global_mean: mean of an item that has none.
        shrinkage: ratings with bias 0 that are added to each user's own.
    """
    means = item_means.select("item", mean=nw.col("prediction").cast(nw.Float64()))
    mean = nw.col("mean").fill_null(global_mean)
    bias = (
        histories.select("user", "item", "rating")
        .join(means, on="item", how="left")
        .select("user", residual=nw.col("rating").cast(nw.Float64()) - mean)
        .group_by("user")
        .agg(total=nw.col("residual").sum(), n=nw.len())
        .select("user", bias=nw.col("total") / (nw.col("n") + shrinkage))
    )
    predicted = (
        responses.select("user", "item")
        .join(means, on="item", how="left")
        .join(bias, on="user", how="left")
        .with_columns(prediction=mean + nw.col("bias").fill_null(0.0))
    )
    return conform(predicted, RATING_PREDICTIONS)
