"""Splitting: training rows and test rows.

Both are assets, so that lineage shows which rows a model has seen. The method is in `recommender.data.splitting`.
"""

import dagster as dg
import narwhals as nw

from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pictures, pipeline_asset, plotted
from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.models import cold_start
from recsys_assets.recommender.report import charts


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("splitting",))
def train_ratings(context: dg.AssetExecutionContext, ratings: nw.LazyFrame, settings: SettingsParam) -> nw.LazyFrame:
    """Training rows of case study A: the ratings before the cut in time (`splitting.cut`).

    Ratings with equal timestamps are ordered by batch, then by row. Of events, every item that the user had before the
    cut, with the weight of the events before the cut.
    """
    train = splitting.cut_in_time(ratings, "train", cut=settings.splitting.parsed_cut)
    users, mean, median = cold_start.ratings_per_user(train)
    context.add_output_metadata(
        {
            "users": users,
            "mean ratings per user": plotted(mean),
            "median ratings per user": plotted(median),
            **pictures("ratings per user", charts.ratings_per_user, train),
        }
    )
    return train


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("splitting", "scale"))
def test_ratings(
    context: dg.AssetExecutionContext, ratings: nw.LazyFrame, users: nw.LazyFrame, settings: SettingsParam
) -> nw.LazyFrame:
    """Test rows of case study A: the ratings after the cut in time (`splitting.cut`) of the users that are scored.

    Of events, the items whose first event is after the cut. No model that is scored on these rows is fitted on them. Up
    to `scale.score_users` users are scored; of more users, a sample by hash.
    """
    return _scored(context, splitting.cut_in_time(ratings, "test", cut=settings.splitting.parsed_cut), users, settings)


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("splitting",))
def user_partition(users: nw.LazyFrame, settings: SettingsParam) -> nw.LazyFrame:
    """Train users and test users of case study B, divided by a hash of user index and seed."""
    return splitting.partition_users(users, train_share=settings.splitting.train_share, seed=settings.splitting.seed)


@pipeline_asset(group="splitting", kinds=TABLE_KINDS)
def train_histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Histories of case study B's train users: all ratings of a user except the latest.

    A user with a single rating has no history.
    """
    return splitting.histories(ratings, user_partition, "train")


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("scale",))
def train_responses(
    context: dg.AssetExecutionContext,
    ratings: nw.LazyFrame,
    user_partition: nw.LazyFrame,
    users: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """Responses of case study B's train users that are scored: the latest rating of each user with a history.

    If timestamps tie, the later row of the source counts as the latest. Up to `scale.score_users` users
    are scored; of more users, a sample by hash.
    """
    return _scored(context, splitting.responses(ratings, user_partition, "train"), users, settings)


@pipeline_asset(group="splitting", kinds=TABLE_KINDS)
def test_histories(ratings: nw.LazyFrame, user_partition: nw.LazyFrame) -> nw.LazyFrame:
    """Histories of case study B's test users: all ratings of a user except the latest.

    A user with a single rating has no history.
    """
    return splitting.histories(ratings, user_partition, "test")


@pipeline_asset(group="splitting", kinds=TABLE_KINDS, settings=("scale",))
def test_responses(
    context: dg.AssetExecutionContext,
    ratings: nw.LazyFrame,
    user_partition: nw.LazyFrame,
    users: nw.LazyFrame,
    settings: SettingsParam,
) -> nw.LazyFrame:
    """Responses of case study B's test users that are scored: the latest rating of each user with a history.

    If timestamps tie, the later row of the source counts as the latest. Up to `scale.score_users` users
    are scored; of more users, a sample by hash.
    """
    return _scored(context, splitting.responses(ratings, user_partition, "test"), users, settings)


def _scored(
    context: dg.AssetExecutionContext, rows: nw.LazyFrame, users: nw.LazyFrame, settings: Settings
) -> nw.LazyFrame:
    n_users = row_count(users)
    scale = Scale.of(settings.model_dump())
    context.add_output_metadata({"share of the users that are scored": plotted(scale.scored_share(n_users))})
    return scale.to_score(rows, n_users=n_users)


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The splits of a kind of data. Segments are fitted on histories; responses are scored only if there are times."""
    histories = [train_ratings, test_ratings, user_partition, train_histories, test_histories]
    return [*histories, train_responses, test_responses] if kind.times else histories
