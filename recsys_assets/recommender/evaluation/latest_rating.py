"""Protocol `latest_rating` (case study B): scores predictions of each user's latest rating from the earlier ones.

Leave-last-out splitting and the partition of the users belong in `data.splitting`.
"""

from collections.abc import Mapping

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.metrics import RatingMetrics, hit_at
from recsys_assets.recommender.evaluation.populations import by_demographics, by_pause
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.rows import ScoredRows, counts_of, distribution, ratings_per_user
from recsys_assets.recommender.evaluation.score_table import BASELINE, RANDOM, SELECTED, UPPER_BOUND, check_models
from recsys_assets.recommender.models.sessions import seconds_since_last

_LIST_LENGTHS = (1, 10)


def measure_latest_rating(
    responses: Mapping[str, nw.LazyFrame],
    rating_predictions: Mapping[str, nw.LazyFrame],
    rankings: Mapping[str, nw.LazyFrame],
    *,
    histories: Mapping[str, nw.LazyFrame],
    selected: str,
    selected_ranking: str | None = None,
    n_items: int,
    users: nw.LazyFrame | None = None,
    protocol: str = "latest_rating",
    seed: int = 0,
) -> EvaluationResult:
    """Scores the predicted response and the predicted next item, for train users and for test users.

    Metrics of the rating models, if there are any: `rmse`, `mae`, `r2` (1 - SSE / SST), `prediction_coverage`. Metrics
    of the rankings: `next_item_hit_1`, `next_item_hit_10`. Three models are added:

    - `random`: exact expectation. Hits: over all orders of the items outside the history. Errors: over predictions
      drawn from the ratings of the histories.
    - `upper_bound`: score of a perfect prediction.
    - `selected`: repeats the scores of `selected` and `selected_ranking`.

    Args:
        responses: by population (train_users, test_users), table ratings with one row per user. Test users are also
            scored by the pause before the response: see `populations.by_pause`.
        rating_predictions: by model, table rating predictions for the responses of all populations. `item_mean`
            replaces missing predictions; it is required and must predict every response.
        rankings: by model, table ranking predictions: the rank of the response's item among the items outside the
            history.
        histories: by population, table ratings: the rows before the responses.
        selected: the model whose scores are repeated as `selected`; without rating models, a model of the rankings.
        selected_ranking: the model whose hits are repeated as `selected`; None for `selected` itself, if it
            ranks.
        n_items: number of items in the catalogue.
        users: table users, for scores by gender and age; None for none.
        protocol: name of the protocol in the table.
        seed: random seed of ties.

    Raises:
        ValueError: a model's name is reserved, a selected model or `item_mean` is missing, predictions are
            not usable, or a history holds every item of the catalogue.
    """
    check_models({*rating_predictions, *rankings}, {selected})
    check_models(rating_predictions, {BASELINE} if rating_predictions else ())
    check_models(rankings, {selected_ranking} if selected_ranking else ())
    response = pl.concat([to_polars(frame, "user", "item", "rating") for frame in responses.values()])
    rows = ScoredRows.of(response, seed=seed)
    known = distribution(nw.concat(list(histories.values())))
    raters = _rater_metrics(rows, rating_predictions, known) if rating_predictions else {}
    rankers = _ranker_metrics(rows, rankings, _unseen(rows, histories, n_items))
    raters[SELECTED] = raters.get(selected, [])
    rankers[SELECTED] = rankers.get(selected_ranking or selected, [])
    return EvaluationResult(
        protocol,
        rows.users,
        {model: [*raters.get(model, []), *rankers.get(model, [])] for model in {**raters, **rankers}},
        {name: np.isin(rows.users, to_polars(frame, "user")["user"]) for name, frame in responses.items()}
        | _by_pause(rows.users, responses, histories),
        by_demographics(users, rows.users) if users is not None else {},
    )


def _by_pause(
    users: np.ndarray, responses: Mapping[str, nw.LazyFrame], histories: Mapping[str, nw.LazyFrame]
) -> dict[str, np.ndarray]:
    """Masks of the test users by the time between their last two ratings; each of shape (users,)."""
    paused = seconds_since_last(responses["test_users"], histories["test_users"])
    known = pl.DataFrame({"user": users}).join(paused, on="user", how="left", maintain_order="left")
    seconds = known["seconds"].fill_null(np.nan).to_numpy()
    return {f"test_users_{name}": mask for name, mask in by_pause(seconds).items()}


def _rater_metrics(
    rows: ScoredRows, predictions: Mapping[str, nw.LazyFrame], known: tuple[np.ndarray, np.ndarray]
) -> dict[str, list[UserMetric]]:
    """Errors and coverage by rating model, with `upper_bound`, and `random` drawn from the distribution `known`."""
    measure = RatingMetrics(rows)
    own = {model: rows.ratings_of(model, frame) for model, frame in predictions.items()}
    own[UPPER_BOUND] = rows.rating
    fallback = rows.complete_ratings_of(BASELINE, predictions[BASELINE])
    raters = {
        model: [*measure.errors(np.where(np.isnan(values), fallback, values)), measure.coverage(values)]
        for model, values in own.items()
    }
    return {**raters, RANDOM: measure.random_ratings(*known)}


def _ranker_metrics(
    rows: ScoredRows, rankings: Mapping[str, nw.LazyFrame], unseen: np.ndarray
) -> dict[str, list[UserMetric]]:
    """Hits by ranking model, with `upper_bound`, and `random` for `unseen` items per row, shape (rows,)."""
    ranks = {model: rows.ranks_of(model, frame) for model, frame in rankings.items()}
    ranks[UPPER_BOUND] = np.ones(len(rows.code))
    hits = {model: [hit_at(k, rank <= k, rows) for k in _LIST_LENGTHS] for model, rank in ranks.items()}
    hits[RANDOM] = [hit_at(k, np.minimum(k, unseen) / unseen, rows) for k in _LIST_LENGTHS]
    return hits


def _unseen(rows: ScoredRows, histories: Mapping[str, nw.LazyFrame], n_items: int) -> np.ndarray:
    """Number of items outside the history of each row's user: shape (rows,)."""
    per_user = pl.concat([ratings_per_user(frame) for frame in histories.values()])
    unseen = n_items - counts_of(rows.users, per_user)
    if (unseen < 1).any():
        user = rows.users[np.argmin(unseen)]
        raise ValueError(f"the history of user {user} leaves no item of {n_items} unseen; n_items is the catalogue")
    return unseen[rows.code]
