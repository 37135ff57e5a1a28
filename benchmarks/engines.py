"""Both engines on the same data: are tables and lists equal, how far apart are the scores, what does Spark cost.

Runs the pipeline with `engine = "polars"` and with `engine = "spark"` in two temporary homes. With `--cluster`, Spark
is a standalone cluster of this machine: a master, two workers of one core each, the driver in the process of the run.
Usage: python benchmarks/engines.py [ARCHIVE] [--cluster]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recsys_assets.home.versions import TABLE_FILE, AssetStore, scan  # noqa: E402
from recsys_assets.recommender.data.tables import RELATIONAL, TABLES  # noqa: E402
from recsys_assets_tests.spark_servers import standalone_cluster  # noqa: E402

ARCHIVE = ROOT.parent / "shared" / "data" / "ml-100k.zip"
EXECUTOR_MEMORY = "2g"
PLACE = ("user_id", "rank", "item_id")
SCORE = ("protocol", "model", "population", "metric")


def run(home: Path, archive: Path, settings: str) -> float:
    """Run everything in an empty home; returns seconds."""
    (home / "landing").mkdir(parents=True)
    shutil.copy(archive, home / "landing")
    (home / "settings.toml").write_text(settings)
    program = str(Path(sys.executable).parent / "recsys-assets")
    started = time.perf_counter()
    subprocess.run([program, "run", "--home", str(home)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_on_spark(home: Path, archive: Path, *, on_cluster: bool) -> float:
    """The same on Spark; the start of the cluster's master and workers does not count."""
    settings = 'engine = "spark"\n'
    if not on_cluster:
        return run(home, archive, settings)
    with standalone_cluster(home.parent / "cluster", memory=EXECUTOR_MEMORY) as cluster:
        return run(home, archive, f"{settings}[spark]\n{cluster.settings(EXECUTOR_MEMORY)}")


def table(home: Path, name: str) -> pl.DataFrame:
    """A stored table in the order of its key."""
    version = AssetStore(home / "assets").current([name])
    assert (version / TABLE_FILE).exists()
    return scan(version).collect().to_native().sort(TABLES[name].key)


def main() -> None:
    """Run both and print what is equal."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("archive", type=Path, nargs="?", default=ARCHIVE)
    asked.add_argument("--cluster", action="store_true")
    given = asked.parse_args()
    if not given.archive.exists():
        sys.exit(f"{given.archive} is not there; name a MovieLens archive")
    with tempfile.TemporaryDirectory() as folder:
        homes = {engine: Path(folder) / engine for engine in ("polars", "spark")}
        polars = run(homes["polars"], given.archive, 'engine = "polars"\n')
        spark = run_on_spark(homes["spark"], given.archive, on_cluster=given.cluster)
        for name in RELATIONAL:
            first, second = (table(home, name) for home in homes.values())
            print(f"{name:18} {len(first):9,} rows  {'equal' if first.equals(second) else 'DIFFERENT'}")
        lists = [table(home, "recommendations").select(PLACE) for home in homes.values()]
        changed = lists[0].join(lists[1], on=PLACE, how="anti")["user_id"].n_unique()
        print(f"lists: {lists[0]['user_id'].n_unique():,} users, {changed:,} have another list on Spark")
        scores = [table(home, "evaluation_scores") for home in homes.values()]
        both = scores[0].join(scores[1], on=SCORE, how="full", coalesce=True)
        difference = (both["value"] - both["value_right"]).abs().max()
        print(f"scores: {len(both)} on both, largest difference {difference:.6f}")
        print(f"seconds: polars {polars:.0f}, spark {spark:.0f}")
        print(f"spark / polars: {spark / polars:.2f}")


if __name__ == "__main__":
    main()
