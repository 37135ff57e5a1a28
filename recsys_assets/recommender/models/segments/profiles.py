"""Tables from the segment model: `segment_items`, `user_segments` and `segment_ratings`.

The sanity checks of case study B are computed here as plain numbers. The asset checks decide what counts as a failure.
"""

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.blocks import by_user
from recsys_assets.recommender.data.frames import empty, row_count, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models.segments.model import SegmentModel

# A lift counts half at this many expected ratings.
_PRIOR_RATINGS = 5.0
_USERS_PER_BLOCK = 1_000


def top_items(
    model: SegmentModel, items: nw.LazyFrame, train_histories: nw.LazyFrame, *, top: int = 20
) -> pl.DataFrame:
    """List the first items of each segment by probability and by lift: the table `segment_items`.

    The lift is P(item | segment) / P(item), shrunk towards 1 for items with few ratings: (E × ratio + 5) / (E + 5).
    E is the number of ratings that the segment would give the item if it had the taste of all users.
    docs/decisions/segment-cards.md gives the reasons and the sources.

    Args:
        model: the fitted segments.
        items: item, item_id, title; the id stands for a missing title.
        train_histories: item of each rating that the model was fitted on.
        top: length of both lists, or all known items if there are fewer. Equal values are ordered by the
            dense id.
    """
    probabilities = model.item_probabilities[:, model.items]
    lifts = _lifts(probabilities, model.segment_shares, _ratings_per_item(train_histories, model))
    ranks, lift_ranks = _ranks(probabilities), _ranks(lifts)
    segment, column = np.nonzero((ranks <= top) | (lift_ranks <= top))
    table = pl.DataFrame(
        {
            "segment": segment.astype(np.int32),
            "rank": ranks[segment, column],
            "item": model.items[column],
            "probability": probabilities[segment, column],
            "lift_rank": lift_ranks[segment, column],
            "lift": lifts[segment, column],
        }
    )
    titles = to_polars(items.select("item", title=nw.coalesce("title", "item_id")))
    return (
        table.join(titles, on="item", how="left")
        .sort("segment", "rank")
        .select("segment", "rank", "item", "title", "probability", "lift_rank", "lift")
    )


def _ratings_per_item(train_histories: nw.LazyFrame, model: SegmentModel) -> np.ndarray:
    """Return the number of ratings of each known item, shape (M',)."""
    counts = to_polars(train_histories.group_by("item").agg(ratings=nw.len()))
    ratings = np.zeros(model.n_items)
    ratings[counts["item"].to_numpy()] = counts["ratings"].to_numpy()
    return ratings[model.items]


def _lifts(probabilities: np.ndarray, shares: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """Return the shrunk lifts of `top_items`, shape (n_segments, M').

    Args:
        probabilities: shape (n_segments, M').
        shares: shape (n_segments,).
        ratings: number of ratings, shape (M',).
    """
    expected = shares[:, None] * ratings
    ratios = probabilities / (shares @ probabilities)
    return (expected * ratios + _PRIOR_RATINGS) / (expected + _PRIOR_RATINGS)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value in its row, from 1 for the highest, int32; equal values in column order."""
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = np.empty(values.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[1] + 1, dtype=np.int32)[None, :], axis=1)
    return ranks


def assign(model: SegmentModel, train_histories: nw.LazyFrame, test_histories: nw.LazyFrame) -> nw.LazyFrame:
    """Infer each user's affinities and segment from the history alone: the table `user_segments`.

    Users without a history have no row.

    Args:
        model: the fitted segments.
        train_histories: user, item, rating; of the users that the model was fitted on.
        test_histories: user, item, rating; of the other users.
    """
    parts = {"train": train_histories, "test": test_histories}
    rows = nw.concat([frame.select("user", "item", "rating") for frame in parts.values()])
    users = nw.concat(
        [frame.select("user").unique().with_columns(partition=nw.lit(name)) for name, frame in parts.items()]
    )

    def of_block(users: pl.DataFrame, rows: nw.LazyFrame) -> pl.DataFrame:
        _, matrix = user_item_matrix(rows, n_items=model.n_items)
        affinity = model.transform(matrix)
        return users.select(
            "user",
            affinity=pl.Series(affinity, dtype=pl.Array(pl.Float32, model.n_segments)).arr.to_list(),
            segment=pl.Series(affinity.argmax(axis=1).astype(np.int32)),
            partition="partition",
        )

    schema = empty(TABLES["user_segments"]).schema
    return by_user(of_block, rows, users, schema=schema, users_per_block=_USERS_PER_BLOCK)


def ratings_by_segment(train_histories: nw.LazyFrame, user_segments: nw.LazyFrame) -> nw.LazyFrame:
    """Compute number and mean of the train users' ratings per (segment, item): the table `segment_ratings`.

    A pair without a rating has no row.
    """
    train_users = user_segments.filter(nw.col("partition") == "train").select("user", "segment")
    return (
        train_histories.select("user", "item", "rating")
        .join(train_users, on="user")
        .group_by("segment", "item")
        .agg(count=nw.len(), mean=nw.col("rating").cast(nw.Float64()).mean())
        .with_columns(nw.col("count").cast(nw.Int32()))
    )


def affinities(user_segments: nw.LazyFrame, *, n_users: int, n_segments: int) -> np.ndarray:
    """Return the affinities as a matrix, shape (n_users, n_segments), float32; zeros for users without a history."""
    assigned = to_polars(user_segments, "user", "affinity")
    matrix = np.zeros((n_users, n_segments), np.float32)
    matrix[assigned["user"].to_numpy()] = assigned["affinity"].list.to_array(n_segments).to_numpy()
    return matrix


def memberships(user_segments: nw.LazyFrame, *, n_users: int, n_segments: int) -> np.ndarray:
    """Return 1 for each user's segment of highest affinity, else 0: shape (n_users, n_segments), float32."""
    assigned = to_polars(user_segments, "user", "segment")
    matrix = np.zeros((n_users, n_segments), np.float32)
    matrix[assigned["user"].to_numpy(), assigned["segment"].to_numpy()] = 1
    return matrix


def largest_affinity_error(user_segments: nw.LazyFrame) -> float:
    """Return the largest distance of a user's summed affinities from 1; 0 without users."""
    affinity = to_polars(user_segments, "affinity")["affinity"]
    # Summed in float32, the rounding of hundreds of segments would count as an error.
    sums = affinity.cast(pl.List(pl.Float64)).list.sum().to_numpy()
    return float(np.abs(sums - 1).max(initial=0.0))


def counted_ratings(segment_ratings: nw.LazyFrame, train_histories: nw.LazyFrame) -> tuple[int, int]:
    """Return the sum of the counts over (segment, item), and the number of train ratings that it must equal."""
    counted = to_polars(segment_ratings.select(n=nw.col("count").cast(nw.Int64()).sum()))["n"][0]
    return int(counted or 0), row_count(train_histories)


def empty_cells(segment_ratings: nw.LazyFrame, *, n_segments: int, n_items: int) -> int:
    """Return the number of (segment, item) pairs, out of n_segments × n_items, without a rating."""
    return n_segments * n_items - row_count(segment_ratings)
