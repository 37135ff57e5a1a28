"""Protocol `top_n`: scores rankings of all items that a user has not rated in training (the candidates).

There are no sampled negatives: metrics use the ranks of the relevant test items among all candidates. Rankers
belong in `ranking`.
"""

from collections.abc import Mapping

import narwhals as nw
import numpy as np

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.evaluation.lists import ListMetrics
from recsys_assets.recommender.evaluation.metrics import RankingMetrics
from recsys_assets.recommender.evaluation.populations import by_demographics, by_experience
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.rows import ScoredRows, counts_of, ratings_per_user
from recsys_assets.recommender.evaluation.score_table import RANDOM, SELECTED, UPPER_BOUND, check_models


def measure_top_n(
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    rankings: Mapping[str, nw.LazyFrame],
    *,
    n_items: int,
    selected: str,
    relevant_from: float,
    lists: Mapping[str, nw.LazyFrame] | None = None,
    items: nw.LazyFrame | None = None,
    users: nw.LazyFrame | None = None,
    k: int = 10,
    protocol: str = "top_n",
    seed: int = 0,
) -> EvaluationResult:
    """Scores rankings for the users with a relevant test item, in the populations of `populations.by_experience`.

    Metrics, for k = 10: `ndcg_10`, `recall_10`, `precision_10`, `map_10`, `mrr_10`, `hit_rate_10`, all means over
    users. With `lists`, the metrics of `ListMetrics` are added. Added models:

    - `random`: exact expectation over all orders; without MAP and MRR, which have no simple closed form.
    - `upper_bound`: the relevant items rank first.
    - `selected`: repeats the selected model.

    Args:
        train_ratings: table ratings; a user with a row here is seen, and the user's rated items are no candidates.
        test_ratings: table ratings.
        rankings: by model, table ranking predictions: the rank of each relevant test item among all
            candidates. An item without a row or without a rank is not in the list.
        n_items: number of items in the catalogue.
        selected: the model whose scores are repeated as `selected`.
        relevant_from: lowest rating of a relevant item; see `preferences.relevant_from`.
        lists: output of `lists.top_lists` for the users with a relevant test item, by model, including `random`.
        items: table items; required with `lists`.
        users: table users, for scores by gender and age; None for none.
        k: cut-off rank.
        protocol: name of the protocol in the table.
        seed: random seed of the order of the rows.

    Raises:
        ValueError: a model's name is reserved, `selected` is missing, rankings are not usable, or a user has
            more relevant test items than candidates.
    """
    check_models(rankings, {selected})
    relevant = test_ratings.filter(nw.col("rating") >= relevant_from)
    rows = ScoredRows.of(to_polars(relevant, "user", "item", "rating"), seed=seed)
    n_train = counts_of(rows.users, ratings_per_user(train_ratings))
    measure = RankingMetrics(rows, k)
    metrics = {model: measure.of_ranks(rows.ranks_of(model, frame)) for model, frame in rankings.items()}
    metrics[RANDOM] = measure.random_order(_candidates(rows, n_train, n_items))
    metrics[UPPER_BOUND] = measure.perfect()
    populations = by_experience(n_train)
    if lists and items is not None:
        described = ListMetrics(rows, train_ratings, items, populations, k)
        for model, shown in lists.items():
            metrics[model] = [*metrics[model], *described.of_lists(shown)]
    metrics[SELECTED] = metrics[selected]
    groups = by_demographics(users, rows.users) if users is not None else {}
    return EvaluationResult(protocol, rows.users, metrics, populations, groups)


def _candidates(rows: ScoredRows, n_train: np.ndarray, n_items: int) -> np.ndarray:
    """Number of candidates of each user: shape (users,).

    Raises:
        ValueError: a user has more relevant test items than candidates.
    """
    candidates = n_items - n_train
    short = candidates < rows.counts
    if short.any():
        user = rows.users[short][0]
        raise ValueError(
            f"user {user} has more relevant test items than the {n_items} items leave unrated; "
            "n_items is the whole catalogue"
        )
    return candidates
