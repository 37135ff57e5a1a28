"""Carries out in this process what `planning` says is to be run, and goes on where a run has lost its JVM."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from recsys_assets.home.batches import read_batches
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.ending import is_ending
from recsys_assets.orchestration.launcher import fail_dead_runs
from recsys_assets.orchestration.planning import Launch, pipeline_assets, plan, reading_again, reading_the_rest
from recsys_assets.orchestration.resources import spark_resource, start_early
from recsys_assets.orchestration.resume import NEVER_BY_A_DAEMON, has_lost_its_jvm, resume
from recsys_assets.orchestration.run_events import LOGGER_NAME, RunEvents, Watcher
from recsys_assets.orchestration.run_history import prune_where_possible
from recsys_assets.orchestration.verdicts import verdicts_of


@dataclass
class Outcome:
    """How it went.

    Attributes:
        failures: what failed, in words; nothing if everything was done.
        went_on: whether everything was done but for batches that were refused.
    """

    failures: list[str]
    went_on: bool = False


@dataclass(frozen=True)
class Ended:
    """How one run ended.

    Attributes:
        success: whether all of it was done.
        refused: why, by batch that could not be read.
        failures: what failed, in words.
    """

    success: bool
    refused: Mapping[str, str] = field(default_factory=dict)
    failures: Sequence[str] = ()


def execute(
    home: Home, watcher: Watcher, log: Path, chosen: Sequence[Launch] = (), again: Collection[str] = ()
) -> Outcome:
    """Run what was chosen.

    Args:
        home: the home to work on.
        watcher: follows the runs.
        log: the file for everything.
        chosen: what to run; by default what is pending is ingested and the rest is refreshed.
        again: batches to read again and to merge, instead of either.
    """
    events = RunEvents(watcher, log)
    with dg.DagsterInstance.get() as instance:
        defs = dg.Definitions.merge(build_defs(home=home), dg.Definitions(loggers={LOGGER_NAME: events.logger}))
        # No daemon may ever look at what a killed run left behind.
        fail_dead_runs(instance)
        assets = pipeline_assets(defs)
        events.names |= {asset.op.name: asset.key.to_user_string() for asset in assets}

        def rest(read: Collection[str], refused: Collection[str]) -> list[Launch]:
            if again:
                return reading_the_rest(home, instance, again, read=read, refused=refused)
            return plan(home, instance, assets, refused=refused)

        first = list(chosen) or (reading_again(instance, again) if again else plan(home, instance, assets))
        spark = spark_resource(Settings.load(home).spark)
        attempt = partial(_attempt, defs=defs, spark=spark, instance=instance, events=events, watcher=watcher)
        refused, failures = carry_out(first, rest, attempt)
        # Standard output is the log of the run by now.
        print(prune_where_possible(instance, home))
        watcher.failures = [*refused.values(), *failures]
        return Outcome(watcher.failures, went_on=bool(refused) and not failures and bool(read_batches(home)))


def carry_out(
    first: Sequence[Launch],
    rest: Callable[[Collection[str], Collection[str]], list[Launch]],
    attempt: Callable[[Launch], Ended],
) -> tuple[Mapping[str, str], Sequence[str]]:
    """Run one launch after the other; a batch that is refused does not keep the others out.

    A run names all the batches that it cannot read before it fails, so what comes next is done without them.

    Args:
        first: what is to be run.
        rest: what is to be run after a refusal, given the batches that were read and those that were refused.
        attempt: runs one launch.

    Returns:
        Why, by batch that was refused; and what else failed, which ended it.
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
    spark: LazyPySparkResource,
    instance: dg.DagsterInstance,
    events: RunEvents,
    watcher: Watcher,
) -> Ended:
    """One run in this process; and, where the rules of retries say so, what it left undone in another.

    Raises:
        KeyboardInterrupt: somebody ended it.
    """
    watcher.announce(launch.title)
    job = defs.resolve_job_def(launch.job)
    selected = job.get_subset(asset_selection=set(launch.assets)) if launch.assets else job
    start_early(spark, _ops(selected))
    result = job.execute_in_process(
        instance=instance,
        tags={**launch.tags, **NEVER_BY_A_DAEMON},
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
        watcher.begin_again(f"{told}\nThat may pass: once more, in a new process, what is not done")
        return Ended(resume(instance, result.run_id, events.take), failures=watcher.failures)
    ended = Ended(False, refused_by(instance, result.run_id), watcher.failures.copy())
    if launch.is_extra:
        watcher.announce(f"{'; '.join(ended.failures)}\nWhat comes next does not need it.")
    watcher.failures.clear()
    return ended


def _ops(job: dg.JobDefinition) -> list[dg.OpDefinition]:
    return [node for node in job.all_node_defs if isinstance(node, dg.OpDefinition)]


def refused_by(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Why a run did not read some of its batches, by batch."""
    return {batch: verdict.reason for batch, verdict in verdicts_of(instance, run_id).items()}
