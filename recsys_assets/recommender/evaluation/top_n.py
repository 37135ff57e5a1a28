"""Protocol `top_n`: which movies to show, out of all that the user has not rated in training.

No sampled negatives: a ranking is judged by the ranks of the relevant test movies among all candidates. How
movies are ranked belongs to the models.
"""

from collections.abc import Mapping

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.evaluation.metrics import RankingMetrics
from recsys_assets.recommender.evaluation.rows import (
    ScoredRows,
    counts_of,
    populations_by_history,
    ratings_per_user,
)
from recsys_assets.recommender.evaluation.score_table import (
    RANDOM,
    SELECTED,
    UPPER_BOUND,
    check_models,
    score_table,
)
from recsys_assets.recommender.frames import to_polars


def top_n_scores(
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    rankings: Mapping[str, nw.LazyFrame],
    *,
    n_movies: int,
    selected: str,
    relevant_from: float = 4.0,
    k: int = 10,
    protocol: str = "top_n",
    seed: int = 0,
    n_resamples: int = 1000,
) -> pl.DataFrame:
    """Scores of ranked movies for the users with a relevant test movie: all, seen and unseen ones.

    Metrics, for k = 10: `ndcg_10`, `recall_10`, `precision_10`, `map_10`, `mrr_10`, `hit_rate_10`, each the
    mean over users. Added models: `random` (exact expectation over all orders; without MAP and MRR),
    `upper_bound` (the relevant movies first), `selected`.

    Args:
        train_ratings: table ratings; a user with a row here is seen, and the rated movies are no candidates.
        test_ratings: table ratings.
        rankings: by model, table ranking predictions: the rank of each relevant test movie among all
            candidates. A movie without a row or without a rank is not in the list.
        n_movies: size of the catalogue.
        selected: the model whose rows are repeated as `selected`.
        relevant_from: lowest rating of a relevant movie.
        k: length of the list that is looked at.
        protocol: the name in the table.
        seed: of the bootstrap.
        n_resamples: number of bootstrap resamples.

    Returns:
        Table `evaluation_scores`.

    Raises:
        ValueError: a model's name is reserved, `selected` is missing, rankings are not usable, or a user has
            more relevant test movies than candidates.
    """
    check_models(rankings, {selected})
    relevant = test_ratings.filter(nw.col("rating") >= relevant_from)
    rows = ScoredRows.of(to_polars(relevant, "user", "movie", "rating"), seed=seed)
    n_train = counts_of(rows.users, ratings_per_user(train_ratings))
    measure = RankingMetrics(rows, k)
    metrics = {model: measure.of_ranks(rows.ranks_of(model, frame)) for model, frame in rankings.items()}
    metrics[RANDOM] = measure.random_order(_candidates(rows, n_train, n_movies))
    metrics[UPPER_BOUND] = measure.perfect()
    metrics[SELECTED] = metrics[selected]
    return score_table(protocol, metrics, populations_by_history(n_train), seed=seed, n_resamples=n_resamples)


def _candidates(rows: ScoredRows, n_train: np.ndarray, n_movies: int) -> np.ndarray:
    """Number of movies that each user has not rated in training: shape (users,)."""
    candidates = n_movies - n_train
    short = candidates < rows.counts
    if short.any():
        user = rows.users[short][0]
        raise ValueError(
            f"user {user} has more relevant test movies than the {n_movies} movies leave unrated; "
            "n_movies is the whole catalogue"
        )
    return candidates
