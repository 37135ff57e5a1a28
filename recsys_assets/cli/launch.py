"""From the state of a home to runs of the jobs: which batches are to be ingested, and their execution in this process.

What is shown meanwhile belongs to `progress`.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from recsys_assets.assets.ingest import MERGED_FROM, merged_from, ratings
from recsys_assets.batches import read_batches
from recsys_assets.build import build_defs
from recsys_assets.cli.landing import checked_batch_name
from recsys_assets.cli.progress import RunProgress
from recsys_assets.failures import reason
from recsys_assets.home import ENVIRONMENT_VARIABLE, Home
from recsys_assets.jobs import everything, refresh
from recsys_assets.launcher import fail_dead_runs
from recsys_assets.partitions import BATCHES
from recsys_assets.retries import was_bad_source
from recsys_assets.settings import Settings

# More batches than this are counted, not listed.
_NAMED = 5
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Launch:
    """One run of a job: for a range of batches, or of a part of its assets."""

    job: str
    title: str
    batches: Sequence[str] = ()
    assets: Sequence[dg.AssetKey] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        """The range of batches as Dagster reads it."""
        return {_RANGE_START: self.batches[0], _RANGE_END: self.batches[-1]} if self.batches else {}


@dataclass
class Outcome:
    """How it went.

    Attributes:
        failures: what failed, in words; nothing if everything was done.
        went_on: whether everything was done but for batches that were refused.
    """

    failures: list[str]
    went_on: bool = False


def execute(home: Home, terminal: Console, log: Path, chosen: Sequence[Launch] = ()) -> Outcome:
    """Run what was chosen, with progress on the terminal and everything in the log file.

    A batch that is refused fails the run of all that are read with it. By default they are then read one by one, and
    the rest is done without the refused ones, which are tried again by the next run. What was chosen is run as it is.

    Args:
        home: the home to work on.
        terminal: where progress is shown.
        log: the file for everything.
        chosen: what to run; by default what is pending is ingested and the rest is refreshed.
    """
    os.environ |= {"DAGSTER_HOME": str(home.dagster), ENVIRONMENT_VARIABLE: str(home.path)}
    progress = RunProgress(terminal, log)
    with progress, dg.DagsterInstance.get() as instance:
        defs = dg.Definitions.merge(
            build_defs(home=home), dg.Definitions(loggers={progress.logger_name: progress.logger})
        )
        # No daemon may ever look at what a killed run left behind.
        fail_dead_runs(instance)
        assets = pipeline_assets(defs)
        progress.assets = {asset.op.name: asset.key.to_user_string() for asset in assets}
        refused: dict[str, str] = {}
        pending = list(chosen) or plan(home, instance, assets)
        while pending:
            launch = pending.pop(0)
            progress.announce(launch.title)
            result = defs.resolve_job_def(launch.job).execute_in_process(
                instance=instance,
                tags=launch.tags,
                asset_selection=list(launch.assets),
                run_config={"loggers": {progress.logger_name: {}}, **launch.config},
                raise_on_error=False,
            )
            if result.success:
                continue
            if chosen or not launch.batches or not (refusal := _refusal(result)):
                progress.failures = progress.failures or ["The run ended early."]
                return Outcome(progress.failures)
            progress.failures.clear()
            if len(launch.batches) == 1:
                refused[launch.batches[0]] = refusal
            pending = plan(home, instance, assets, refused=refused, one_by_one=True)
        progress.failures += refused.values()
        return Outcome(progress.failures, went_on=bool(refused) and bool(read_batches(home)))


def _refusal(result: dg.ExecuteInProcessResult) -> str | None:
    """Why a batch was refused, if a run failed of nothing else."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return reason(errors[0]) if errors and all(map(was_bad_source, errors)) else None


def pipeline_assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    """The assets that have code; each is one step of a run, named as its op."""
    return [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]


def plan(
    home: Home,
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetsDefinition],
    *,
    refused: Collection[str] = (),
    one_by_one: bool = False,
) -> list[Launch]:
    """What has to run: everything for the batches that are not ingested yet, or only what follows from `ratings`.

    Landed batches become known to the instance. A batch counts as ingested when all its raw tables are there.

    Args:
        home: whose batches.
        instance: which knows them.
        assets: the pipeline's.
        refused: batches to leave aside.
        one_by_one: whether each batch is read by a run of its own.
    """
    merged = [asset.key for asset in assets if _is_ingest(asset) and asset.partitions_def is None]
    raw = [asset.key for asset in assets if _is_ingest(asset) and asset.partitions_def is not None]
    ingested = read_batches(home)
    known = _register(home, instance, ingested, refused)
    pieces = [[name] for name in known if name not in ingested] if one_by_one else _contiguous(known, ingested)
    if pieces:
        # Only the last piece may go on to the merge: before it, some batch is still missing.
        first = [Launch(everything.name, f"Ingesting {_named(piece)}", piece, raw) for piece in pieces[:-1]]
        rest = Launch(everything.name, f"Ingesting {_named(pieces[-1])}, then everything else", pieces[-1])
        return [*first, rest]
    if not known:
        return []
    if min(_last_written(instance, merged)) < max(_last_written(instance, raw)) or _rests_on_others(home, instance):
        return [merging("All batches are read; merging them, then everything else", assets)]
    return [Launch(refresh.name, "All batches are ingested; refreshing what follows from the ratings")]


def merging(title: str, assets: Sequence[dg.AssetsDefinition]) -> Launch:
    """The merge of all ingested batches and everything after it."""
    unmerged = [asset.key for asset in assets if asset.partitions_def is None]
    return Launch(everything.name, title, assets=unmerged)


def _is_ingest(asset: dg.AssetsDefinition) -> bool:
    return asset.group_names_by_key[asset.key] == "ingest"


def _rests_on_others(home: Home, instance: dg.DagsterInstance) -> bool:
    """Whether `ratings` was merged from other batches, or with other users left out, than it should be now."""
    records = instance.fetch_materializations(ratings.key, limit=1).records
    materialization = records[0].asset_materialization if records else None
    recorded = materialization.metadata.get(MERGED_FROM) if materialization else None
    known = instance.get_dynamic_partitions(str(BATCHES.name))
    return recorded is not None and recorded.value != merged_from(known, home, Settings.load(home))


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
