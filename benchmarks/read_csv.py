"""Reading a large CSV of ratings into `ratings`, against `pandas.read_csv` of the same file: seconds and peak memory.

Each runs in a process of its own, in turn. The seconds of the processor, of all cores together, are those that a busy
machine hardly changes. Usage: python benchmarks/read_csv.py [--rows 27000000] [--pairs 5] [--keep]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

_BLOCK = 1_000_000
_USERS, _ITEMS = 280_000, 58_000
LIMIT_GIB = 4.0


def write_csv(path: Path, rows: int, seed: int = 0) -> None:
    """Ratings in the layout and order (by user, then item) of MovieLens's CSV releases; hardly a pair occurs twice."""
    generator = np.random.default_rng(seed)
    with path.open("wb") as out:
        for begin in range(0, rows, _BLOCK):
            n = min(_BLOCK, rows - begin)
            block = pl.DataFrame(
                {
                    "userId": (begin + np.arange(n)) * _USERS // max(rows, 1),
                    "movieId": (_ITEMS * generator.random(n) ** 3).astype(np.int64),
                    "rating": generator.integers(1, 11, n) / 2,
                    "timestamp": generator.integers(789_652_009, 1_537_945_149, n),
                }
            )
            block.sort("userId", "movieId").write_csv(out, include_header=begin == 0)


def read_here(path: Path, folder: Path) -> None:
    """As the assets do: raw tables are written, then merged from what was written."""
    import narwhals as nw

    from recsys_assets.home.versions import scan, write_table
    from recsys_assets.recommender.data.frames import lazy
    from recsys_assets.recommender.data.tables import TABLES
    from recsys_assets.recommender.ingest import merge
    from recsys_assets.recommender.ingest.sources import read_source

    def stored(name: str, frame: nw.LazyFrame) -> nw.LazyFrame:
        version = folder / name
        version.mkdir()
        write_table(frame, TABLES[name], version)
        return scan(version)

    source = read_source(path, scratch=folder)
    raw = {name: [stored(f"raw_{name}", lazy(getattr(source, name)))] for name in ("ratings", "users", "items")}
    users = stored("users", merge.index_users(raw["users"], raw["ratings"]))
    items = stored("items", merge.index_items(raw["items"], raw["ratings"]))
    stored("ratings", merge.merge_ratings(raw["ratings"], users, items))


def read_with_pandas(path: Path, folder: Path) -> None:
    """The whole file into one frame, nothing checked, nothing written."""
    del folder
    import pandas as pd

    pd.read_csv(path)


READERS: dict[str, Callable[[Path, Path], None]] = {"recsys_assets": read_here, "pandas.read_csv": read_with_pandas}


def measured(reader: str, path: Path) -> tuple[float, float, float]:
    """Seconds, also of the processor, imports left out, and peak memory in GiB of a process that reads the file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, __file__, "--reader", reader, "--file", str(path), "--folder", folder]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    took, worked, peak = map(float, told)
    return took, worked, peak


def _measure_here(reader: str, path: Path, folder: Path) -> None:
    # What both would import anyway is not reading.
    import pandas  # noqa: F401

    import recsys_assets.recommender.ingest.sources  # noqa: F401

    begun, begun_working = time.perf_counter(), time.process_time()
    READERS[reader](path, folder)
    took, worked = time.perf_counter() - begun, time.process_time() - begun_working
    # Linux counts in KiB.
    print(took, worked, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    """Generate, measure each reader, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=27_000_000)
    parser.add_argument("--pairs", type=int, default=5, help="how often both read the file, in turn")
    parser.add_argument("--keep", action="store_true", help="keep the file and use it again")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.reader:
        _measure_here(asked.reader, asked.file, asked.folder)
        return
    path = Path(tempfile.gettempdir()) / f"ratings-{asked.rows}.csv"
    if not path.exists():
        write_csv(path, asked.rows)
    print(f"{asked.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB")
    ratios, peaks = [], []
    for _ in range(asked.pairs):
        results = {reader: measured(reader, path) for reader in READERS}
        for reader, (took, worked, peak) in results.items():
            print(f"{reader:<16} {took:7.1f} s   {worked:7.1f} s of the processor   {peak:5.2f} GiB")
        ratios.append(results["recsys_assets"][0] / results["pandas.read_csv"][0])
        peaks.append(results["recsys_assets"][2])
    print(f"ratio {statistics.median(ratios):.2f}, the median of {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"peak {max(peaks):.2f} GiB; the aims: a ratio of at most 1, below {LIMIT_GIB:g} GiB")
    if not asked.keep:
        path.unlink()


if __name__ == "__main__":
    main()
