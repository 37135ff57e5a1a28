"""Scores one model on the validation rows of a split, with the functions that score test rows.

Choosing by these scores belongs in `tuning`.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import narwhals as nw
import numpy as np

from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.bootstrap import resampled_scores
from recsys_assets.recommender.evaluation.protocols import Tables
from recsys_assets.recommender.evaluation.score_table import SELECTED
from recsys_assets.recommender.registry import Entry, Task

# One resample, because confidence intervals of all metrics take longer than some fits.
_NO_INTERVALS = 1
# Resamples of the deciding metrics: enough for an interval, few enough to store with every trial.
_N_RESAMPLES = 400
_DIGITS = 7
# The same for every trial, because trials of different studies are compared resample by resample.
_SEED = 0


class ValidationScores(NamedTuple):
    """The scores of a model on a split.

    Attributes:
        scores: scores by population, then metric.
        resampled: bootstrap scores of the deciding metrics by population, then metric. Every model has the same
            resamples of the users.
    """

    scores: dict[str, dict[str, float]]
    resampled: dict[str, dict[str, list[float]]]


def validation_scores(
    task: Task,
    tables: Tables,
    predictions: Mapping[Entry, nw.LazyFrame],
    *,
    model: str,
    judged_by: Collection[str],
) -> ValidationScores:
    """The scores of a model on the validation rows.

    Args:
        task: task of the model.
        tables: tables of the split.
        predictions: predictions of the model; for rating tasks also of the item mean.
        model: name of the scored model.
        judged_by: names of the metrics that are resampled.
    """
    protocol = "latest_rating" if task == "next_item" else task
    selected = dict.fromkeys((protocol, task), model)
    measured = protocols.measured(protocol, tables, predictions, selected=selected, seed=_SEED)
    rows = measured.scores(seed=_SEED, n_resamples=_NO_INTERVALS).filter(model=SELECTED)
    scores: dict[str, dict[str, float]] = {}
    for population, metric, value in rows.select("population", "metric", "value").iter_rows():
        scores.setdefault(population, {})[metric] = value
    metrics = [metric for metric in measured.metrics[SELECTED] if metric.name in judged_by]
    resampled: dict[str, dict[str, list[float]]] = {}
    for population, users in measured.populations.items():
        drawn = resampled_scores(metrics, users, seed=_SEED, n_resamples=_N_RESAMPLES)
        resampled[population] = {
            metric.name: np.round(values[1:], _DIGITS).tolist()
            for metric, values in zip(metrics, drawn, strict=True)
            if metric.name in scores.get(population, {})
        }
    return ValidationScores(scores, resampled)
