"""Repeats of failed refreshes: whether and when `retrain_sensor` requests a failed automatic refresh again.

`retries` decides which failures are permanent, and what the daemon retries at once in a new process. `landing_watch`
does for batches what this module does for refreshes. docs/reference/faults.md has the table.
"""

from dataclasses import dataclass

import dagster as dg

from recsys_assets.orchestration.dagster_internals import MAX_RETRIES_TAG
from recsys_assets.orchestration.failures import causes, is_of_a_check, step_failures
from recsys_assets.orchestration.jobs import REFRESHES, refresh_served

# Tag of the runs that `retrain_sensor` requests: the content of the merged tables and the settings.
CONTENT_TAG = "recsys/content"
# Tag of the runs that the schedule requests: the scheduled time.
SCHEDULED_TAG = "recsys/scheduled"
# Tag of repeated runs: 1 for the first repeat.
REPEAT_TAG = "recsys/repeat"
# A full disk is often fixed the next morning. The pauses add up to 23 hours, and no fault costs more than 7 runs.
_PAUSES_MINUTES = (1, 4, 16, 64, 256, 1_024)
# Newer runs of a person do not hide a failed automatic run, unless they are many.
_LOOKED_BACK = 20


@dataclass(frozen=True)
class Repeat:
    """The answer about a failed refresh.

    Attributes:
        request: the run to request now; None if none is due.
        told: why none is due, for the tick; empty if no automatic refresh has failed.
    """

    request: dg.RunRequest | None = None
    told: str = ""


def repeat_of(instance: dg.DagsterInstance, content: str, now: float) -> Repeat:
    """The next repeat of the newest failed automatic refresh, unless a later refresh made up for it.

    Args:
        instance: the instance with the runs.
        content: present value of `CONTENT_TAG`. A run that another content triggered is not repeated.
        now: seconds since 1970.
    """
    answers = [_answer(instance, record, now) for record in _newest_automatic(instance, content)]
    due = [answer for answer in answers if answer.request] or [answer for answer in answers if answer.told]
    return due[0] if due else Repeat()


def _answer(instance: dg.DagsterInstance, record: dg.RunRecord, now: float) -> Repeat:
    if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
        return Repeat()
    run = record.dagster_run
    cause = (causes(instance, run) or ["no reason given"])[0]
    failed = f"run {run.run_id} failed ({cause})"
    if is_to_stay(instance, run):
        return Repeat(told=f"{failed}; it is started again when data or settings have changed")
    done = int(run.tags.get(REPEAT_TAG, "0"))
    if done >= len(_PAUSES_MINUTES):
        return Repeat(
            told=f"{failed}, and so did {done} repeats; it is started again when data or settings have changed. Next: "
            "recsys-assets run"
        )
    ended, pause = record.end_time or record.update_timestamp.timestamp(), 60.0 * _PAUSES_MINUTES[done]
    # A clock that was set back does not make the pause longer.
    if now < ended + pause <= now + pause:
        return Repeat(told=f"{failed}; it is started again in {ended + pause - now:.0f} s")
    kept = {name: run.tags[name] for name in (CONTENT_TAG, SCHEDULED_TAG) if name in run.tags}
    return Repeat(
        dg.RunRequest(run_key=f"{run.run_id}-again", job_name=run.job_name, tags={**kept, REPEAT_TAG: str(done + 1)})
    )


def is_to_stay(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a failed run would fail again: its error is permanent, or a check refused a table."""
    return run.tags.get(MAX_RETRIES_TAG) == "0" or any(
        is_of_a_check(error) for _, error in step_failures(instance, run.run_id)
    )


def _newest_automatic(instance: dg.DagsterInstance, content: str) -> list[dg.RunRecord]:
    """The newest run of each refresh that a sensor or schedule requested, unless a later run made up for it.

    A successful `refresh` makes up for all runs before it, a successful `refresh_served` for runs of the same job.
    """
    records = [
        record
        for job in REFRESHES
        for record in instance.get_run_records(dg.RunsFilter(job_name=job), limit=_LOOKED_BACK)
    ]
    found, is_served_known = list[dg.RunRecord](), False
    for record in sorted(records, key=lambda each: -each.storage_id):
        run = record.dagster_run
        is_of_served = run.job_name == refresh_served.name
        if is_of_served and is_served_known:
            continue
        is_automatic = run.tags.get(CONTENT_TAG) == content or SCHEDULED_TAG in run.tags
        if is_automatic:
            found.append(record)
        if is_automatic or run.is_success or CONTENT_TAG in run.tags:
            if not is_of_served:
                return found
            is_served_known = True
    return found
