"""Assembles assets, checks, jobs and resources into Dagster definitions."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from recsys_assets.assets import ASSETS
from recsys_assets.checks import CHECKS
from recsys_assets.home import Home
from recsys_assets.io_managers import AssetIOManager
from recsys_assets.jobs import JOBS
from recsys_assets.resources import HomeResource, settings_resource, spark_resource
from recsys_assets.settings import Settings

_EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}


def build_defs(
    *,
    home: Home | None = None,
    settings: Settings | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """The whole pipeline for one home.

    Args:
        home: where everything lies; by default that of RECSYS_HOME or the checkout.
        settings: by default the home's.
        resource_overrides: resources to put in the place of `io_manager`, `home`, `settings` or `spark`.

    Raises:
        SettingsError: the home's settings cannot be used.
    """
    home = home or Home.resolve()
    settings = settings or Settings.load(home)
    spark = spark_resource(settings.spark)
    resources = {
        "home": HomeResource(path=str(home.path)),
        "settings": settings_resource(settings),
        "spark": spark,
        "io_manager": AssetIOManager(root=str(home.assets), engine=settings.engine, spark=spark),
        **(resource_overrides or {}),
    }
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=CHECKS,
        jobs=JOBS,
        resources=resources,
        executor=_EXECUTORS[settings.run.executor],
    )
