"""Users without a training rating: case study A's fill from cluster predictions, and cluster factors for ranking.

ALS itself is in `als`. This module prepares its input and completes its output.
"""

from math import gcd
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field, field_validator

from recsys_assets.recommender.data.frames import pseudo_random, row_count, same_engine, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.models import als
from recsys_assets.recommender.models.als import ALSModel, ALSSettings


class ColdStartSettings(Section):
    """Case study A's fill: predicted ratings for users without a training rating."""

    tried: ClassVar = {"fill_size": ("median", "10", "30", "200", "500")}

    fill_size: str = Field(
        "median",
        description="Number of ratings drawn per user without a training rating: a number, or 'median' for the "
        "median number of ratings per user.",
    )
    seed: int = Field(0, ge=0, description="Seed of the draw.")

    @field_validator("fill_size")
    @classmethod
    def _fill_size_is_known(cls, fill_size: str) -> str:
        if fill_size == "median" or (fill_size.isdecimal() and int(fill_size) > 0):
            return fill_size
        raise ValueError(f"{fill_size!r} is neither a number of ratings, from 1 on, nor 'median'")


def ratings_of_clusters(train_ratings: nw.LazyFrame, user_clusters: nw.LazyFrame) -> nw.LazyFrame:
    """Replace users by clusters in the training ratings: cluster, item, rating, one row per rating.

    Args:
        train_ratings: user, item, rating.
        user_clusters: user, cluster.
    """
    return train_ratings.join(user_clusters, on="user").select("cluster", "item", "rating")


def cluster_ratings(
    train_ratings: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    *,
    index: Index,
    settings: ALSSettings,
) -> pl.DataFrame:
    """Predict the rating of each cluster for each rated item with ALS: the table `cluster_ratings`.

    Args:
        train_ratings: user, item, rating.
        user_clusters: user, cluster.
        index: id map of users and items.
        settings: of ALS.
    """
    rated = ratings_of_clusters(train_ratings, user_clusters)
    model = als.fit(rated, index=index, user_column="cluster", settings=settings)
    return predict_clusters(model)


def predict_clusters(model: ALSModel) -> pl.DataFrame:
    """Predict the rating of every cluster for every item with a training rating: the table `cluster_ratings`.

    Args:
        model: ALS fitted on `ratings_of_clusters`; its users are clusters.
    """
    clusters = np.flatnonzero(model.user_known).astype(np.int32)
    items = np.flatnonzero(model.item_known).astype(np.int32)
    predicted = model.user_factors[clusters] @ model.item_factors[items].T
    return pl.DataFrame(
        {
            "cluster": np.repeat(clusters, len(items)),
            "item": np.tile(items, len(clusters)),
            "rating": predicted.ravel(),
        }
    )


def ratings_per_user(train_ratings: nw.LazyFrame) -> tuple[int, float, float]:
    """Return the number of users with a training rating, and the mean and median number of their ratings."""
    counts = train_ratings.group_by("user").agg(n=nw.len().cast(nw.Float64()))
    facts = to_polars(counts.select(users=nw.len(), mean=nw.col("n").mean(), median=nw.col("n").median()))
    return int(facts["users"][0]), float(facts["mean"][0]), float(facts["median"][0])


def fill_cold_users(
    train_ratings: nw.LazyFrame,
    users: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    cluster_ratings: nw.LazyFrame,
    *,
    settings: ColdStartSettings,
) -> nw.LazyFrame:
    """Add drawn ratings for users without a training rating: the table `adjusted_train_ratings`.

    A user of a cluster without any rating gets none.

    Args:
        train_ratings: user, item, rating.
        users: user; all users, with or without a rating.
        user_clusters: user, cluster.
        cluster_ratings: cluster, item, rating.
        settings: number of distinct items drawn per user, and seed of the draw. All items are drawn if there are
            fewer; the median is rounded down.
    """
    is_median = settings.fill_size == "median"
    size = int(ratings_per_user(train_ratings)[2]) if is_median else int(settings.fill_size)
    cold = users.select("user").join(train_ratings.select("user").unique(), on="user", how="anti")
    drawn = _draw_items(cold, cluster_ratings.select("item").unique(), size=size, seed=settings.seed)
    fills = (
        drawn.join(user_clusters, on="user")
        .join(cluster_ratings, on=["cluster", "item"])
        .select("user", "item", "rating", is_fill=nw.lit(True))
    )
    given = train_ratings.select("user", "item", "rating", is_fill=nw.lit(False))
    return nw.concat([given, fills])


def warm_up(model: ALSModel, user_clusters: nw.LazyFrame) -> np.ndarray:
    """Return user factors, shape (n_users, rank), with the mean factors of the cluster for users without factors.

    A prediction is linear in the user's factors, so such a user is shown what the cluster prefers on average. If nobody
    in the cluster has factors, the mean of all users is taken.

    Args:
        model: the fitted model. Users who came after the fit have no factors in it.
        user_clusters: user, cluster; all users.
    """
    clusters = to_polars(user_clusters, "user", "cluster").sort("user")["cluster"].to_numpy()
    came_later = len(clusters) - len(model.user_known)
    factors = np.pad(model.user_factors, ((0, came_later), (0, 0)))
    has_factors = np.pad(model.user_known, (0, came_later))
    everyone = factors[has_factors].mean(axis=0)
    for cluster in np.unique(clusters[~has_factors]):
        members = clusters == cluster
        known = members & has_factors
        factors[members & ~has_factors] = factors[known].mean(axis=0) if known.any() else everyone
    return factors


def _draw_items(users: nw.LazyFrame, items: nw.LazyFrame, *, size: int, seed: int) -> nw.LazyFrame:
    """Draw `size` distinct items at random for each user: user, item.

    The items are shuffled once into a ring. Each user walks the ring with a start and a stride of its own. A stride
    coprime to the number of items repeats no item, so the cost grows with the drawn rows, not with users × items.
    """
    n_items = row_count(items)
    ring = items.with_columns(draw=pseudo_random(seed, ["item"])).with_row_index("place", order_by=["draw", "item"])
    strides = pl.DataFrame({"stride": [s for s in range(1, max(n_items, 2)) if gcd(s, n_items) == 1]})
    strides = strides.with_row_index("choice").select(pl.all().cast(pl.Int64))
    steps = pl.DataFrame({"step": np.arange(min(size, n_items), dtype=np.int64)})
    walks = users.with_columns(
        start=pseudo_random(seed, ["user"], stream=1) % max(n_items, 1),
        choice=pseudo_random(seed, ["user"], stream=2) % len(strides),
    ).join(same_engine(users, strides), on="choice")
    return (
        walks.join(same_engine(users, steps), how="cross")
        .with_columns(place=(nw.col("start") + nw.col("stride") * nw.col("step")) % max(n_items, 1))
        .join(ring.select("item", nw.col("place").cast(nw.Int64())), on="place")
        .select("user", "item")
    )
