"""Backtest: trains the rating models on the ratings before a cut-off and scores them on the next tenth.

One cut-off shows how good a model was once, several show whether it stays good. Fitting belongs in
`registry.fitting`.
"""

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.data.splitting import cut_in_time, train_size
from recsys_assets.recommender.evaluation.time_cut import measure_ratings
from recsys_assets.recommender.registry import ENTRIES
from recsys_assets.recommender.registry.fitting import ModelFitter, Parameters

PROTOCOL = "backtest"
# Whole tenths, so that 0.7 + 0.1 is 0.8.
_TENTHS = 10


def window(ratings: nw.LazyFrame, cut_off: float) -> tuple[nw.LazyFrame, nw.LazyFrame]:
    """Returns the ratings before the cut-off and the next tenth of all ratings.

    Ratings are ordered by time; equal times are ordered by batch, then row.

    Args:
        ratings: table ratings.
        cut_off: share of the ratings that are training rows, above 0 and at most 0.9.

    Raises:
        ValueError: one side has no rating.
    """
    n_ratings = row_count(ratings)
    begin = train_size(n_ratings, cut_off)
    end = min(n_ratings, int(n_ratings * (round(cut_off * _TENTHS) + 1) / _TENTHS))
    if end <= begin:
        raise ValueError(f"{n_ratings:,} ratings are too few for a backtest from {cut_off} on the next tenth")
    until_end = ratings if end == n_ratings else cut_in_time(ratings, "train", cut=end)
    # Both sides come from one frame: without times, the order of a part is not the order of the whole.
    return cut_in_time(until_end, "train", cut=begin), cut_in_time(until_end, "test", cut=begin)


def backtest(
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    ratings: nw.LazyFrame,
    user_features: nw.LazyFrame,
    cut_off: float,
    parameters: Parameters,
    *,
    selected: str,
    seed: int = 0,
    n_resamples: int = 1000,
) -> pl.DataFrame:
    """Scores every rating model of the registry at one cut-off: table `backtest_scores`.

    Args:
        users: table users.
        items: table items.
        ratings: table ratings; rows after the scored tenth are ignored.
        user_features: table user_features.
        cut_off: share of the ratings that are training rows.
        parameters: settings of all stages, by section.
        selected: the model repeated as `selected`.
        seed: random seed of ties and of the bootstrap.
        n_resamples: bootstrap resamples.
    """
    train, whole = window(ratings, cut_off)
    test = Scale.of(parameters).to_score(whole, n_users=row_count(users))
    tables = {
        "users": users,
        "items": items,
        "user_features": user_features,
        "train_ratings": train,
        "test_ratings": test,
    }
    fitted = ModelFitter(tables, parameters)
    predictions = {entry.name: fitted.predictions(entry) for entry in ENTRIES if entry.task == "time_cut"}
    measured = measure_ratings(train, test, predictions, selected=selected, protocol=PROTOCOL, seed=seed)
    return measured.scores(seed=seed, n_resamples=n_resamples).with_columns(cut_off=pl.lit(cut_off))
