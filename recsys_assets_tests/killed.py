"""A run worker that dies in the middle: run as a program, it works on a home and kills itself at one asset.

Usage: python -m recsys_assets_tests.killed HOME [STAGE or ASSET …]. The first of these assets that is written kills the
process, when its new version is on disk and not yet switched in. What a killed run left is taken up from there.
"""

import os
import signal
import sys
from pathlib import Path

import dagster as dg

from recsys_assets.build import build_defs
from recsys_assets.home import ENVIRONMENT_VARIABLE, Home
from recsys_assets.launcher import fail_dead_runs
from recsys_assets.storage import AssetStore

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
JOB = "everything"
BATCH = "small"


def job() -> dg.JobDefinition:
    """The whole pipeline of the home that the environment names, as another process can build it again."""
    return build_defs().resolve_job_def(JOB)


def work(home: Home, names: list[str]) -> bool:
    """Run everything, or what the run before this one has left undone; True if all of it was done."""
    os.environ |= {ENVIRONMENT_VARIABLE: str(home.path), "DAGSTER_HOME": str(home.dagster)}
    kill_at(home, names)
    with dg.DagsterInstance.get() as instance:
        fail_dead_runs(instance)
        instance.add_dynamic_partitions("batches", [BATCH])
        before = next(iter(instance.get_runs(limit=1)), None)
        options = dg.ReexecutionOptions.from_failure(before.run_id, instance) if before else None
        tags = dict.fromkeys(RANGE, BATCH)
        with dg.execute_job(
            dg.reconstructable(job), instance=instance, tags=tags, reexecution_options=options
        ) as result:
            return result.success


def kill_at(home: Home, names: list[str]) -> None:
    """Make the switch of any of these assets, or of an asset of these stages, the end of this process."""
    graph = build_defs(home=home).get_repository_def().asset_graph
    keys = graph.get_all_asset_keys()
    deadly = {key for key in keys if {graph.get(key).group_name, key.to_user_string()} & {*names}}
    switch = AssetStore.switch

    def die_before(self: AssetStore, version: Path) -> None:
        parts = version.relative_to(self.root).parts
        key = dg.AssetKey(parts[: parts.index("batches" if "batches" in parts else "versions")])
        if key in deadly:
            # What stands here is read by the test: which asset was cut off.
            (home.path / "killed_at").write_text(key.to_user_string())
            os.kill(os.getpid(), signal.SIGKILL)
        switch(self, version)

    AssetStore.switch = die_before  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(not work(Home(Path(sys.argv[1])), sys.argv[2:]))
