"""Executes in this process the runs that `planning` decides on, and resumes a run that has lost its JVM.

`backfill` executes runs in the instance that serves the home.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dagster as dg

from recsys_assets.home.batches import read_batches
from recsys_assets.home.landing import no_batch_name
from recsys_assets.home.layout import Home, is_batch_name
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.code_location import REPOSITORY_TAG, adopt
from recsys_assets.orchestration.ending import is_ending
from recsys_assets.orchestration.event_log import kept_connections
from recsys_assets.orchestration.launcher import fail_dead_runs, process_tag
from recsys_assets.orchestration.planning import Launch, pipeline_assets, plan, reading_again, reading_the_rest
from recsys_assets.orchestration.resources import spark_resource, start_early
from recsys_assets.orchestration.resume import NEVER_BY_A_DAEMON, has_lost_its_jvm, resume
from recsys_assets.orchestration.run_events import LOGGER_NAME, RunEvents, Watcher
from recsys_assets.orchestration.run_history import prune_where_possible
from recsys_assets.orchestration.verdicts import verdicts_of


@dataclass
class Outcome:
    """Result of `execute`.

    Attributes:
        failures: failures in words; empty if everything was done.
        went_on: whether everything was done except for refused batches.
    """

    failures: list[str]
    went_on: bool = False


@dataclass(frozen=True)
class Ended:
    """Result of one run.

    Attributes:
        success: whether the whole run succeeded.
        refused: reason by refused batch.
        failures: failures in words.
    """

    success: bool
    refused: Mapping[str, str] = field(default_factory=dict)
    failures: Sequence[str] = ()


def execute(
    home: Home, watcher: Watcher, log: Path, chosen: Sequence[Launch] = (), again: Collection[str] = ()
) -> Outcome:
    """Execute the chosen runs, or plan and execute the runs that the home needs.

    Args:
        home: the home to work on.
        watcher: follows the runs.
        log: the log file of the runs.
        chosen: the runs to execute. By default `plan` ingests pending batches and refreshes everything else.
        again: batches to read again and to merge, instead of `chosen` and `plan`.
    """
    with dg.DagsterInstance.get() as instance:
        events = RunEvents(watcher, log, partial(adopt, instance))
        defs = dg.Definitions.merge(build_defs(home=home), dg.Definitions(loggers={LOGGER_NAME: events.logger}))
        # Without a daemon, a killed run would stay STARTED for ever.
        fail_dead_runs(instance)
        assets = pipeline_assets(defs)
        events.stages |= {asset.op.name: str(next(iter(asset.specs)).group_name) for asset in assets}

        def rest(read: Collection[str], refused: Collection[str]) -> list[Launch]:
            if again:
                return reading_the_rest(home, instance, again, read=read, refused=refused)
            return plan(home, instance, assets, refused=refused)

        first = list(chosen) or (reading_again(instance, again) if again else plan(home, instance, assets))
        settings = Settings.load(home)
        if first and settings.engine == "spark":
            start_early(spark_resource(settings.spark, home.scratch))
        attempt = partial(_attempt, defs=defs, instance=instance, events=events, watcher=watcher)
        with kept_connections(instance):
            refused, failures = carry_out(first, rest, attempt)
        if not chosen and not again:
            misnamed = [name for name in home.landed_batches() if not is_batch_name(name)]
            refused = {**{name: no_batch_name(name) for name in misnamed}, **refused}
        # Standard output goes to the log of the run here.
        print(prune_where_possible(instance, home))
        watcher.failures = [*refused.values(), *failures]
        return Outcome(watcher.failures, went_on=bool(refused) and not failures and bool(read_batches(home)))


def carry_out(
    first: Sequence[Launch],
    rest: Callable[[Collection[str], Collection[str]], list[Launch]],
    attempt: Callable[[Launch], Ended],
) -> tuple[Mapping[str, str], Sequence[str]]:
    """Execute one launch after the other, without the batches that are refused on the way.

    A run names all batches that it cannot read before it fails, so the launches after it leave them out.

    Args:
        first: launches to execute.
        rest: returns the launches after a refusal, given the batches that were read and the refused batches.
        attempt: executes one launch.

    Returns:
        The reason by refused batch; and any other failures, which end the execution.
    """
    pending, read, refused = list(first), list[str](), dict[str, str]()
    while pending:
        launch = pending.pop(0)
        ended = attempt(launch)
        if ended.success:
            read += launch.batches
        elif launch.is_extra:
            continue
        elif ended.refused:
            refused |= ended.refused
            pending = rest(read, refused)
        else:
            return refused, ended.failures or ["The run ended early."]
    return refused, []


def _attempt(
    launch: Launch,
    *,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    events: RunEvents,
    watcher: Watcher,
) -> Ended:
    """Execute one run in this process. If `retries` allows a retry, execute its remaining steps in a new process.

    Raises:
        KeyboardInterrupt: a signal has asked the process to end.
    """
    watcher.announce(launch.title)
    result = defs.resolve_job_def(launch.job).execute_in_process(
        instance=instance,
        tags={**launch.tags, **NEVER_BY_A_DAEMON, **REPOSITORY_TAG, **process_tag()},
        asset_selection=list(launch.assets),
        run_config={"loggers": {LOGGER_NAME: {}}, **launch.config},
        raise_on_error=False,
    )
    is_lost = has_lost_its_jvm(instance, result.run_id)
    if is_ending(after_a_death=is_lost):
        raise KeyboardInterrupt
    if result.success:
        return Ended(True)
    if is_lost:
        told = "; ".join(watcher.failures)
        watcher.begin_again(f"{told}\nThe cause may be temporary: retrying the remaining steps in a new process")
        return Ended(resume(instance, result.run_id, events.take), failures=watcher.failures)
    ended = Ended(False, refused_by(instance, result.run_id), watcher.failures.copy())
    if launch.is_extra:
        watcher.announce(f"{'; '.join(ended.failures)}\nThe next run does not need this one.")
    watcher.failures.clear()
    return ended


def refused_by(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """The reason by batch that a run could not read."""
    return {batch: verdict.reason for batch, verdict in verdicts_of(instance, run_id).items()}
