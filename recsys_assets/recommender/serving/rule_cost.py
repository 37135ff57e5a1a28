"""The cost of rules for lists: a model's lists without and with each rule, scored on the same test rows.

Items without a training rating are the new items of the test. Their test ratings tell how often lists find them.
"""

from collections.abc import Mapping
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
from recsys_assets.recommender.serving.new_items import NewItems


@dataclass(frozen=True)
class RuleCost:
    """NDCG of lists without and with a rule, on the same users.

    Attributes:
        without, within: mean NDCG at n of the lists without and with the rule.
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


@dataclass(frozen=True)
class NewItemsScore:
    """How often lists show new items, and how often users like what is shown.

    Attributes:
        n_new: new items: something is known of them, and no training rating is of them.
        n_shown: new items in at least one list.
        n_lists: lists that hold a new item.
        n_places: places of all lists that hold a new item.
        n_liked: liked test ratings among the items in these places.
        n_displaced, n_displaced_liked: items that had to leave a list, and liked test ratings among them.
        n_likes: liked test ratings of new items, in lists or not.
    """

    n_new: int
    n_shown: int
    n_lists: int
    n_places: int
    n_liked: int
    n_displaced: int
    n_displaced_liked: int
    n_likes: int


@dataclass(frozen=True)
class RuleCosts:
    """The cost of each rule that is in force, in the order of `rule_costs`.

    Attributes:
        n: length of the lists.
        of_rules: cost by the name of the setting. The lists without a rule obey the rules before it.
        new_items: what the places for new items bring; None without such places.
    """

    n: int
    of_rules: Mapping[str, RuleCost]
    new_items: NewItemsScore | None


def rule_costs(
    ranker: Ranker,
    items: pl.DataFrame,
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    *,
    n: int,
    limits: Limits | None = None,
    explore: int = 0,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> RuleCosts | None:
    """The cost of `max_per_value` and of `explore`, for users with a relevant test item; None without such users.

    Args:
        ranker: a model fitted on the training ratings.
        items: table items, sorted by item.
        train_ratings: table ratings; the items that a user has rated here are not in the user's list.
        test_ratings: table ratings.
        n: length of the lists.
        limits: the limits per value.
        explore: how many places of a list new items may take.
        n_resamples: number of bootstrap resamples.
        seed: random seed of the bootstrap.
    """
    liked = nw.col("rating") >= relevant_from(train_ratings)
    relevant = to_polars(test_ratings.filter(liked), "user", "item", "rating")
    if relevant.is_empty():
        return None
    rows = ScoredRows.of(relevant, seed=seed)
    is_old = pl.lit(value=False).alias("is_new")
    lists = {"": top_n(ranker, train_ratings, rows.users, n=n).with_columns(is_old)}
    if limits is not None:
        lists["max_per_value"] = top_n(ranker, train_ratings, rows.users, n=n, limits=limits).with_columns(is_old)
    score = None
    if explore:
        new, before = NewItems.of(items, train_ratings), [*lists.values()][-1]
        lists["explore"] = new.placed(
            before.drop("is_new"),
            train_ratings,
            rows.users,
            n=n,
            places=explore,
            allowed=np.ones(len(items), bool),
            limits=limits,
        )
        score = _new_items_score(new.is_new, before, lists["explore"], relevant)
    names = [*lists]
    ndcg = [_ndcg(rows, each, n) for each in lists.values()]
    metrics, everyone = [*ndcg, *map(_change, ndcg[1:], ndcg)], np.ones(len(rows.users), bool)
    found = estimates(metrics, everyone, seed=seed, n_resamples=n_resamples)
    lengths = [each.group_by("user").len() for each in lists.values()]
    costs = {}
    for place, name in enumerate(names[1:]):
        without, within, change = (found[at] for at in (place, place + 1, len(names) + place))
        assert without and within and change
        n_short = _n_shorter(lengths[place], lengths[place + 1])
        costs[name] = RuleCost(without.value, within.value, change.low, change.high, change.n, n_short)
    return RuleCosts(n, costs, score)


def _new_items_score(
    is_new: np.ndarray, before: pl.DataFrame, after: pl.DataFrame, relevant: pl.DataFrame
) -> NewItemsScore:
    placed, pair = after.filter("is_new"), ["user", "item"]
    displaced = before.filter(pl.col("score").is_not_null()).join(after, on=pair, how="anti")
    return NewItemsScore(
        n_new=int(is_new.sum()),
        n_shown=placed["item"].n_unique(),
        n_lists=placed["user"].n_unique(),
        n_places=len(placed),
        n_liked=len(placed.join(relevant, on=pair, how="semi")),
        n_displaced=len(displaced),
        n_displaced_liked=len(displaced.join(relevant, on=pair, how="semi")),
        n_likes=int(is_new[relevant["item"].to_numpy()].sum()),
    )


def _ndcg(rows: ScoredRows, lists: pl.DataFrame, n: int) -> UserMetric:
    # The model orders no item without a score; new items have their places by their attributes.
    placed = lists.filter(pl.col("score").is_not_null() | pl.col("is_new"))
    ndcg = RankingMetrics(rows, n).of_ranks(rows.ranks_of("lists", lazy(placed.select("user", "item", "rank"))))[0]
    assert ndcg.name == f"ndcg_{n}"
    return ndcg


def _change(within: UserMetric, without: UserMetric) -> UserMetric:
    return difference(within, without, "change")


def _n_shorter(without: pl.DataFrame, within: pl.DataFrame) -> int:
    both = without.join(within, on="user", how="left", suffix="_within").fill_null(0)
    return int((both["len_within"] < both["len"]).sum())
