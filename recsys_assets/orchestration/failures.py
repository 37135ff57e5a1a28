"""Failures in words: why a step or a run failed, without Dagster's wrapping. `retries` decides what is retried."""

from collections.abc import Iterator

import dagster as dg

from recsys_assets.orchestration.dagster_internals import (
    DagsterAssetCheckFailedError,
    JobFailureData,
    SerializableErrorInfo,
)
from recsys_assets.recommender.data.characters import visible

# Long enough for the first 20 rejected rows of a batch.
_LONGEST_REASON = 4_000


def reason(error: SerializableErrorInfo | None) -> str:
    """Why a step failed, in one paragraph: the error that the asset raised, without Dagster's wrapping.

    Errors of this project are written for people and stand alone. Any other error follows the name of its class.
    """
    if error is None:
        return "no reason given"
    if error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
        return "it was interrupted"
    while error.cause and str(error.cls_name).startswith("Dagster"):
        error = error.cause
    qualified, _, text = error.message.strip().partition(": ")
    told = text if qualified.startswith("recsys_assets.") else f"{error.cls_name}: {text or qualified}"
    return told if len(told) <= _LONGEST_REASON else f"{told[:_LONGEST_REASON]} …"


def asset_name(step: str) -> str:
    """The name of the asset that a step makes, from the name of the step."""
    return step.replace("__", "/")


def is_of_a_check(error: SerializableErrorInfo | None) -> bool:
    """Whether a step failed because of an asset check. The result of the check then says more than the error."""
    return error is not None and error.cls_name == DagsterAssetCheckFailedError.__name__


def step_failures(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, SerializableErrorInfo | None]]:
    """Name and error of each failed step of a run, in order. Steps that never started are left out."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        if (event := entry.dagster_event) is not None:
            yield asset_name(event.step_key or ""), event.step_failure_data.error


def causes(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Why a run failed, in words: errors of its steps, else the error before its first step, else Dagster's message."""
    if of_steps := [f"{step}: {reason(error)}" for step, error in step_failures(instance, run.run_id)]:
        return of_steps
    logged = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    events = [event for event in logged if event is not None]
    errors = [event.engine_event_data.error for event in events if event.is_engine_event]
    ends = [event for event in events if event.is_job_failure]
    # An end that was reported from outside of the run, for example because its settings could not be read, has no data.
    errors += [data.error for event in ends if isinstance(data := event.event_specific_data, JobFailureData)]
    told = [reason(error) for error in errors if error] or [event.message for event in ends if event.message]
    return told[:1] or (["its process died"] if run.status == dg.DagsterRunStatus.FAILURE else [])


def one_line(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """One line about a failed run: job and batches, whether it is retried, and the reason.

    Args:
        instance: the instance with the run.
        run: the failed run.
    """
    why = causes(instance, run)
    more = f" (and {len(why) - 1} more)" if len(why) > 1 else ""
    tags = run.tags
    first, last = (tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    batches = f" of {first}" + (f" to {last}" if last != first else "") if first else ""
    following = "retried automatically" if tags.get("dagster/will_retry") == "true" else "not retried automatically"
    told = f"{run.job_name}{batches} failed, {following}: {why[0]}{more}; run {run.run_id}"
    return " ".join(visible(told).split())
