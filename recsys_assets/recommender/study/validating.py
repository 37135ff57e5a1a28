"""The scores of one model on the rows of a validation slice, by the same functions that score the test rows."""

from collections.abc import Mapping

import narwhals as nw
import polars as pl

from recsys_assets.recommender.evaluation.latest_rating import latest_rating_scores
from recsys_assets.recommender.evaluation.protocols import Tables
from recsys_assets.recommender.evaluation.score_table import SELECTED
from recsys_assets.recommender.evaluation.time_cut import time_cut_scores
from recsys_assets.recommender.evaluation.top_n import top_n_scores
from recsys_assets.recommender.frames import row_count
from recsys_assets.recommender.registry import Task

# Trials are compared by their values: an interval for each would take longer than some fits.
_NO_INTERVALS = 1


def validation_scores(
    task: Task, tables: Tables, predictions: Mapping[str, nw.LazyFrame], *, model: str, seed: int = 0
) -> dict[str, dict[str, float]]:
    """By population, then metric.

    Args:
        task: of the model.
        tables: of the slice.
        predictions: by model; of item mean too where ratings are predicted.
        model: whose scores.
        seed: of ties.
    """
    rows = _all_scores(task, tables, predictions, model, seed).filter(model=SELECTED)
    scores: dict[str, dict[str, float]] = {}
    for population, metric, value in rows.select("population", "metric", "value").iter_rows():
        scores.setdefault(population, {})[metric] = value
    return scores


def _all_scores(
    task: Task, tables: Tables, predictions: Mapping[str, nw.LazyFrame], model: str, seed: int
) -> pl.DataFrame:
    if task == "time_cut":
        train, test = tables["train_ratings"], tables["test_ratings"]
        return time_cut_scores(train, test, predictions, selected=model, seed=seed, n_resamples=_NO_INTERVALS)
    n_movies = row_count(tables["movies"])
    if task == "top_n":
        train, test = tables["train_ratings"], tables["test_ratings"]
        return top_n_scores(
            train, test, predictions, n_movies=n_movies, selected=model, seed=seed, n_resamples=_NO_INTERVALS
        )
    return latest_rating_scores(
        {"train_users": tables["train_responses"], "test_users": tables["test_responses"]},
        predictions if task == "latest_rating" else {},
        predictions if task == "next_movie" else {},
        histories={"train_users": tables["train_histories"], "test_users": tables["test_histories"]},
        selected=model,
        n_movies=n_movies,
        seed=seed,
        n_resamples=_NO_INTERVALS,
    )
