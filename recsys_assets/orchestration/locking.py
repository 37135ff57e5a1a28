"""One run at a time in a home: the lock that a run holds from its first step to its last.

The command line takes the same lock (`cli/run.py`); runs in its own process do not pass through these executors. The
operating system gives the lock back when its holder dies, so a dead run never keeps a home.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

from recsys_assets.home.layout import Home
from recsys_assets.orchestration.dagster_internals import (
    EngineEventData,
    ExecutionPlan,
    PlanOrchestrationContext,
    RetryMode,
    StepDependencyConfig,
    raise_interrupts_as,
)

# A run that waits can be terminated from the UI within this time.
_POLL_SECONDS = 1.0


# Told of the ops of a run when it begins to work.
Begin = Callable[[Iterable[dg.OpDefinition]], None]
# Why a run that has the lock need not do anything; empty if it is to work.
Needless = Callable[[dg.DagsterInstance, dg.DagsterRun], str]


class LockedExecutor(dg.Executor):
    """An executor that works only while it holds the home's lock; until then it waits.

    What it was asked for may be done by then: such a run ends well, without a step.
    """

    def __init__(self, inner: dg.Executor, lock: Path, begin: Begin, needless: Needless) -> None:
        self._inner, self._lock, self._begin, self._needless = inner, lock, begin, needless

    @property
    def retries(self) -> RetryMode:
        """Those of the executor that does the work."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """That of the executor that does the work."""
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Wait for the lock, then execute what there still is to do."""
        lock = FileLock(self._lock)
        if not _acquired(lock):
            message = f"Another run works on this home ({self._lock.parent}); waiting until it has ended."
            yield dg.DagsterEvent.engine_event(plan_context, message, EngineEventData())
            # While it waits a run could not be terminated otherwise.
            with raise_interrupts_as(dg.DagsterExecutionInterruptedError):
                while not _acquired(lock, _POLL_SECONDS):
                    pass
        try:
            if done := self._needless(plan_context.instance, plan_context.dagster_run):
                yield dg.DagsterEvent.engine_event(plan_context, done, EngineEventData())
                return
            self._begin(_ops(plan_context, execution_plan))
            yield from self._inner.execute(plan_context, execution_plan)
        finally:
            lock.release()


def _ops(plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[dg.OpDefinition]:
    job = plan_context.reconstructable_job.get_definition()
    for step in execution_plan.get_steps_to_execute_in_topo_order():
        yield job.get_op(step.node_handle).definition


def _acquired(lock: FileLock, timeout: float = 0) -> bool:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    return True


def is_locked(home: Home) -> bool:
    """Whether a run works on the home: one of Dagster's, or the command line, also between two runs of its own."""
    lock = FileLock(home.lock)
    if not home.lock.exists():
        return False
    if not _acquired(lock):
        return True
    lock.release()
    return False


def locked_executor(
    inner: dg.ExecutorDefinition,
    home: Home,
    begin: Begin = lambda _: None,
    needless: Needless = lambda *_: "",
) -> dg.ExecutorDefinition:
    """The same executor, name and configuration, behind the home's lock.

    Args:
        inner: does the work.
        home: whose lock.
        begin: called when it has the lock.
        needless: asked before that.
    """

    @dg.executor(name=inner.name, config_schema=inner.config_schema.as_field(), requirements=inner.get_requirements({}))
    def locked(context: dg.InitExecutorContext) -> LockedExecutor:
        create = inner.executor_creation_fn
        assert create is not None
        return LockedExecutor(create(context), home.lock, begin, needless)

    return locked
