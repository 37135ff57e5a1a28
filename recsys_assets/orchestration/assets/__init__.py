"""The asset graph, one module per stage.

An asset body takes tables and models, calls `recommender` and returns the result with its metadata. Loops and formulas
belong in `recommender`, storage in `io_managers`.
"""

from collections.abc import Sequence
from functools import cache

import dagster as dg

from recsys_assets.orchestration.assets import (
    backtest,
    choice,
    clusters,
    cold_start,
    evaluation,
    ingest,
    models,
    promotion,
    segments,
    serving,
    splitting,
    study,
)
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind


@cache
def assets_of(kind: DataKind) -> Sequence[dg.AssetsDefinition]:
    """The assets that exist for a kind of data."""
    return (
        *ingest.ASSETS,
        *splitting.assets_of(kind),
        *clusters.ASSETS,
        *cold_start.assets_of(kind),
        *choice.ASSETS,
        *models.assets_of(kind),
        *segments.assets_of(kind),
        *evaluation.assets_of(kind),
        *promotion.assets_of(kind),
        *serving.ASSETS,
        *backtest.assets_of(kind),
        *study.assets_of(kind),
    )


# The assets of ratings with times: the whole graph.
ASSETS = assets_of(RATINGS_WITH_TIMES)
