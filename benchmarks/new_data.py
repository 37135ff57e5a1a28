"""Seconds from a file dropped into landing/ to recommendations for its new users, on MovieLens 100K, served for real.

Most of the archive is there and recommended from; the ratings of the last users are dropped into a home that is served.
Usage: python benchmarks/new_data.py [ARCHIVE]
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import polars as pl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recsys_assets.home.layout import Home  # noqa: E402
from recsys_assets_tests.running import table  # noqa: E402
from recsys_assets_tests.served import served, wait_for  # noqa: E402

ARCHIVE = ROOT.parent / "shared" / "data" / "ml-100k.zip"
N_NEW = 40
PROGRAM = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]


def main() -> None:
    """Split the archive, run, serve, drop, wait."""
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else ARCHIVE
    if not archive.exists():
        sys.exit(f"{archive} is not there; name ml-100k.zip, as `recsys-assets fetch ml-100k` gets it")
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        home.prepare()
        dropped = home.path / "new.csv"
        new = _split(archive, home.landing / "most", dropped)
        subprocess.run([*PROGRAM, "run", "--home", str(home.path)], stdout=subprocess.DEVNULL, check=True)
        with served(home):
            print(f"load before: {_load()}")
            begun = time.time()
            dropped.rename(home.landing / dropped.name)
            wait_for("recommendations", lambda: _knows(home, "recommendations", new), 900)
            seconds = time.time() - begun
            print(f"load after: {_load()}")
            told = "\n".join(_stages(home, begun))
    print(f"{told}\nrecommended {seconds:.0f} s after the file was dropped, to {len(new)} new users")


def _load() -> str:
    return ", ".join(f"{load:.1f}" for load in os.getloadavg()) + f" on {os.cpu_count()} cores"


def _stages(home: Home, begun: float) -> Iterator[str]:
    """When each run was asked for, began to work, and wrote what follows rests on; seconds since the drop."""
    of_type = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS}
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for record in reversed(instance.get_run_records()):
            run = record.dagster_run
            if (asked := record.create_timestamp.timestamp() - begun) < 0:
                continue
            events = [(event.timestamp - begun, event) for event in instance.all_logs(run.run_id, of_type=of_type)]
            steps = _step_seconds(events)
            if not events:
                yield f"{run.job_name}: asked for at {asked:.0f} s, not at work yet"
                continue
            longest = sorted(steps, key=lambda step: -steps[step])[:8]
            yield f"{run.job_name}: asked for at {asked:.0f} s, first step at {events[0][0]:.0f} s"
            yield "  " + ", ".join(f"{step} {steps[step]:.1f} s" for step in longest)


def _step_seconds(events: Sequence[tuple[float, dg.EventLogEntry]]) -> dict[str, float]:
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    for when, event in events:
        is_end = event.dagster_event_type == dg.DagsterEventType.STEP_SUCCESS
        (ended if is_end else begun)[str(event.step_key)] = when
    return {step: ended[step] - begun[step] for step in ended}


def _knows(home: Home, asset: str, users: set[str]) -> bool:
    return users <= set(table(home, asset)["user_id"])


def _split(archive: Path, most: Path, dropped: Path) -> set[str]:
    """The archive without its last users as a folder, and their ratings as a CSV file; their ids."""
    most.mkdir()
    with zipfile.ZipFile(archive) as files:
        for member in ("u.data", "u.item", "u.user", "u.genre"):
            (name,) = (name for name in files.namelist() if name.endswith(f"/{member}"))
            (most / member).write_bytes(files.read(name))
    columns = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pl.read_csv(most / "u.data", separator="\t", has_header=False, new_columns=columns)
    is_new = pl.col("user_id") > ratings["user_id"].n_unique() - N_NEW
    ratings.filter(~is_new).write_csv(most / "u.data", separator="\t", include_header=False)
    ratings.filter(is_new).write_csv(dropped)
    kept = [line for line in (most / "u.user").read_text().splitlines() if int(line.split("|")[0]) <= 943 - N_NEW]
    (most / "u.user").write_text("\n".join(kept) + "\n")
    return {str(user) for user in ratings.filter(is_new)["user_id"].unique()}


if __name__ == "__main__":
    main()
