"""Sections of the settings that say how a home is run: Spark, executor, automation and run history.

They are in `home`, because Dagster's processes and the command line read them before any model is loaded.
"""

import re
from datetime import datetime
from typing import Literal
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator

from recsys_assets.recommender.data.sections import Section

_CRON_FIELDS = 5


class SparkSettings(Section):
    """The Spark session. With engine = "spark" it starts with the run, with "auto" at the first large table."""

    remote: str = Field(
        "",
        description="Address of a Spark Connect server, such as 'sc://host:15002'; empty: a Spark session at `master`. "
        "With a server, `master` and `driver_memory` have no effect, and this machine needs no Java.",
    )
    master: str = Field("local[*]", description="Spark master; 'spark://host:7077' for a cluster.")
    driver_memory: str = Field("4g", description="Memory of the driver; on one machine, the memory of all of Spark.")
    shuffle_partitions: int = Field(4, ge=1, description="Partitions of a shuffle; Spark's 200 are for large clusters.")
    config: dict[str, str] = Field(default_factory=dict, description="Further Spark properties.")

    @field_validator("remote")
    @classmethod
    def _is_an_address(cls, remote: str) -> str:
        if remote and not remote.startswith("sc://"):
            raise ValueError("the address of a Spark Connect server, such as sc://host:15002")
        return remote


class RunSettings(Section):
    """Execution of runs."""

    executor: Literal["in_process", "multiprocess"] = Field(
        "in_process",
        description="in_process: one process for all steps; multiprocess: a process per step, which on "
        "Spark starts a session of its own.",
    )


Refresh = Literal["refresh_served", "refresh"]


class AutomationSettings(Section):
    """Automation while `recsys-assets serve` runs. A changed setting takes effect at the next start."""

    sensors: bool = Field(True, description="Watch landing/ for new data, and refresh when the ratings have changed.")
    sensor_job: Refresh = Field(
        "refresh_served",
        description="Job that new data start: `refresh_served` makes the lists that users see; `refresh` also fits and "
        "scores all other models and writes the report. The first run is always `refresh`.",
    )
    schedule: bool = Field(True, description="Refresh at the times of `cron`.")
    schedule_job: Refresh = Field("refresh", description="Job that starts at the times of `cron`.")
    tick_seconds: int = Field(5, ge=1, description="Seconds between two ticks of the sensors.")
    quiet_seconds: float = Field(5, ge=0, description="Seconds without a change after which a landed file is read.")
    cron: str = Field(
        "0 3 * * 0", description="Cron schedule of the refresh, which runs with or without new data: Sundays at 3."
    )
    time_zone: str = Field("UTC", description="Time zone of `cron`, such as Europe/Berlin.")

    @field_validator("cron")
    @classmethod
    def _cron_is_one(cls, cron: str) -> str:
        # Dagster's own check would import Dagster, which most commands never need.
        try:
            CronSim(cron, datetime.now())
        except CronSimError:
            is_valid = False
        else:
            is_valid = len(cron.split()) == _CRON_FIELDS
        if not is_valid:
            raise ValueError("five fields: minute, hour, day of the month, month, day of the week")
        return cron

    @field_validator("time_zone")
    @classmethod
    def _time_zone_exists(cls, time_zone: str) -> str:
        if time_zone not in available_timezones():
            raise ValueError("a name such as UTC or Europe/Berlin")
        return time_zone


class InstanceSettings(Section):
    """Dagster's instance: where the run history is, and the owners that the UI names."""

    postgres_url_env: str = Field(
        "",
        description="Name of the environment variable that holds the URL of a PostgreSQL database, such as "
        "RECSYS_PG_URL; empty: files below dagster/ in the home.",
    )
    owners: list[str] = Field(
        default_factory=list,
        description="Owners of all assets in the UI, such as ['team:data', 'ana@example.org']; empty: none.",
    )

    @field_validator("owners")
    @classmethod
    def _are_owners(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not re.fullmatch(r"team:\w+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
                raise ValueError(f"{owner!r} is neither an e-mail address nor team:NAME")
        return owners

    @field_validator("postgres_url_env")
    @classmethod
    def _is_the_name_of_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("has to be the name of an environment variable; the URL itself belongs in the variable")
        return name


class HistorySettings(Section):
    """How long finished runs and their logs are kept. Records that assets and checks need are always kept."""

    keep_days: float = Field(30, ge=0, description="Days after which a finished run is deleted.")
    keep_runs: int = Field(50, ge=1, description="Largest number of finished runs that are kept, the newest ones.")
