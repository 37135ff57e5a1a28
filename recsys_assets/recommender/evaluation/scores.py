"""The scores of all entries of the registry under their protocols: the table `evaluation_scores`.

Each protocol is a module of its own; here is only which predictions it gets.
"""

from collections.abc import Mapping

import narwhals as nw
import polars as pl

from recsys_assets.recommender.evaluation.latest_rating import latest_rating_scores
from recsys_assets.recommender.evaluation.time_cut import time_cut_scores
from recsys_assets.recommender.evaluation.top_n import top_n_scores
from recsys_assets.recommender.frames import row_count
from recsys_assets.recommender.registry import Entry, Task


def all_scores(
    tables: Mapping[str, nw.LazyFrame],
    predictions: Mapping[Entry, nw.LazyFrame],
    *,
    selected_rating_model: str,
    selected_ranking_model: str,
    selected_response_model: str,
    selected_next_movie_model: str,
    n_resamples: int,
    seed: int,
) -> pl.DataFrame:
    """The scores of every entry under its protocol: the table `evaluation_scores`.

    Args:
        tables: `movies` and the tables of both splits, by name.
        predictions: the predictions table of each entry.
        selected_rating_model: the model repeated as `selected` in `time_cut`; likewise `selected_ranking_model` in
            `top_n`, and the other two for the rating and the movie of `latest_rating`.
        n_resamples: bootstrap resamples behind each interval.
        seed: of the bootstrap and of the order of ties.
    """

    def of(task: Task) -> dict[str, nw.LazyFrame]:
        return {entry.name: frame for entry, frame in predictions.items() if entry.task == task}

    n_movies = row_count(tables["movies"])
    time_cut = time_cut_scores(
        tables["train_ratings"],
        tables["test_ratings"],
        of("time_cut"),
        selected=selected_rating_model,
        seed=seed,
        n_resamples=n_resamples,
    )
    top_n = top_n_scores(
        tables["train_ratings"],
        tables["test_ratings"],
        of("top_n"),
        n_movies=n_movies,
        selected=selected_ranking_model,
        seed=seed,
        n_resamples=n_resamples,
    )
    latest_rating = latest_rating_scores(
        {"train_users": tables["train_responses"], "test_users": tables["test_responses"]},
        of("latest_rating"),
        of("next_movie"),
        histories={"train_users": tables["train_histories"], "test_users": tables["test_histories"]},
        selected=selected_response_model,
        selected_ranking=selected_next_movie_model,
        n_movies=n_movies,
        seed=seed,
        n_resamples=n_resamples,
    )
    return pl.concat([time_cut, top_n, latest_rating])
