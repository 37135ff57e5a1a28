"""Resources of runs: settings, folders of the home, Spark session. `io_managers` stores the results of assets."""

import atexit
import os
import shutil
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pydantic import BaseModel, Field, PrivateAttr, create_model

from recsys_assets.home.java import check_java
from recsys_assets.home.layout import Home
from recsys_assets.home.running import SparkSettings
from recsys_assets.home.settings import Settings
from recsys_assets.home.unfinished import left_behind
from recsys_assets.recommender.registry import DERIVED, FITS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class HomeResource(dg.ConfigurableResource):
    """The home folder, and a scratch folder that is deleted when the process has finished the run."""

    path: str = Field(description="The home folder, absolute.")
    _scratch: Path = PrivateAttr()

    @property
    def folders(self) -> Home:
        """The paths below the home."""
        return Home(Path(self.path))

    @property
    def scratch(self) -> Path:
        """A folder for temporary files of this process, deleted after the run."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Choose the scratch folder, and delete the scratch folders of killed processes."""
        run = context.run.run_id if context.run else "no-run"
        self._scratch = self.folders.scratch / f"{run}-{os.getpid()}"
        for left in left_behind(self.folders.scratch.glob("*")):
            shutil.rmtree(left, ignore_errors=True)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Delete the scratch folder."""
        del context
        shutil.rmtree(self._scratch, ignore_errors=True)


def fixed(resource: dg.ConfigurableResource | dg.ConfigurableIOManager) -> dg.ResourceDefinition:
    """A resource without run config: a launch that sets one of its fields is refused.

    Otherwise anybody who can launch a run could make it write to another folder, or make Spark load other code.
    """
    if isinstance(resource, dg.ConfigurableIOManager):
        return dg.IOManagerDefinition(lambda: resource, config_schema={})

    @contextmanager
    def for_one_run(context: dg.InitResourceContext) -> Iterator[object]:
        with resource.yield_for_execution(context) as ready:
            yield ready

    return dg.ResourceDefinition(for_one_run, config_schema={}, description=type(resource).__doc__)


# Read when the code location or `serve` starts: in a launch they would have no effect, and hide what has one.
_READ_BEFORE_RUNS = ("automation", "engine", "history", "instance", "run", "spark")
# The launchpad lists sections by name: those of two dozen models, of files and of a study would come before those that
# concern every run. A launch may set them, and the panel beside the launchpad shows them.
_NOT_FILLED_IN = {"data", "study", *(step.settings for steps in (FITS, DERIVED) for step in steps)}
_NOT_IN_A_LAUNCH = (*_READ_BEFORE_RUNS, "spark_from_rows")


def settings_resource(settings: Settings) -> dg.ResourceDefinition:
    """The settings of the home as a resource. The run config of a launch may override each setting that runs read."""

    def overridden(context: dg.InitResourceContext) -> Settings:
        given = {
            name: {**part, **context.resource_config.get(name, {})} if isinstance(part, dict) else part
            for name, part in settings.model_dump().items()
        }
        return Settings.model_validate(given)

    sections = _config_class(settings, without=_NOT_IN_A_LAUNCH).to_fields_dict()
    for name in _NOT_FILLED_IN & sections.keys():
        section = sections[name]
        sections[name] = dg.Field(section.config_type, is_required=False, description=section.description)
    return dg.ResourceDefinition(
        overridden,
        config_schema=sections,
        description="Settings of this home: built-in defaults, settings.toml, environment, then this configuration. "
        "Other sections can be added, such as als: rank: 20.",
    )


def run_config_of(settings: Settings, sections: Iterable[str]) -> dict[str, Any]:
    """Run config with the present values of sections, as far as a launch may override them."""
    values = {name: getattr(settings, name).model_dump(mode="json", exclude={*_NOT_IN_A_LAUNCH}) for name in sections}
    return {"resources": {"settings": {"config": values}}}


def _config_class(section: BaseModel, without: Collection[str] = ()) -> type[dg.Config]:
    """A Dagster config class with the section's present values as defaults, so that one override keeps the rest."""
    fields: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if name in without:
            continue
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            nested = _config_class(value, without)
            fields[name] = (nested, Field(default_factory=nested, description=type(value).__doc__))
        else:
            fields[name] = (field.annotation, Field(default=value, description=field.description))
    return create_model(type(section).__name__, __base__=dg.Config, **fields)


_LOCAL = {
    # Otherwise a local session would listen on the network.
    "spark.driver.host": "127.0.0.1",
    # By default Spark gives its only executor up after two minutes without a heartbeat: when a laptop has slept.
    "spark.network.timeout": "86400s",
    # Otherwise the JVM keeps the heap of its largest fit while Python steps need the memory.
    "spark.driver.extraJavaOptions": "-XX:G1PeriodicGCInterval=15000 -XX:MinHeapFreeRatio=10 -XX:MaxHeapFreeRatio=20",
}


def spark_resource(settings: SparkSettings, scratch: Path) -> LazyPySparkResource:
    """The Spark session of a process: a JVM of its own, or a session of a Spark Connect server.

    The session starts at its first use; see `session_of`.

    Args:
        settings: the section `spark`.
        scratch: folder for temporary files that the driver and the executors can reach.
    """
    # Otherwise Python workers would be the first python3 of PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return LazyPySparkResource(
        spark_config={
            **(_of_server(settings) if settings.remote else _of_own_jvm(settings, scratch)),
            "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
            # With another time zone or Parquet type, timestamps would differ between Spark and Polars.
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
            "spark.sql.execution.arrow.pyspark.enabled": "true",
            **settings.config,
        }
    )


def _of_server(settings: SparkSettings) -> dict[str, str]:
    # The server fixes all static properties. `spark.master` beside `spark.remote` is an error.
    return {"spark.remote": settings.remote}


def _of_own_jvm(settings: SparkSettings, scratch: Path) -> dict[str, str]:
    return {
        "spark.master": settings.master,
        "spark.app.name": "recsys_assets",
        "spark.driver.memory": settings.driver_memory,
        # ALS needs checkpoints: otherwise every task unrolls all iterations before it, which from about 15 on can
        # overflow the stack.
        "spark.checkpoint.dir": str(scratch / f"spark-{os.getpid()}"),
        # ALS hands its factors to the driver, and Spark's limit of 1 GiB would end a large fit.
        "spark.driver.maxResultSize": "0",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        **(_LOCAL if settings.master.startswith("local") else {}),
    }


def session_of(spark: LazyPySparkResource) -> "SparkSession":
    """The Spark session of this process; the first call starts it.

    Raises:
        JavaError: Java is missing or too old for a JVM of this process; the message says what to install.
    """
    if "spark.remote" not in spark.spark_config:
        check_java()
        _delete_at_exit(spark.spark_config["spark.checkpoint.dir"])
    return spark.spark_session


@cache
def _delete_at_exit(folder: str) -> None:
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def start_early(spark: LazyPySparkResource) -> None:
    """Start the Spark session in a thread, because a JVM takes seconds to start.

    A session of a Spark Connect server starts in the thread of the steps: PySpark's ML finds it in that thread only.
    """
    if "spark.remote" in spark.spark_config:
        return

    def start() -> None:
        # The step that needs the session raises the same error and reports it.
        with suppress(Exception):
            session_of(spark)

    threading.Thread(target=start, daemon=True).start()
