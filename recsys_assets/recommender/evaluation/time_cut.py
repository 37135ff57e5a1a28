"""Protocol `time_cut` (case study A): scores predictions of the ratings after a cut from the ratings before it.

Every other split into train and test rows is scored in the same way under its own protocol name. Splitting belongs in
`data.splitting`.
"""

from collections.abc import Collection, Mapping

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.metrics import RatingMetrics
from recsys_assets.recommender.evaluation.populations import by_demographics, by_experience
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.rows import ScoredRows, counts_of, distribution, ratings_per_user
from recsys_assets.recommender.evaluation.score_table import (
    BASELINE,
    POPULARITY,
    RANDOM,
    SELECTED,
    UPPER_BOUND,
    check_models,
)

_SEEN = frozenset({"seen", "few_ratings"})


def measure_ratings(
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    predictions: Mapping[str, nw.LazyFrame],
    *,
    selected: str,
    unfilled: Collection[str] = ("als_unadjusted",),
    users: nw.LazyFrame | None = None,
    protocol: str = "time_cut",
    seed: int = 0,
) -> EvaluationResult:
    """Scores predicted ratings on all test rows, in the populations of `populations.by_experience`.

    Metrics:

    - `top5pct_rating`: mean true rating of the ceil(5 %) test rows with the highest prediction of each user, pooled
      over users, ties at random.
    - `top5pct_rating_published`: `top5pct_rating` by the rule of case study A, without the fallback: missing
      predictions count as 1.0.
    - `rmse`, `mae`, `r2`, `prediction_coverage`.

    Added models:

    - `random`: exact expectation. `top5pct_rating`: over all orders. Errors: over predictions drawn from the training
      ratings.
    - `popularity`: orders items by number of training ratings; it predicts no ratings, so it has no errors.
    - `upper_bound`: score of a perfect prediction.
    - `selected`: repeats the selected model.

    Args:
        train_ratings: table ratings; a user with a row here is seen.
        test_ratings: table ratings; the scored rows.
        predictions: by model, table rating predictions. `item_mean` replaces missing predictions (fallback); it is
            required and must predict every test row.
        selected: the model whose scores are repeated as `selected`.
        unfilled: models without the fallback in `top5pct_rating`: their missing predictions rank last, in random order.
            Their errors are given for seen users only.
        users: table users, for scores by gender and age; None for none.
        protocol: name of the protocol in the table.
        seed: random seed of ties.

    Raises:
        ValueError: a model's name is reserved, `selected` or `item_mean` is missing, or predictions are not
            usable.
    """
    check_models(predictions, {selected, BASELINE})
    rows = ScoredRows.of(to_polars(test_ratings, "user", "item", "rating"), seed=seed)
    measure = RatingMetrics(rows)
    fallback = rows.complete_ratings_of(BASELINE, predictions[BASELINE])
    metrics = {
        model: _metrics(measure, rows.ratings_of(model, frame), fallback, filled=model not in unfilled)
        for model, frame in predictions.items()
    }
    metrics[RANDOM] = [*measure.random_order(), *measure.random_ratings(*distribution(train_ratings))]
    metrics[UPPER_BOUND] = _metrics(measure, rows.rating, fallback, filled=True)
    metrics[SELECTED] = metrics[selected]
    metrics.setdefault(POPULARITY, _order(measure, _popularity(rows, train_ratings)))
    return EvaluationResult(
        protocol,
        rows.users,
        metrics,
        by_experience(counts_of(rows.users, ratings_per_user(train_ratings))),
        by_demographics(users, rows.users) if users is not None else {},
    )


def _metrics(measure: RatingMetrics, own: np.ndarray, fallback: np.ndarray, *, filled: bool) -> list[UserMetric]:
    """All metrics of a model.

    Args:
        measure: metrics of the rows.
        own: predictions of the model, shape (rows,), NaN if missing.
        fallback: predictions that replace missing ones, shape (rows,).
        filled: whether the fallback counts in `top5pct_rating`.
    """
    missing = np.isnan(own)
    complete = np.where(missing, fallback, own)
    return [
        measure.top5pct_rating(complete if filled else np.where(missing, -np.inf, own)),
        measure.top5pct_rating_published(own),
        *measure.errors(complete, populations=None if filled else _SEEN),
        measure.coverage(own),
    ]


def _order(measure: RatingMetrics, values: np.ndarray) -> list[UserMetric]:
    """Metrics of an order of the rows by `values`, shape (rows,); no errors, because values are not ratings."""
    return [measure.top5pct_rating(values), measure.top5pct_rating_published(values)]


def _popularity(rows: ScoredRows, train_ratings: nw.LazyFrame) -> np.ndarray:
    """Number of training ratings of each row's item: shape (rows,)."""
    counts = to_polars(train_ratings.group_by("item").agg(count=nw.len()))
    found = rows.frame.join(counts, on="item", how="left", maintain_order="left")["count"]
    return found.fill_null(0).cast(pl.Float64).to_numpy()
