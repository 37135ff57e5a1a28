"""Run workers that die in the middle: as a program, it works on a home until it has died at each of some places.

Usage: python -m recsys_assets_tests.killed HOME [STAGE or ASSET …]. A worker is killed at the first of these assets
that it writes, when its new version is on disk and not yet switched in; the next takes up, from failure, what it left.
Workers are forked from this process, which has imported everything and done nothing.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path

import dagster as dg

from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets import evaluation
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.launcher import fail_dead_runs

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
JOB = "everything"
BATCH = "small"


def job() -> dg.JobDefinition:
    """The whole pipeline of the home that the environment names, as another process can build it again."""
    return build_defs().resolve_job_def(JOB)


def stages(home: Home) -> dict[str, str]:
    """The stage of each asset of the job."""
    graph = build_defs(home=home).get_repository_def().asset_graph
    keys = build_defs(home=home).resolve_job_def(JOB).asset_layer.selected_asset_keys
    return {key.to_user_string(): str(graph.get(key).group_name) for key in keys}


def die_at(home: Home, names: Collection[str]) -> list[str]:
    """Kill a worker at each of these assets, or at the first asset of each of these stages; then let one finish.

    Returns:
        The assets at which workers died, in order.

    Raises:
        AssertionError: a worker ended in another way.
    """
    left, stage_of, deaths = set(names), stages(home), list[str]()
    while left:
        status = _worker(home, [asset for asset, stage in stage_of.items() if {asset, stage} & left])
        assert status == -signal.SIGKILL, f"status {status} with {left} left"
        deaths.append((home.path / "killed_at").read_text())
        left -= {deaths[-1], stage_of[deaths[-1]]}
    assert _worker(home, []) == 0
    return deaths


def _worker(home: Home, deadly: Collection[str]) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=_work, args=(home, deadly))
    process.start()
    process.join()
    return process.exitcode


def _work(home: Home, deadly: Collection[str]) -> None:
    """Run everything, or what the run before this one has left undone."""
    _kill_at(home, deadly)
    with dg.DagsterInstance.get() as instance:
        fail_dead_runs(instance)
        instance.add_dynamic_partitions("batches", [BATCH])
        before = next(iter(instance.get_runs(limit=1)), None)
        options = dg.ReexecutionOptions.from_failure(before.run_id, instance) if before else None
        tags = dict.fromkeys(RANGE, BATCH)
        with dg.execute_job(
            dg.reconstructable(job), instance=instance, tags=tags, reexecution_options=options
        ) as result:
            sys.exit(not result.success)


def _kill_at(home: Home, deadly: Collection[str]) -> None:
    """Make the switch of any of these assets the end of this process, or the writing of the report, which has none."""
    switch, write = AssetStore.switch, evaluation.write_atomically

    def die(asset: str) -> None:
        if asset in deadly:
            (home.path / "killed_at").write_text(asset)
            os.kill(os.getpid(), signal.SIGKILL)

    def die_before(self: AssetStore, version: Path) -> None:
        parts = version.relative_to(self.root).parts
        asset = "/".join(parts[: parts.index("batches" if "batches" in parts else "versions")])
        die(asset)
        switch(self, version)

    def die_before_writing(path: Path, content: bytes) -> None:
        die("evaluation_report")
        write(path, content)

    AssetStore.switch = die_before  # type: ignore[method-assign]
    evaluation.write_atomically = die_before_writing


if __name__ == "__main__":
    where = Home(Path(sys.argv[1]))
    os.environ |= where.environment
    died = die_at(where, sys.argv[2:])
    (where.path / "deaths.json").write_text(json.dumps(died))
