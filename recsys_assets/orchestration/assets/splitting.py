"""Splitting: what trains and what tests. Train and test are assets, so that lineage says who saw what."""

import dagster as dg
import narwhals as nw

from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pictures, pipeline_asset
from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.models import cold_start
from recsys_assets.recommender.report import charts


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("splitting",))
def train_ratings(context: dg.AssetExecutionContext, ratings: nw.LazyFrame, settings: SettingsParam) -> nw.LazyFrame:
    """Case study A: the ratings before the cut in time; equal timestamps are ordered by batch, then row."""
    train = splitting.cut_in_time(ratings, "train", cut=settings.splitting.parsed_cut)
    users, mean, median = cold_start.ratings_per_user(train)
    context.add_output_metadata(
        {
            "users": users,
            "mean ratings per user": mean,
            "median ratings per user": median,
            **pictures("ratings per user", charts.ratings_per_user, train),
        }
    )
    return train


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("splitting",))
def test_ratings(ratings: nw.LazyFrame, settings: SettingsParam) -> nw.LazyFrame:
    """Case study A: the ratings after the cut in time. Nothing that is scored on them may learn from them."""
    return splitting.cut_in_time(ratings, "test", cut=settings.splitting.parsed_cut)


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("splitting",))
def user_partition(users: nw.LazyFrame, settings: SettingsParam) -> nw.LazyFrame:
    """Case study B: each user to train or test by a hash of its index and the seed."""
    return splitting.partition_users(users, train_share=settings.splitting.train_share, seed=settings.splitting.seed)


@pipeline_asset(group="splitting", kinds=TABLE_KINDS)
def train_histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Case study B: all but the latest rating of each train user. Users with a single rating have no history."""
    return splitting.histories(ratings, user_partition, "train")


@pipeline_asset(group="splitting", kinds=TABLE_KINDS)
def train_responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Case study B: the latest rating of each train user with a history; the later source row where times tie."""
    return splitting.responses(ratings, user_partition, "train")


@pipeline_asset(group="splitting", kinds=TABLE_KINDS)
def test_histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Case study B: all but the latest rating of each test user."""
    return splitting.histories(ratings, user_partition, "test")


@pipeline_asset(group="splitting", kinds=TABLE_KINDS)
def test_responses(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Case study B: the latest rating of each test user with a history."""
    return splitting.responses(ratings, user_partition, "test")


ASSETS = [
    train_ratings,
    test_ratings,
    user_partition,
    train_histories,
    train_responses,
    test_histories,
    test_responses,
]
