"""Jobs: the assets that run together. `sensors`, `schedules` and `planning` decide when a job runs."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind

_INGEST = dg.AssetSelection.groups("ingest")
# A run has one partitions definition. These two groups have their own (cut-offs, protocols), so the jobs over batches
# cannot include them.
_BACKTEST = dg.AssetSelection.groups("backtest")
_STUDY = dg.AssetSelection.groups("study")
_PIPELINE = dg.AssetSelection.all() - _BACKTEST - _STUDY

_SERVED = dg.AssetSelection.assets(
    "user_features", "user_clusters", "serving_model", "recommendations", "similar_items"
)

ingest = dg.define_asset_job(
    "ingest",
    selection=_INGEST,
    description="Reads batches and merges them into `users`, `items` and `ratings`. Launch it with a batch or a range "
    "of batches; without either Dagster starts a run that fails.",
)
refresh = dg.define_asset_job(
    "refresh",
    selection=_PIPELINE - _INGEST,
    description="Makes all assets after `ratings`: splits, models, scores, report, recommendations. Needs no batch.",
)
recommend = dg.define_asset_job(
    "recommend",
    selection=_SERVED,
    description="Makes recommendations from the present ratings with the configuration in use, so that new users do "
    "not wait for scores. Scores and promotes nothing.",
)
refresh_served = dg.define_asset_job(
    "refresh_served",
    selection=_SERVED | dg.AssetSelection.assets("train_ratings", "test_ratings", "promoted_configuration"),
    description="Makes the lists that users see: the gate compares the present settings with popularity and with the "
    "configuration in use, then the promoted model is fitted and recommends. All other models, the scores and the "
    "report stay as they are; `refresh` makes them.",
)
everything = dg.define_asset_job(
    "everything",
    selection=_PIPELINE,
    description="Ingests a batch or a range of batches, then refreshes everything after `ratings`. Without a batch "
    "Dagster starts a run that fails.",
)
backtest = dg.define_asset_job(
    "backtest",
    selection=_BACKTEST,
    description="Scores every rating model at the chosen cut-offs. For all cut-offs in one run, start a backfill of "
    "`backtest_scores`, or launch this job with the range 0.5 to 0.9.",
)

study = dg.define_asset_job(
    "study",
    selection=_STUDY,
    description="Chooses settings and models by validation, and scores every model under the chosen protocols. To run "
    "all protocols, launch the job with the range of all partitions, or run `recsys-assets study`. Trials are stored, "
    "so a stopped study continues from there.",
)


# The jobs that a sensor or schedule may request, by name.
REFRESHES = {job.name: job for job in (refresh_served, refresh)}


def jobs_of(kind: DataKind) -> Sequence[Any]:
    """The jobs of a kind of data; a backtest needs ratings with times."""
    jobs = [ingest, recommend, refresh_served, refresh, everything, study]
    return [*jobs, backtest] if kind == RATINGS_WITH_TIMES else jobs
