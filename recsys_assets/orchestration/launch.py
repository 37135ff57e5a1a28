"""From the state of a home to runs of the jobs: which batches are to be ingested, and their execution in this process.

What is shown meanwhile belongs to `progress`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from rich.console import Console

from recsys_assets.cli.landing import checked_batch_name
from recsys_assets.cli.progress import RunProgress
from recsys_assets.home.batches import read_batches
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets.ingest import ASSETS as INGEST_ASSETS
from recsys_assets.orchestration.assets.ingest import merged_from, rests_on
from recsys_assets.orchestration.assets.serving import recommendations
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.ending import is_ending
from recsys_assets.orchestration.jobs import everything, ingest, recommend, refresh
from recsys_assets.orchestration.landing_watch import contiguous, selections
from recsys_assets.orchestration.launcher import fail_dead_runs
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.resources import spark_resource, start_early
from recsys_assets.orchestration.resume import NEVER_BY_A_DAEMON, has_lost_its_jvm, resume
from recsys_assets.orchestration.run_history import prune_where_possible
from recsys_assets.orchestration.sensors import are_of_present_ratings, unsound
from recsys_assets.orchestration.verdicts import verdicts_of

# More batches than this are counted, not listed.
_NAMED = 5
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Launch:
    """One run of a job.

    Attributes:
        job: its name.
        title: what the run does, in words.
        batches: a range of them.
        assets: a part of the job's; by default all.
        config: of the run.
        is_extra: whether what comes after it goes on if it fails.
    """

    job: str
    title: str
    batches: Sequence[str] = ()
    assets: Sequence[dg.AssetKey] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    is_extra: bool = False

    @property
    def tags(self) -> dict[str, str]:
        """The range of batches as Dagster reads it."""
        return {_RANGE_START: self.batches[0], _RANGE_END: self.batches[-1]} if self.batches else {}


# Users do not wait for scores: lists by the configuration in use come first. If it cannot be fitted on the present
# ratings, the refresh finds another one.
_RECOMMEND = Launch(recommend.name, "Recommending by the configuration in use", is_extra=True)
_REFRESH = Launch(refresh.name, "All batches are ingested; refreshing what follows from the ratings")


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
    home: Home, terminal: Console, log: Path, chosen: Sequence[Launch] = (), again: Collection[str] = ()
) -> Outcome:
    """Run what was chosen, with progress on the terminal and everything in the log file.

    Args:
        home: the home to work on.
        terminal: where progress is shown.
        log: the file for everything.
        chosen: what to run; by default what is pending is ingested and the rest is refreshed.
        again: batches to read again and to merge, instead of either.
    """
    progress = RunProgress(terminal, log)
    with progress, dg.DagsterInstance.get() as instance:
        defs = dg.Definitions.merge(
            build_defs(home=home), dg.Definitions(loggers={progress.logger_name: progress.logger})
        )
        # No daemon may ever look at what a killed run left behind.
        fail_dead_runs(instance)
        assets = pipeline_assets(defs)
        progress.assets = {asset.op.name: asset.key.to_user_string() for asset in assets}

        def rest(read: Collection[str], refused: Collection[str]) -> list[Launch]:
            if again:
                return reading_the_rest(home, instance, again, read=read, refused=refused)
            return plan(home, instance, assets, refused=refused)

        first = list(chosen) or (reading_again(instance, again) if again else plan(home, instance, assets))
        spark = spark_resource(Settings.load(home).spark)
        refused, failures = carry_out(first, rest, lambda launch: _attempt(launch, defs, spark, instance, progress))
        # Standard output is the log of the run by now.
        print(prune_where_possible(instance, home))
        progress.failures = [*refused.values(), *failures]
        return Outcome(progress.failures, went_on=bool(refused) and not failures and bool(read_batches(home)))


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
    defs: dg.Definitions,
    spark: LazyPySparkResource,
    instance: dg.DagsterInstance,
    progress: RunProgress,
) -> Ended:
    """One run in this process; and, where the rules of retries say so, what it left undone in another.

    Raises:
        KeyboardInterrupt: somebody ended it.
    """
    progress.announce(launch.title)
    job = defs.resolve_job_def(launch.job)
    selected = job.get_subset(asset_selection=set(launch.assets)) if launch.assets else job
    start_early(spark, _ops(selected))
    result = job.execute_in_process(
        instance=instance,
        tags={**launch.tags, **NEVER_BY_A_DAEMON},
        asset_selection=list(launch.assets),
        run_config={"loggers": {progress.logger_name: {}}, **launch.config},
        raise_on_error=False,
    )
    is_lost = has_lost_its_jvm(instance, result.run_id)
    if is_ending(after_a_death=is_lost):
        raise KeyboardInterrupt
    if result.success:
        return Ended(True)
    if is_lost:
        told = "; ".join(progress.failures)
        progress.begin_again(f"{told}\nThat may pass: once more, in a new process, what is not done")
        return Ended(resume(instance, result.run_id, progress.take), failures=progress.failures)
    ended = Ended(False, refused_by(instance, result.run_id), progress.failures.copy())
    if launch.is_extra:
        progress.announce(f"{'; '.join(ended.failures)}\nWhat comes next does not need it.")
    progress.failures.clear()
    return ended


def _ops(job: dg.JobDefinition) -> list[dg.OpDefinition]:
    return [node for node in job.all_node_defs if isinstance(node, dg.OpDefinition)]


def refused_by(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Why a run did not read some of its batches, by batch."""
    return {batch: verdict.reason for batch, verdict in verdicts_of(instance, run_id).items()}


def reading_again(instance: dg.DagsterInstance, batches: Collection[str]) -> list[Launch]:
    """Reading batches that are known and merging all: one run if they are neighbours."""
    pieces = contiguous(instance.get_dynamic_partitions(str(BATCHES.name)), batches)
    titled = [(f"Ingesting {_named(piece)}", piece) for piece in pieces]
    return [
        Launch(ingest.name, title, piece, keys or ())
        for (title, piece), keys in zip(titled, selections(pieces), strict=True)
    ]


def reading_the_rest(
    home: Home,
    instance: dg.DagsterInstance,
    batches: Collection[str],
    *,
    read: Collection[str],
    refused: Collection[str],
) -> list[Launch]:
    """What is left of reading batches again after a refusal; a merge would fail at those that were never read."""
    name = str(BATCHES.name)
    for batch in set(refused) - read_batches(home):
        instance.delete_dynamic_partition(name, batch)
    if left := {*batches} - {*read, *refused}:
        return reading_again(instance, left)
    merged = [asset.key for asset in INGEST_ASSETS if asset.partitions_def is None]
    return [Launch(ingest.name, "Merging", assets=merged)] if read_batches(home) else []


def pipeline_assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    """The assets that have code; each is one step of a run, named as its op."""
    return [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]


def plan(
    home: Home,
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetsDefinition],
    *,
    refused: Collection[str] = (),
) -> list[Launch]:
    """What has to run: everything for the batches that are not ingested yet, or only what follows from `ratings`.

    Landed batches become known to the instance. A batch counts as ingested when all its raw tables are there.

    Args:
        home: whose batches.
        instance: which knows them.
        assets: the pipeline's.
        refused: batches to leave aside.
    """
    merged = [asset.key for asset in assets if _is_ingest(asset) and asset.partitions_def is None]
    raw = [asset.key for asset in assets if _is_ingest(asset) and asset.partitions_def is not None]
    ingested = read_batches(home)
    known = _register(home, instance, ingested, refused)
    pieces = _contiguous(known, ingested)
    in_use = AssetStore(home.assets).has(["promoted_configuration"])
    if pieces:
        # Only the last piece may go on to the merge: before it, some batch is still missing.
        first = [Launch(everything.name, f"Ingesting {_named(piece)}", piece, raw) for piece in pieces[:-1]]
        title = f"Ingesting {_named(pieces[-1])}"
        if in_use:
            return [*first, Launch(ingest.name, title, pieces[-1]), _RECOMMEND, _REFRESH]
        return [*first, Launch(everything.name, f"{title}, then everything else", pieces[-1])]
    if not known:
        return []
    is_older = min(_last_written(instance, merged)) < max(_last_written(instance, raw))
    # What failed its check is merged again, so that it is checked again: `refresh` would go on from there.
    if is_older or _rests_on_others(home, instance) or unsound(instance):
        if in_use:
            return [Launch(ingest.name, "All batches are read; merging them", assets=merged), _RECOMMEND, _REFRESH]
        return [merging("All batches are read; merging them, then everything else", assets)]
    is_recommended = not in_use or are_of_present_ratings(instance, [recommendations.key])
    return [_REFRESH] if is_recommended else [_RECOMMEND, _REFRESH]


def merging(title: str, assets: Sequence[dg.AssetsDefinition]) -> Launch:
    """The merge of all ingested batches and everything after it."""
    unmerged = [asset.key for asset in assets if asset.partitions_def is None and not _is_study(asset)]
    return Launch(everything.name, title, assets=unmerged)


def _is_ingest(asset: dg.AssetsDefinition) -> bool:
    return asset.group_names_by_key[asset.key] == "ingest"


def _is_study(asset: dg.AssetsDefinition) -> bool:
    return asset.group_names_by_key[asset.key] == "study"


def _rests_on_others(home: Home, instance: dg.DagsterInstance) -> bool:
    """Whether `ratings` was merged from other batches, or with other users left out, than it should be now."""
    recorded, known = rests_on(instance), instance.get_dynamic_partitions(str(BATCHES.name))
    return bool(recorded) and recorded != merged_from(known, home, Settings.load(home))


def _register(
    home: Home, instance: dg.DagsterInstance, ingested: Collection[str], refused: Collection[str]
) -> list[str]:
    """All known batches in their order, after the landed ones have become known, the new ones together and by name.

    A batch that was never read is forgotten when it was refused or taken out of the landing folder.
    """
    name, landed = str(BATCHES.name), [batch for batch in home.landed_batches() if batch not in refused]
    known = instance.get_dynamic_partitions(name)
    instance.add_dynamic_partitions(name, [checked_batch_name(batch) for batch in landed if batch not in known])
    for batch in set(known) - {*landed, *ingested}:
        instance.delete_dynamic_partition(name, batch)
    return list(instance.get_dynamic_partitions(name))


def _contiguous(known: Sequence[str], ingested: Collection[str]) -> list[list[str]]:
    """The batches that are not ingested, in runs of neighbours: what one range of partitions can say."""
    runs = groupby(known, lambda batch: batch in ingested)
    return [list(batches) for is_ingested, batches in runs if not is_ingested]


def _named(batches: Sequence[str]) -> str:
    few = len(batches) <= _NAMED
    return ", ".join(batches) if few else f"{len(batches)} batches, {batches[0]} to {batches[-1]}"


def _last_written(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> list[int]:
    """Position in the event log of each asset's newest materialization, 0 where there is none."""
    records = [instance.fetch_materializations(key, limit=1).records for key in keys]
    return [found[0].storage_id if found else 0 for found in records]
