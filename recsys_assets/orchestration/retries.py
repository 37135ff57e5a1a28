"""Retries: the only module that decides which failures are retried.

A step is never retried. A run is retried once if a new process can help (docs/decisions/steps-are-not-retried.md).
`landing_watch` decides when the sensor requests another run for a batch.
"""

from collections.abc import Iterator

import dagster as dg

from recsys_assets.errors import RecsysError
from recsys_assets.orchestration.dagster_internals import MAX_RETRIES_TAG, RETRY_ON_ASSET_OR_OP_FAILURE_TAG

# Errors of Dagster and Python that a retry cannot fix. Errors of this project have an attribute `permanent`.
_PERMANENT = (dg.DagsterInvalidConfigError, dg.DagsterTypeCheckDidNotPass, FileNotFoundError)
# Errors that Py4J raises if the JVM dies during a call, and at each later call. Classes are compared by name, which
# saves an import of Py4J. An object store or PostgreSQL may raise one of the general ones; one retry in a new process
# does no harm there.
_LOST_JVM = {"Py4JNetworkError", "ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError"}
# A JVM that ends by SIGTERM first stops its Spark context. Calls that it still answers fail with one of these texts.
_STOPPED_CONTEXT = ("SparkContext was shut down", "stopped SparkContext")
# A Spark Connect server that is gone; one that has started again, and does not know the session.
_LOST_SERVER = ("StatusCode.UNAVAILABLE", "INVALID_HANDLE.SESSION")


def is_permanent(error: BaseException) -> bool:
    """Whether a retry is useless until a person changes something."""
    return any(
        cause.permanent if isinstance(cause, RecsysError) else isinstance(cause, _PERMANENT) for cause in _chain(error)
    )


def is_lost_jvm(error: BaseException) -> bool:
    """Whether the JVM of a step died. Every later step of the same process would fail on the same dead gateway."""
    return any(
        type(cause).__name__ in _LOST_JVM or any(text in str(cause) for text in (*_STOPPED_CONTEXT, *_LOST_SERVER))
        for cause in _chain(error)
    )


@dg.failure_hook(name="decide_on_retry")
def decide_on_retry(context: dg.HookContext) -> None:
    """Tell the daemon by run tags whether to retry a run whose step failed.

    Without these tags, the daemon retries a run once if its worker died, and never if a step failed.
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
        # An error that `raise … from None` hides was handled: it is not the cause of the failure.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
