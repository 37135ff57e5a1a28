"""What Dagster costs: the whole run of `recsys-assets run` against the same `recommender` calls in a plain script.

Prints seconds and peak memory of both, Python and JVM apart, and the ratio. The two are run in turn, so that a machine
that drifts harms both alike. Usage: python benchmarks/orchestration.py [ARCHIVE] [--pairs 1]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = ROOT.parent / "shared" / "data" / "ml-1m.zip"


@dataclass
class EvaluationResult:
    """Seconds, and the peak of resident memory in MiB of the Python process and of the JVM."""

    seconds: float = 0.0
    peaks: dict[str, float] = field(default_factory=lambda: {"python": 0.0, "java": 0.0})


def measure(command: list[str]) -> EvaluationResult:
    """Run a command to its end and watch its processes."""
    result, started = EvaluationResult(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    watcher = threading.Thread(target=_watch, args=(process.pid, result), daemon=True)
    watcher.start()
    _, errors = process.communicate()
    result.seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors[-3000:]}")
    return result


def _watch(pid: int, result: EvaluationResult) -> None:
    while psutil.pid_exists(pid):
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            for process in family:
                kind = "java" if "java" in process.name() else "python"
                result.peaks[kind] = max(result.peaks[kind], process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.2)


def main() -> None:
    """Run the pairs and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("archive", nargs="?", type=Path, default=ARCHIVE)
    arguments.add_argument("--pairs", type=int, default=1)
    chosen = arguments.parse_args()
    if not chosen.archive.exists():
        sys.exit(f"{chosen.archive} is not there; name a MovieLens archive")
    ratios = []
    print(f"{'':10} {'seconds':>8} {'Python MiB':>11} {'JVM MiB':>8}")
    for pair in range(chosen.pairs):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            (home / "landing").mkdir(parents=True)
            shutil.copy(chosen.archive, home / "landing")
            program = str(Path(sys.executable).parent / "recsys-assets")
            commands = {
                "plain": [sys.executable, "benchmarks/plain.py", str(chosen.archive), f"{folder}/plain"],
                "Dagster": [program, "run", "--home", str(home)],
            }
            order = sorted(commands, reverse=bool(pair % 2))
            runs = {name: measure(commands[name]) for name in order}
        for name, run in runs.items():
            print(f"{name:10} {run.seconds:8.1f} {run.peaks['python']:11,.0f} {run.peaks['java']:8,.0f}", flush=True)
        ratios.append(runs["Dagster"].seconds / runs["plain"].seconds)
    print(f"Dagster / plain: {statistics.median(ratios):.3f} (median of {len(ratios)})")


if __name__ == "__main__":
    main()
