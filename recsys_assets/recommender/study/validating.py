"""The scores of one model on the rows of a validation slice, by the same functions that score the test rows."""

from collections.abc import Mapping

import narwhals as nw

from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import Tables
from recsys_assets.recommender.evaluation.score_table import SELECTED
from recsys_assets.recommender.registry import Entry, Task

# Trials are compared by their values: an interval for each would take longer than some fits.
_NO_INTERVALS = 1


def validation_scores(
    task: Task, tables: Tables, predictions: Mapping[Entry, nw.LazyFrame], *, model: str, seed: int = 0
) -> dict[str, dict[str, float]]:
    """By population, then metric.

    Args:
        task: of the model.
        tables: of the slice.
        predictions: of the model; of item mean too where ratings are predicted.
        model: whose scores.
        seed: of ties.
    """
    protocol = "latest_rating" if task == "next_movie" else task
    selected = dict.fromkeys((protocol, task), model)
    measured = protocols.measured(protocol, tables, predictions, selected=selected, seed=seed)
    rows = measured.scores(seed=seed, n_resamples=_NO_INTERVALS).filter(model=SELECTED)
    scores: dict[str, dict[str, float]] = {}
    for population, metric, value in rows.select("population", "metric", "value").iter_rows():
        scores.setdefault(population, {})[metric] = value
    return scores
