"""Which failures are tried again, by what, and which never: the one place that says so.

Steps are never retried; a run is, once, where a new process can help. docs/decisions/steps-are-not-retried.md gives the
reasons. When the sensors ask again is decided in `landing_watch`.
"""

from collections.abc import Iterator

import dagster as dg

from recsys_assets.errors import RecsysError
from recsys_assets.orchestration.dagster_internals import MAX_RETRIES_TAG, RETRY_ON_ASSET_OR_OP_FAILURE_TAG

# Errors of others that a person has to mend first, beside the permanent ones of this project.
_PERMANENT = (dg.DagsterInvalidConfigError, dg.DagsterTypeCheckDidNotPass, FileNotFoundError)
# What Py4J raises when the JVM is gone: at the call during which it died, and at each call after that. By name, so that
# nobody imports Py4J to ask; no other part of a run talks over connections.
_LOST_JVM = {"Py4JNetworkError", "ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError"}


def is_permanent(error: BaseException) -> bool:
    """Whether trying again without a change by a person is in vain."""
    return any(
        cause.permanent if isinstance(cause, RecsysError) else isinstance(cause, _PERMANENT) for cause in _chain(error)
    )


def is_lost_jvm(error: BaseException) -> bool:
    """Whether the JVM died under a step. Another step of the same process would meet the same dead gateway."""
    return any(type(cause).__name__ in _LOST_JVM for cause in _chain(error))


@dg.failure_hook(name="decide_on_retry")
def decide_on_retry(context: dg.HookContext) -> None:
    """Tell the daemon, by tags of the run, what to do about the failure of a step.

    Untagged, a run that failed by a step is not tried again, and one whose worker died is, once.
    """
    error = context.op_exception
    if error is None or context.instance.is_ephemeral:
        return
    if is_permanent(error):
        context.instance.add_run_tags(context.run_id, {MAX_RETRIES_TAG: "0"})
    elif is_lost_jvm(error):
        context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # What `raise … from None` hides was handled, and is not why it failed.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
