"""Assembles assets, checks, jobs, sensors, schedules and resources into Dagster definitions.

The code location, the command line and the tests all call `build_defs`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from recsys_assets.home import remote
from recsys_assets.home.data_kind import data_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.upgrade import bring_up_to_date
from recsys_assets.orchestration.assets import assets_of
from recsys_assets.orchestration.assets.common import with_settings
from recsys_assets.orchestration.checks import checks_of
from recsys_assets.orchestration.io_managers import AssetIOManager
from recsys_assets.orchestration.jobs import jobs_of
from recsys_assets.orchestration.locking import locked_executor
from recsys_assets.orchestration.policies import with_policies
from recsys_assets.orchestration.resources import HomeResource, fixed, settings_resource, spark_resource, start_early
from recsys_assets.orchestration.schedules import build_schedules
from recsys_assets.orchestration.sensors import build_sensors, done_meanwhile
from recsys_assets.recommender.data.kind import DataKind

_EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}


def build_defs(
    *,
    home: Home | None = None,
    settings: Settings | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """The definitions of the whole pipeline for one home.

    Args:
        home: the home; by default the home of RECSYS_HOME or of the checkout.
        settings: settings; by default the home's.
        resource_overrides: resources that replace `io_manager`, `home` or `settings`.

    Raises:
        SettingsError: the home's settings cannot be used.
        HomeError: the home is of a later version, or of an earlier one and in use; or the stored kind of its data
            cannot be read.
    """
    home = home or Home.resolve()
    remote.pull(home.path)
    bring_up_to_date(home)
    settings = settings or Settings.load(home)
    kind = data_kind(home, settings.data)
    outdated = partial(_outdated, kind, home, settings)
    spark = spark_resource(settings.spark, home.scratch)
    resources = {
        "home": fixed(HomeResource(path=str(home.path))),
        "settings": settings_resource(settings),
        "io_manager": fixed(
            AssetIOManager(
                root=str(home.assets),
                engine=settings.engine,
                spark_from_rows=settings.scale.spark_from_rows,
                spark=spark,
            )
        ),
        **(resource_overrides or {}),
    }
    assets = assets_of(kind)
    jobs = jobs_of(kind, assets, settings)
    return dg.Definitions(
        assets=with_policies([with_settings(asset, settings) for asset in assets]),
        asset_checks=checks_of(kind),
        jobs=list(jobs.values()),
        sensors=build_sensors(home, settings.automation, jobs, outdated),
        schedules=build_schedules(home, settings.automation, jobs, outdated),
        resources=resources,
        executor=_executor(settings, home, spark),
    )


def _outdated(kind: DataKind, home: Home, settings: Settings) -> str:
    """Why definitions of a kind of data may start no run: the home now has another kind; empty if it has not."""
    if data_kind(home, settings.data) == kind:
        return ""
    return (
        "the landed data are of another kind than the loaded asset graph. Reload the code location, or restart "
        "`recsys-assets serve`"
    )


def _executor(settings: Settings, home: Home, spark: LazyPySparkResource) -> dg.ExecutorDefinition:
    chosen = _EXECUTORS[settings.run.executor]
    # Each step of the multiprocess executor has its own process and Spark session, so an early start would be useless.
    # With the engine `auto`, only the tables tell whether Spark is needed.
    if settings.run.executor == "in_process" and settings.engine == "spark":
        return locked_executor(chosen, home, partial(start_early, spark), done_meanwhile)
    return locked_executor(chosen, home, needless=done_meanwhile)
