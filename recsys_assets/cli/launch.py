"""From the state of a home to runs of the jobs: which batches are to be ingested, and their execution in this process.

What is shown meanwhile belongs to `progress`.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import dagster as dg
from rich.console import Console

from recsys_assets.build import build_defs
from recsys_assets.cli.landing import checked_batch_name
from recsys_assets.cli.progress import RunProgress
from recsys_assets.home import ENVIRONMENT_VARIABLE, Home
from recsys_assets.jobs import everything, refresh
from recsys_assets.partitions import BATCHES

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

    @property
    def tags(self) -> dict[str, str]:
        """The range of batches as Dagster reads it."""
        return {_RANGE_START: self.batches[0], _RANGE_END: self.batches[-1]} if self.batches else {}


def execute(home: Home, terminal: Console, log: Path) -> list[str]:
    """Ingest what is pending and refresh the rest, with progress on the terminal and everything in the log file.

    Returns:
        What failed, in words; nothing if everything was done.
    """
    os.environ |= {"DAGSTER_HOME": str(home.dagster), ENVIRONMENT_VARIABLE: str(home.path)}
    progress = RunProgress(terminal, log)
    with progress, dg.DagsterInstance.get() as instance:
        defs = dg.Definitions.merge(
            build_defs(home=home), dg.Definitions(loggers={progress.logger_name: progress.logger})
        )
        progress.assets = {asset.op.name: asset.key.to_user_string() for asset in pipeline_assets(defs)}
        for launch in plan(home, instance, pipeline_assets(defs)):
            progress.announce(launch.title)
            result = defs.resolve_job_def(launch.job).execute_in_process(
                instance=instance,
                tags=launch.tags,
                asset_selection=list(launch.assets),
                run_config={"loggers": {progress.logger_name: {}}},
                raise_on_error=False,
            )
            if not result.success:
                progress.failures = progress.failures or ["The run ended early."]
                break
    return progress.failures


def pipeline_assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    """The assets that have code; each is one step of a run, named as its op."""
    return [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]


def plan(home: Home, instance: dg.DagsterInstance, assets: Sequence[dg.AssetsDefinition]) -> list[Launch]:
    """What has to run: everything for the batches that are not ingested yet, or only what follows from `ratings`.

    Landed batches become known to the instance. A batch counts as ingested when all its raw tables are there.
    """
    ingest = [asset for asset in assets if asset.group_names_by_key[asset.key] == "ingest"]
    raw = [asset.key for asset in ingest if asset.partitions_def is not None]
    merged = [asset.key for asset in ingest if asset.partitions_def is None]
    ingested = set.intersection(*(set(instance.get_materialized_partitions(key)) for key in raw))
    known = _register(home, instance, ingested)
    pieces = _contiguous(known, ingested)
    if pieces:
        # Only the last piece may go on to the merge: before it, some batch is still missing.
        first = [Launch(everything.name, f"Ingesting {_named(piece)}", piece, raw) for piece in pieces[:-1]]
        rest = Launch(everything.name, f"Ingesting {_named(pieces[-1])}, then everything else", pieces[-1])
        return [*first, rest]
    if min(_last_written(instance, merged)) < max(_last_written(instance, raw)):
        unmerged = [asset.key for asset in assets if asset.key not in raw]
        return [Launch(everything.name, "All batches are read; merging them, then everything else", assets=unmerged)]
    return [Launch(refresh.name, "All batches are ingested; refreshing what follows from the ratings")]


def _register(home: Home, instance: dg.DagsterInstance, ingested: Collection[str]) -> list[str]:
    """All known batches in their order, after the landed ones have become known, the new ones together and by name.

    A batch that was taken out of the landing folder before it was ever read is forgotten.
    """
    name, landed = str(BATCHES.name), home.landed_batches()
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
