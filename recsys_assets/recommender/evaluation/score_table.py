"""The tidy table `evaluation_scores`: every metric of every model in every population, with confidence intervals.

The choice of metrics belongs in the protocols.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.bootstrap import Estimate, UserMetric, estimates

_TABLE = TABLES["evaluation_scores"]
BASELINE = "item_mean"
POPULARITY = "popularity"
# The metric that selects the ranking model in a study and decides on its promotion in the gate.
DECIDING = "ndcg_10"
# Models that the protocols add.
RANDOM, UPPER_BOUND, SELECTED = "random", "upper_bound", "selected"


def marked(scores: pl.DataFrame, shares: Mapping[str, float]) -> pl.DataFrame:
    """Adds the shares that the scores rest on as columns; a share of 1 gets no column."""
    return scores.with_columns(pl.lit(share).alias(name) for name, share in shares.items() if share < 1)


def check_models(models: Iterable[str], needed: Iterable[str]) -> None:
    """Refuses reserved model names, which would make rows ambiguous, and missing models.

    Raises:
        ValueError: a model has a reserved name, or a needed model is missing.
    """
    names = set(models)
    reserved = sorted(names & {RANDOM, UPPER_BOUND, SELECTED})
    if reserved:
        raise ValueError(f"models named {', '.join(reserved)}: these rows are computed here; rename the models")
    missing = sorted(set(needed) - names)
    if missing:
        raise ValueError(f"no predictions of {', '.join(missing)}; there are: {', '.join(sorted(names)) or 'none'}")


def score_table(
    protocol: str,
    metrics: Mapping[str, Sequence[UserMetric]],
    populations: Mapping[str, np.ndarray],
    *,
    seed: int,
    n_resamples: int,
) -> pl.DataFrame:
    """Every metric of every model in every population, with 95 % confidence intervals: table `evaluation_scores`.

    Args:
        protocol: name of the protocol.
        metrics: metrics by model, all on the same users.
        populations: by name, boolean masks of shape (users,).
        seed: random seed of the bootstrap.
        n_resamples: number of bootstrap resamples.
    """
    rows = [
        (protocol, model, population, metric.name, *estimate)
        for population, users in populations.items()
        for (model, metric), estimate in _estimates(metrics, population, users, seed, n_resamples)
        if estimate is not None
    ]
    frame = pl.DataFrame(rows, schema=list(_TABLE.columns), orient="row", infer_schema_length=None)
    return to_polars(conform(lazy(frame), _TABLE)).sort(_TABLE.order)


def _estimates(
    metrics: Mapping[str, Sequence[UserMetric]],
    population: str,
    users: np.ndarray,
    seed: int,
    n_resamples: int,
) -> Iterator[tuple[tuple[str, UserMetric], Estimate | None]]:
    """Pairs of (model, metric) and its estimate, for the metrics that this population has."""
    given = [
        (model, metric)
        for model, of_model in metrics.items()
        for metric in of_model
        if metric.populations is None or population in metric.populations
    ]
    drawn = estimates([metric for _, metric in given], users, seed=seed, n_resamples=n_resamples)
    return zip(given, drawn, strict=True)
