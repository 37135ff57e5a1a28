"""Schedules: runs that start at fixed times. `sensors` start runs after a change."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from recsys_assets.home.layout import Home
from recsys_assets.home.running import AutomationSettings
from recsys_assets.orchestration.jobs import JOBS, REFRESHES, everything, refresh_served
from recsys_assets.orchestration.repeats import SCHEDULED_TAG
from recsys_assets.orchestration.sensors import UNFINISHED, is_chosen, why_invalid


def build_schedules(
    home: Home,
    settings: AutomationSettings,
    jobs: Mapping[str, Any] = JOBS,
    outdated: Callable[[], str] = lambda: "",
) -> list[dg.ScheduleDefinition]:
    """The schedules of a home. Settings say whether they are on by default.

    Args:
        home: the home.
        settings: settings of the schedules.
        jobs: the jobs of the definitions, by name.
        outdated: returns why no run may be requested from the loaded asset graph; empty if one may.
    """

    @dg.schedule(
        job=jobs[settings.schedule_job],
        name="weekly_refresh",
        cron_schedule=settings.cron,
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.schedule else dg.DefaultScheduleStatus.STOPPED,
        description=f"Requests `{settings.schedule_job}`, with or without new data.",
    )
    def weekly_refresh(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if refused := outdated() or why_invalid(context.instance):
            return dg.SkipReason(refused)
        if settings.schedule_job == refresh_served.name and not is_chosen(home):
            return dg.SkipReason(
                "no configuration is in use yet, so there is nothing to refresh. Next: recsys-assets run"
            )
        at_work = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        if any(run.job_name in (*REFRESHES, everything.name) for run in at_work):
            return dg.SkipReason("a refresh is in progress")
        return dg.RunRequest(tags={SCHEDULED_TAG: context.scheduled_execution_time.isoformat()})

    return [weekly_refresh]
