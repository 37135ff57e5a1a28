"""Keeps a clock that is set back from stopping what runs by itself.

Dagster compares times of day. After the clock was set back by an hour its daemon sleeps for an hour, and sensors and
schedules, which record when they ticked last, wait as long even after a new start.
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

# A time server corrects smaller differences, which delay the daemon by no more than that.
_NOTICED_SECONDS = 5.0
_TIMES: dict[type[object], tuple[str, ...]] = {
    SensorInstigatorData: ("last_tick_timestamp", "last_tick_start_timestamp", "last_tick_success_timestamp"),
    ScheduleInstigatorData: ("start_timestamp", "last_iteration_timestamp"),
}


class Clock:
    """Tells whether the time of day was set back since it was asked last."""

    def __init__(self) -> None:
        self._ahead = _ahead()

    def was_set_back(self) -> bool:
        """Whether it was, by more than a correction that nobody notices."""
        before, self._ahead = self._ahead, _ahead()
        return self._ahead < before - _NOTICED_SECONDS


def forget_the_future(instance: dg.DagsterInstance) -> None:
    """Take ticks and times that are still to come out of the records of sensors and schedules.

    No daemon may use the instance meanwhile. Cursors stay, so nothing is asked for twice.
    """
    now = time.time()
    for state in instance.all_instigator_state():
        data: Any = state.instigator_data
        times = {name: getattr(data, name) for name in _TIMES.get(type(data), ())}
        if late := {name: now for name, when in times.items() if when and when > now}:
            instance.update_instigator_state(state.with_data(data._replace(**late)))
    ticks = instance.schedule_storage
    assert isinstance(ticks, SqlScheduleStorage)
    # The latest tick by its time is the one that Dagster goes on from.
    is_to_come = JobTickTable.c.timestamp > datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    with ticks.connect() as connection:
        connection.execute(JobTickTable.delete().where(is_to_come))


def _ahead() -> float:
    """How far the time of day is ahead of a clock that nobody sets."""
    return time.time() - time.monotonic()
