"""The asset graph, one module per stage.

An asset body takes tables and models, calls `recommender` and returns the result with its metadata. Loops and formulas
belong in `recommender`, storage in `io_managers`.
"""

from collections.abc import Sequence

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

ASSETS: Sequence[dg.AssetsDefinition] = [
    *ingest.ASSETS,
    *splitting.ASSETS,
    *clusters.ASSETS,
    *cold_start.ASSETS,
    *choice.ASSETS,
    *models.ASSETS,
    *segments.ASSETS,
    *evaluation.ASSETS,
    *promotion.ASSETS,
    *serving.ASSETS,
    *backtest.ASSETS,
    *study.ASSETS,
]
