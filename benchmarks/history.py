"""Bytes that a refresh and an idle hour add to the run history of a home, and what pruning leaves of them.

Works on a copy of a home in which `recsys-assets run` has been done. The idle hour is extrapolated from two minutes.
Usage: python benchmarks/history.py HOME
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recsys_assets.home.layout import Home  # noqa: E402
from recsys_assets.home.running import HistorySettings  # noqa: E402
from recsys_assets.orchestration.run_history import prune_history  # noqa: E402
from recsys_assets_tests.running import copied  # noqa: E402
from recsys_assets_tests.served import served  # noqa: E402

PROGRAM = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]
IDLE_SECONDS = 120
# The services have written what they write once.
SETTLED_SECONDS = 20


def main() -> None:
    """Refresh, serve, prune; print what each did to the size."""
    with tempfile.TemporaryDirectory() as folder:
        home = copied(Home(Path(sys.argv[1])), Path(folder) / "home")
        print(f"history before: {_size(home):,} bytes")
        before = _size(home)
        subprocess.run([*PROGRAM, "run", "--home", str(home.path)], stdout=subprocess.DEVNULL, check=True)
        print(f"one refresh adds {_size(home) - before:,} bytes")
        with served(home):
            time.sleep(SETTLED_SECONDS)
            before, begun = _size(home), time.monotonic()
            time.sleep(IDLE_SECONDS)
            hourly = (_size(home) - before) / (time.monotonic() - begun) * 3600
        print(f"an idle hour adds {hourly:,.0f} bytes")
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            pruned = prune_history(instance, HistorySettings(keep_days=0, keep_runs=1))
        print(f"pruning all runs deletes {pruned.freed:,} bytes and leaves {_size(home):,}")


def _size(home: Home) -> int:
    """Bytes of the history; what lies beside a database while it is open does not grow it."""
    beside = ("-wal", "-shm")
    files = (path for path in home.dagster.rglob("*") if path.is_file() and not path.name.endswith(beside))
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    main()
