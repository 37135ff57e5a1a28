"""The registry of models: each entry says what is fitted on what, and what is predicted from it.

An entry becomes a model asset and a predictions asset, and stands in every score table. Functions name the assets they
need by their parameters, as Dagster's own do. Adding a model means adding an entry here.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import narwhals as nw
import polars as pl

from recsys_assets.recommender import als, item_mean, rankings, segments, serving
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.evaluation.latest_rating import latest_rating_scores
from recsys_assets.recommender.evaluation.time_cut import time_cut_scores
from recsys_assets.recommender.evaluation.top_n import top_n_scores
from recsys_assets.recommender.frames import row_count, same_engine
from recsys_assets.recommender.item_mean import ItemMeanModel
from recsys_assets.recommender.segments import SegmentModel

Task = Literal["time_cut", "top_n", "latest_rating", "next_movie"]


@dataclass(frozen=True)
class Fit:
    """How a model asset is made.

    Attributes:
        asset: name of the model asset.
        group: the stage it belongs to.
        function: called with the table, `index=` and the section's settings, and with `spark=` and `scratch=` if
            `needs_spark`; returns the model.
        model_type: the type of the model, which saves and loads itself.
        table: the asset with the training rows.
        settings: section of the settings whose fields are the function's parameters.
        description: what the model is, for the UI.
        needs_spark: whether the function needs a Spark session.
        promoted: whether its settings are those of the promoted configuration instead of the present ones.
    """

    asset: str
    group: str
    function: Callable[..., Any]
    model_type: type
    table: str
    settings: str
    description: str
    needs_spark: bool = False
    promoted: bool = False


@dataclass(frozen=True)
class Entry:
    """One model in one task.

    Attributes:
        name: as in the score tables.
        task: which rows it predicts; see `tables.PREDICTIONS`.
        predict: from the assets its parameters name to the predictions table; models come as themselves, tables as
            lazy frames.
    """

    name: str
    task: Task
    predict: Callable[..., pl.DataFrame | nw.LazyFrame]

    @property
    def needs(self) -> tuple[str, ...]:
        """The assets `predict` takes."""
        return tuple(inspect.signature(self.predict).parameters)


ITEM_MEAN = Fit(
    asset="item_mean_model",
    group="baselines",
    function=item_mean.fit,
    model_type=ItemMeanModel,
    table="train_ratings",
    settings="item_mean",
    description="Mean rating of each movie, shrunk to the global mean: the baseline, and the fallback of other models.",
)
HISTORY_ITEM_MEAN = Fit(
    asset="history_item_mean_model",
    group="baselines",
    function=item_mean.fit,
    model_type=ItemMeanModel,
    table="train_histories",
    settings="item_mean",
    description="The same from the train users' histories of case study B.",
)
ALS_UNADJUSTED = Fit(
    asset="als_model_unadjusted",
    group="als",
    function=als.fit,
    model_type=ALSModel,
    table="train_ratings",
    settings="als",
    description="Explicit ALS on the training ratings as they are: it knows nothing of users without one.",
    needs_spark=True,
)
ALS_ADJUSTED = Fit(
    asset="als_model",
    group="als",
    function=als.fit,
    model_type=ALSModel,
    table="adjusted_train_ratings",
    settings="als",
    description="Explicit ALS on the adjusted training set: case study A's repair of the cold start.",
    needs_spark=True,
)
RANKING = Fit(
    asset="ranking_model",
    group="als",
    function=partial(als.fit, implicit_prefs=True),
    model_type=ALSModel,
    table="train_ratings",
    settings="ranking",
    description="ALS with implicit preferences: the model for top N, where rating models are the wrong tool.",
    needs_spark=True,
)
SERVING = Fit(
    asset="serving_model",
    group="serving",
    function=partial(als.fit, implicit_prefs=True),
    model_type=ALSModel,
    table="ratings",
    settings="ranking",
    description="The promoted top-N configuration fitted on **all** ratings. It is never scored on the test rows.",
    needs_spark=True,
    promoted=True,
)
SEGMENTS = Fit(
    asset="segment_model",
    group="segments",
    function=segments.fit,
    model_type=SegmentModel,
    table="train_histories",
    settings="segments",
    description="LDA on the train users' histories: segments of users as distributions over movies.",
)


FITS = (ITEM_MEAN, HISTORY_ITEM_MEAN, ALS_UNADJUSTED, ALS_ADJUSTED, RANKING, SERVING, SEGMENTS)
# The entry of the task `top_n` that is scored with what `SERVING` is fitted with.
SERVED = "implicit_als"


def _item_mean(item_mean_model: ItemMeanModel, test_ratings: nw.LazyFrame) -> pl.DataFrame:
    return item_mean_model.predict(test_ratings)


def _als_unadjusted(als_model_unadjusted: ALSModel, test_ratings: nw.LazyFrame) -> pl.DataFrame:
    return als_model_unadjusted.predict(test_ratings)


def _als_adjusted(als_model: ALSModel, test_ratings: nw.LazyFrame) -> pl.DataFrame:
    return als_model.predict(test_ratings)


def _popularity_ranks(
    users: nw.LazyFrame, movies: nw.LazyFrame, train_ratings: nw.LazyFrame, test_ratings: nw.LazyFrame
) -> pl.DataFrame:
    return rankings.by_popularity(users, movies, test_ratings, rated=train_ratings, counted=train_ratings)


def _explicit_als_ranks(
    als_model: ALSModel, user_clusters: nw.LazyFrame, train_ratings: nw.LazyFrame, test_ratings: nw.LazyFrame
) -> pl.DataFrame:
    return _als_ranks(als_model, user_clusters, train_ratings, test_ratings)


def _implicit_als_ranks(
    ranking_model: ALSModel,
    user_clusters: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
) -> pl.DataFrame:
    return _als_ranks(ranking_model, user_clusters, train_ratings, test_ratings)


def _als_ranks(
    model: ALSModel, user_clusters: nw.LazyFrame, train_ratings: nw.LazyFrame, test_ratings: nw.LazyFrame
) -> pl.DataFrame:
    factors = serving.warm_up(model, user_clusters)
    return rankings.by_vectors(factors, model.movie_factors, test_ratings, rated=train_ratings)


def _history_item_mean(
    history_item_mean_model: ItemMeanModel, train_responses: nw.LazyFrame, test_responses: nw.LazyFrame
) -> pl.DataFrame:
    return history_item_mean_model.predict(_all_users(train_responses, test_responses))


def _user_bias(
    history_item_mean_model: ItemMeanModel,
    train_responses: nw.LazyFrame,
    test_responses: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    test_histories: nw.LazyFrame,
) -> nw.LazyFrame:
    histories = _all_users(train_histories, test_histories)
    return segments.user_bias_predictions(
        _all_users(train_responses, test_responses),
        histories,
        same_engine(histories, history_item_mean_model.table),
        global_mean=history_item_mean_model.global_mean,
    )


def _segment_mean(
    train_responses: nw.LazyFrame,
    test_responses: nw.LazyFrame,
    user_segments: nw.LazyFrame,
    segment_ratings: nw.LazyFrame,
) -> nw.LazyFrame:
    responses = _all_users(train_responses, test_responses)
    return segments.segment_mean_predictions(responses, user_segments, segment_ratings)


def _next_by_popularity(
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    train_responses: nw.LazyFrame,
    test_responses: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    test_histories: nw.LazyFrame,
) -> pl.DataFrame:
    return rankings.by_popularity(
        users,
        movies,
        _all_users(train_responses, test_responses),
        rated=_all_users(train_histories, test_histories),
        counted=train_histories,
    )


def _next_by_segment_list(
    users: nw.LazyFrame,
    segment_model: SegmentModel,
    user_segments: nw.LazyFrame,
    train_responses: nw.LazyFrame,
    test_responses: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    test_histories: nw.LazyFrame,
) -> pl.DataFrame:
    return rankings.by_vectors(
        segments.memberships(user_segments, n_users=row_count(users), n_segments=segment_model.n_segments),
        segment_model.movie_probabilities.T,
        _all_users(train_responses, test_responses),
        rated=_all_users(train_histories, test_histories),
    )


def _next_by_mixture(
    users: nw.LazyFrame,
    segment_model: SegmentModel,
    user_segments: nw.LazyFrame,
    train_responses: nw.LazyFrame,
    test_responses: nw.LazyFrame,
    train_histories: nw.LazyFrame,
    test_histories: nw.LazyFrame,
) -> pl.DataFrame:
    return rankings.by_vectors(
        segments.affinities(user_segments, n_users=row_count(users), n_segments=segment_model.n_segments),
        segment_model.movie_probabilities.T,
        _all_users(train_responses, test_responses),
        rated=_all_users(train_histories, test_histories),
    )


def _all_users(train: nw.LazyFrame, test: nw.LazyFrame) -> nw.LazyFrame:
    return nw.concat([train, test])


ENTRIES = (
    Entry("item_mean", "time_cut", _item_mean),
    Entry("als_unadjusted", "time_cut", _als_unadjusted),
    Entry("als_adjusted", "time_cut", _als_adjusted),
    Entry("popularity", "top_n", _popularity_ranks),
    Entry("als_adjusted", "top_n", _explicit_als_ranks),
    Entry("implicit_als", "top_n", _implicit_als_ranks),
    Entry("item_mean", "latest_rating", _history_item_mean),
    Entry("user_bias", "latest_rating", _user_bias),
    Entry("segment_mean", "latest_rating", _segment_mean),
    Entry("popularity", "next_movie", _next_by_popularity),
    Entry("segment_list", "next_movie", _next_by_segment_list),
    Entry("segment_mixture", "next_movie", _next_by_mixture),
)


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
