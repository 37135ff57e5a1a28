"""Jobs: the assets that run together. `sensors`, `schedules` and `planning` decide when a job runs."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster_shared.record import replace

from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.assets.common import sections_of
from recsys_assets.orchestration.resources import run_config_of
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


# Sections that a launchpad fills in if the job reads them. The panel beside the launchpad shows all.
_FILLED_IN = ("checks", "evaluation", "scale", "serving", "splitting", "study")
# Dagster stores this run config with every run of a job with partitions, and a re-execution uses it again. A batch that
# failed must be read with the settings that have been mended since.
_WITHOUT_RUN_CONFIG = (ingest.name, everything.name)

JOBS = {job.name: job for job in (ingest, recommend, refresh_served, refresh, everything, study, backtest)}
# The jobs that the settings of sensor and schedule may name.
REFRESHES = (refresh_served.name, refresh.name)


def jobs_of(kind: DataKind, assets: Sequence[dg.AssetsDefinition], settings: Settings) -> dict[str, Any]:
    """The jobs of a kind of data by name, each with the run config that its launchpad shows.

    A backtest needs ratings with times.

    Args:
        kind: the kind of data.
        assets: the assets of this kind.
        settings: of the home.
    """
    jobs = {name: job for name, job in JOBS.items() if job is not backtest or kind == RATINGS_WITH_TIMES}
    shown = {name: _sections(job, assets) for name, job in jobs.items() if name not in _WITHOUT_RUN_CONFIG}
    return jobs | {name: replace(jobs[name], config=run_config_of(settings, shown[name])) for name in shown}


def _sections(job: Any, assets: Sequence[dg.AssetsDefinition]) -> list[str]:
    """The settings sections that a run of a job reads, without those of the models, of which there are two dozen."""
    selected = job.selection.resolve(assets)
    specs = (spec for asset in assets for spec in asset.specs if spec.key in selected)
    read = {"checks"}.union(*map(sections_of, specs))
    return [name for name in _FILLED_IN if name in read]
