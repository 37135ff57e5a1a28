"""The cost of a limit per value: a model's lists with and without the limit, scored on the same test rows."""

from dataclasses import dataclass

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates
from recsys_assets.recommender.evaluation.metrics import RankingMetrics
from recsys_assets.recommender.evaluation.result import difference
from recsys_assets.recommender.evaluation.rows import ScoredRows
from recsys_assets.recommender.ranking.rankings import Limits, Ranker, top_n


@dataclass(frozen=True)
class RuleCost:
    """NDCG of lists without and with a rule, on the same users.

    Attributes:
        without, within: mean NDCG at k of the lists without and with the rule.
        low, high: 95 % interval of `within - without`, paired bootstrap over users.
        n_users: users with a relevant test item.
        n_short: users among them whose list is shorter under the rule.
    """

    without: float
    within: float
    low: float
    high: float
    n_users: int
    n_short: int


def rule_cost(
    ranker: Ranker,
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    limits: Limits,
    *,
    k: int = 10,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> RuleCost | None:
    """The NDCG of a model's lists without and with limits, for users with a relevant test item; None without users.

    Args:
        ranker: a model fitted on the training ratings.
        train_ratings: table ratings; the items that a user has rated here are not in the user's list.
        test_ratings: table ratings.
        limits: the rule.
        k: length of the lists.
        n_resamples: number of bootstrap resamples.
        seed: random seed of the bootstrap.
    """
    liked = nw.col("rating") >= relevant_from(train_ratings)
    relevant = to_polars(test_ratings.filter(liked), "user", "item", "rating")
    if relevant.is_empty():
        return None
    rows = ScoredRows.of(relevant, seed=seed)
    without, within = (top_n(ranker, train_ratings, rows.users, n=k, limits=rule) for rule in (None, limits))
    ndcg = [_ndcg(rows, lists, k) for lists in (without, within)]
    metrics, everyone = [*ndcg, difference(ndcg[1], ndcg[0], "change")], np.ones(len(rows.users), bool)
    before, after, change = estimates(metrics, everyone, seed=seed, n_resamples=n_resamples)
    assert before and after and change
    lengths = [lists.group_by("user").len() for lists in (without, within)]
    both = lengths[0].join(lengths[1], on="user", how="left", suffix="_within").fill_null(0)
    n_short = int((both["len_within"] < both["len"]).sum())
    return RuleCost(before.value, after.value, change.low, change.high, change.n, n_short)


def _ndcg(rows: ScoredRows, lists: pl.DataFrame, k: int) -> UserMetric:
    ranks = rows.ranks_of("lists", lazy(lists.drop_nulls("score").select("user", "item", "rank")))
    ndcg = RankingMetrics(rows, k).of_ranks(ranks)[0]
    assert ndcg.name == f"ndcg_{k}"
    return ndcg
