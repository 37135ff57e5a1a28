"""Keeps automation alive if the system clock is set back.

Dagster measures intervals by the system clock. If the clock is set back by an hour, Dagster's daemon sleeps for an
hour. Sensors and schedules record their last tick, so they wait that hour even after a restart.
"""

import time
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from recsys_assets.orchestration.dagster_internals import (
    JobTickTable,
    ScheduleInstigatorData,
    SensorInstigatorData,
    SqlScheduleStorage,
)

# Smaller corrections by a time server delay the daemon by no more than this.
_NOTICED_SECONDS = 5.0
_TIMES: dict[type[object], tuple[str, ...]] = {
    SensorInstigatorData: ("last_tick_timestamp", "last_tick_start_timestamp", "last_tick_success_timestamp"),
    ScheduleInstigatorData: ("start_timestamp", "last_iteration_timestamp"),
}


class Clock:
    """Detects that the system clock was set back."""

    def __init__(self) -> None:
        self._ahead = _ahead()

    def was_set_back(self) -> bool:
        """Whether the clock was set back by more than 5 seconds since the last call."""
        before, self._ahead = self._ahead, _ahead()
        return self._ahead < before - _NOTICED_SECONDS


def forget_the_future(instance: dg.DagsterInstance) -> None:
    """Delete future ticks, and set future times to now, in the records of sensors and schedules.

    No daemon may use the instance during this call. Cursors stay, so no run is requested twice.
    """
    now = time.time()
    for state in instance.all_instigator_state():
        data: Any = state.instigator_data
        times = {name: getattr(data, name) for name in _TIMES.get(type(data), ())}
        if late := {name: now for name, when in times.items() if when and when > now}:
            instance.update_instigator_state(state.with_data(data._replace(**late)))
    ticks = instance.schedule_storage
    assert isinstance(ticks, SqlScheduleStorage)
    # Dagster continues from the tick with the latest time.
    is_to_come = JobTickTable.c.timestamp > datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    with ticks.connect() as connection:
        connection.execute(JobTickTable.delete().where(is_to_come))


def _ahead() -> float:
    """Seconds by which the system clock is ahead of the monotonic clock, which nobody can set."""
    return time.time() - time.monotonic()
