"""What runs need from outside: the settings, the home's folders, the Spark session.

Storage of what assets return is `io_managers`.
"""

import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster_pyspark import LazyPySparkResource
from pydantic import BaseModel, Field, PrivateAttr, create_model

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings, SparkSettings


class HomeResource(dg.ConfigurableResource):
    """The home folder, and a scratch folder that lives as long as the process works on the run."""

    path: str = Field(description="The home folder, absolute.")
    _scratch: Path = PrivateAttr()

    @property
    def folders(self) -> Home:
        """The paths below the home."""
        return Home(Path(self.path))

    @property
    def scratch(self) -> Path:
        """A folder for temporary files; gone after the run, of which several processes may run steps."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Choose the scratch folder, and remove those that killed processes have left."""
        run = context.run.run_id if context.run else "no-run"
        self._scratch = self.folders.scratch / f"{run}-{os.getpid()}"
        for left in self.folders.scratch.glob("*-*-*-*-*-*"):
            if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
                shutil.rmtree(left, ignore_errors=True)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Remove it."""
        del context
        shutil.rmtree(self._scratch, ignore_errors=True)


def fixed(resource: dg.ConfigurableResource | dg.ConfigurableIOManager) -> dg.ResourceDefinition:
    """The resource as this home has it: a run configuration that sets one of its fields is refused.

    Otherwise whoever can launch a run could make it write into another folder, or make Spark load other code.
    """
    if isinstance(resource, dg.ConfigurableIOManager):
        return dg.IOManagerDefinition(lambda: resource, config_schema={})

    @contextmanager
    def for_one_run(context: dg.InitResourceContext) -> Iterator[object]:
        with resource.yield_for_execution(context) as ready:
            yield ready

    return dg.ResourceDefinition(for_one_run, config_schema={}, description=type(resource).__doc__)


def settings_resource(settings: Settings) -> dg.ResourceDefinition:
    """The settings of the home, each of which a launch may override in its run configuration."""

    def overridden(context: dg.InitResourceContext) -> Settings:
        return Settings.model_validate(context.resource_config)

    return dg.ResourceDefinition(
        overridden,
        config_schema=_config_class(settings).to_config_schema(),
        description="Settings of this home: built-in defaults, settings.toml, environment, then this configuration.",
    )


def _config_class(section: BaseModel) -> type[dg.Config]:
    """A Dagster config class whose defaults are the section's present values, so that overriding one keeps the rest."""
    fields: dict[str, Any] = {}
    for name, knob in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            nested = _config_class(value)
            fields[name] = (nested, Field(default_factory=nested, description=type(value).__doc__))
        else:
            fields[name] = (knob.annotation, Field(default=value, description=knob.description))
    return create_model(type(section).__name__, __base__=dg.Config, **fields)


def spark_resource(settings: SparkSettings) -> LazyPySparkResource:
    """The one Spark session of a process; the JVM starts when a step first asks for it."""
    return LazyPySparkResource(
        spark_config={
            "spark.master": settings.master,
            "spark.app.name": "recsys_assets",
            "spark.driver.memory": settings.driver_memory,
            "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
            # Times mean the same on both engines, and Parquet holds them as Polars reads them.
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
            "spark.sql.execution.arrow.pyspark.enabled": "true",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            # Driver and executors of a local session talk over the loopback interface only.
            **({"spark.driver.host": "127.0.0.1"} if settings.master.startswith("local") else {}),
            **settings.config,
        }
    )


def start_early(spark: LazyPySparkResource, ops: Iterable[dg.OpDefinition]) -> None:
    """Start the session beside the first steps of a run that will need it: a JVM takes seconds to start."""
    if not any("spark" in op.required_resource_keys for op in ops):
        return

    def start() -> None:
        # The step that needs the session meets the same error, and tells it.
        with suppress(Exception):
            _ = spark.spark_session

    threading.Thread(target=start, daemon=True).start()
