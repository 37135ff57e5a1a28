"""The lock of a home: one run at a time, from its first step to its last.

The executors here hold the lock for runs of Dagster. The command line takes the same lock in `cli/run.py`, because runs
in its own process do not use these executors. The operating system releases the lock when its holder dies, so a killed
run never blocks a home.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

from recsys_assets.home import remote
from recsys_assets.home.layout import Home
from recsys_assets.orchestration.dagster_internals import (
    EngineEventData,
    ExecutionPlan,
    PlanOrchestrationContext,
    RetryMode,
    StepDependencyConfig,
    raise_interrupts_as,
)
from recsys_assets.orchestration.event_log import kept_connections
from recsys_assets.orchestration.launcher import process_tag

# A waiting run reacts to termination from the UI within this time.
_POLL_SECONDS = 1.0
# Each look at a lock in an object store is paid for.
_POLL_STORE_SECONDS = 15.0


# Called once a run has the lock.
Begin = Callable[[], None]
# The reason why a run that has the lock has nothing left to do; empty if it has.
Needless = Callable[[dg.DagsterInstance, dg.DagsterRun], str]


class LockedExecutor(dg.Executor):
    """An executor that waits for the home's lock and holds it while steps run.

    If another run has done the same work while this run waited, this run succeeds without a step.
    """

    def __init__(self, inner: dg.Executor, lock: Path, begin: Begin, needless: Needless) -> None:
        self._inner, self._lock, self._begin, self._needless = inner, lock, begin, needless

    @property
    def retries(self) -> RetryMode:
        """The retry mode of the inner executor."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """The step dependencies of the inner executor."""
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Wait for the lock, then execute the plan unless its work is already done."""
        plan_context.instance.add_run_tags(plan_context.run_id, process_tag())
        lock = FileLock(self._lock)
        if not _acquired(lock):
            message = f"Another run works on this home ({self._lock.parent}); waiting until it has ended."
            yield dg.DagsterEvent.engine_event(plan_context, message, EngineEventData())
            # Without this, a run could not be terminated from the UI while it waits.
            with raise_interrupts_as(dg.DagsterExecutionInterruptedError):
                while not _acquired(lock, _POLL_SECONDS):
                    pass
        in_store = ExitStack()
        try:
            with raise_interrupts_as(dg.DagsterExecutionInterruptedError):
                while told := _why_not_held(in_store, self._lock.parent):
                    yield dg.DagsterEvent.engine_event(plan_context, told, EngineEventData())
                    time.sleep(_POLL_STORE_SECONDS)
            if done := self._needless(plan_context.instance, plan_context.dagster_run):
                yield dg.DagsterEvent.engine_event(plan_context, done, EngineEventData())
                return
            self._begin()
            with kept_connections(plan_context.instance):
                yield from self._inner.execute(plan_context, execution_plan)
        finally:
            try:
                in_store.close()
            finally:
                lock.release()


def _why_not_held(stack: ExitStack, home: Path) -> str:
    """Take the lock of a home on an object store, until the stack is closed; returns who else holds it, if anybody."""
    try:
        stack.enter_context(remote.holding(home))
    except remote.StoreLockedError as error:
        return str(error)
    return ""


def _acquired(lock: FileLock, timeout: float = 0) -> bool:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    return True


def locked_executor(
    inner: dg.ExecutorDefinition,
    home: Home,
    begin: Begin = lambda: None,
    needless: Needless = lambda *_: "",
) -> dg.ExecutorDefinition:
    """An executor with the name and configuration of another executor, behind the home's lock.

    Args:
        inner: the executor that runs the steps.
        home: the home with the lock.
        begin: called once the run has the lock and has something to do.
        needless: called once the run has the lock; returns why the run has nothing left to do, or an empty string.
    """

    @dg.executor(name=inner.name, config_schema=inner.config_schema.as_field(), requirements=inner.get_requirements({}))
    def locked(context: dg.InitExecutorContext) -> LockedExecutor:
        create = inner.executor_creation_fn
        assert create is not None
        return LockedExecutor(create(context), home.lock, begin, needless)

    return locked
