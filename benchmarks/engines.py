"""Both engines on the same data: are the tables equal, how far apart are the scores, what does Spark cost here.

Runs the pipeline with `engine = "polars"` and with `engine = "spark"` in two temporary homes.
Usage: python benchmarks/engines.py [ARCHIVE]
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from recsys_assets.home.versions import TABLE_FILE, AssetStore, scan
from recsys_assets.recommender.data.tables import RELATIONAL, TABLES

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = ROOT.parent / "shared" / "data" / "ml-100k.zip"


def run(engine: str, archive: Path, home: Path) -> float:
    """Run everything; returns seconds."""
    (home / "landing").mkdir(parents=True)
    shutil.copy(archive, home / "landing")
    (home / "settings.toml").write_text(f'engine = "{engine}"\n')
    program = str(Path(sys.executable).parent / "recsys-assets")
    started = time.perf_counter()
    subprocess.run([program, "run", "--home", str(home)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def table(home: Path, name: str) -> pl.DataFrame:
    """A stored table in the order of its key."""
    version = AssetStore(home / "assets").current([name])
    assert (version / TABLE_FILE).exists()
    return scan(version).collect().to_native().sort(TABLES[name].key)


def main() -> None:
    """Run both and print what is equal."""
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else ARCHIVE
    if not archive.exists():
        sys.exit(f"{archive} is not there; name a MovieLens archive")
    with tempfile.TemporaryDirectory() as folder:
        homes = {engine: Path(folder) / engine for engine in ("polars", "spark")}
        seconds = {engine: run(engine, archive, home) for engine, home in homes.items()}
        for name in RELATIONAL:
            first, second = (table(home, name) for home in homes.values())
            print(f"{name:18} {len(first):9,} rows  {'equal' if first.equals(second) else 'DIFFERENT'}")
        scores = [table(home, "evaluation_scores") for home in homes.values()]
        both = scores[0].join(scores[1], on=["protocol", "model", "population", "metric"], how="full", coalesce=True)
        difference = (both["value"] - both["value_right"]).abs().max()
        print(f"scores: {len(both)} on both, largest difference {difference:.6f}")
        print(f"seconds: {', '.join(f'{engine} {value:.0f}' for engine, value in seconds.items())}")
        print(f"spark / polars: {seconds['spark'] / seconds['polars']:.2f}")


if __name__ == "__main__":
    main()
