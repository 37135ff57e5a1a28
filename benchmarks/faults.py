"""Breaks things on purpose and prints what survived: the table in docs/operations.md. Run by `make faults`.

Made-up data and real processes. A row survives if the final tables are, row for row, those of an undisturbed run and,
where it says so, nothing was done twice. Usage: python benchmarks/faults.py [--only NAME …]
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recsys_assets.build import build_defs  # noqa: E402
from recsys_assets.home import Home  # noqa: E402
from recsys_assets.storage import TABLE_FILE, AssetStore  # noqa: E402
from recsys_assets_tests import killed  # noqa: E402
from recsys_assets_tests.conftest import FAST_SETTINGS  # noqa: E402
from recsys_assets_tests.made_up import made_up  # noqa: E402
from recsys_assets_tests.running import copied, table  # noqa: E402
from recsys_assets_tests.served import served, wait_for, worker_of  # noqa: E402

COMPARED = ("ratings", "users", "movies", "evaluation_scores", "recommendations")
PROGRAM = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]
STILL = "\n[automation]\nsensors = false\nschedule = false\n"
AWAKE = "\n[automation]\ntick_seconds = 1\nquiet_seconds = 1\n"
SECOND = "second"


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: whether it was survived as it should be, and the home to compare."""

    survived: bool
    home: Home
    against: Home
    note: str


class Bench:
    """A folder with undisturbed homes, of which the faults get copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def one(self) -> Home:
        """A home in which everything has run on one batch."""
        home = self.landed("one-batch")
        self.run("run", home, must=True)
        return home

    @cached_property
    def two(self) -> Home:
        """The same after a second batch."""
        home = self.copy(self.one, "two-batches")
        self.land_second(home)
        self.run("run", home, must=True)
        return home

    def landed(self, name: str, settings: str = STILL) -> Home:
        """A home in which one batch has landed."""
        home = Home(self.folder / name)
        home.prepare()
        home.settings_file.write_text(FAST_SETTINGS + settings)
        made_up().write(home.landing / killed.BATCH)
        return home

    def copy(self, of: Home, name: str, settings: str = STILL) -> Home:
        """The same home elsewhere, with an instance of its own."""
        home = copied(of, self.folder / name)
        (home.dagster / "dagster.yaml").unlink()
        home.prepare()
        home.settings_file.write_text(FAST_SETTINGS + settings)
        return home

    def land_second(self, home: Home) -> None:
        """Another batch, with new users."""
        made_up(n_users=20, first_user=500, day=30, seed=1).write(home.path / "arriving").rename(home.landing / SECOND)

    def run(self, command: str, home: Home, *arguments: str, must: bool = False) -> subprocess.CompletedProcess[str]:
        """A command of the command line."""
        words = [*PROGRAM, command, *arguments, "--home", str(home.path)]
        ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        if must and ran.returncode:
            sys.exit(f"{command} failed in {home.path}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        return ran


def lost(outcome: Outcome) -> int:
    """Rows of the final tables of an undisturbed run that are not in those of the disturbed one."""
    return sum(_missing(table(outcome.against, name), table(outcome.home, name)) for name in COMPARED)


def _missing(wanted: pl.DataFrame, found: pl.DataFrame) -> int:
    # Where a rating came from in its file is no part of it.
    columns = [name for name in wanted.columns if name not in ("row", "genres")]
    return len(wanted.join(found, on=columns, how="anti", nulls_equal=True))


# The faults


def worker_at_every_asset(bench: Bench) -> Outcome:
    """kill -9 of the worker at every asset: written, not yet switched in; then re-execution from failure"""
    home, deaths = bench.landed("every-asset"), 0
    job = build_defs(home=home).resolve_job_def(killed.JOB)
    remaining = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
    while remaining and _worker(home, *remaining) == -signal.SIGKILL:
        remaining.remove((home.path / "killed_at").read_text())
        deaths += 1
    succeeded = _worker(home) == 0
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        done = [
            event.step_key
            for run in instance.get_runs()
            for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
        ]
    repeated = len(done) - len({*done})
    survived = succeeded and not remaining and not repeated
    return Outcome(survived, home, bench.one, f"{deaths} deaths, {len(done)} steps done, {repeated} of them twice")


def jvm_in_als(bench: Bench) -> Outcome:
    """the JVM killed in the middle of ALS"""
    home = bench.copy(bench.one, "jvm")
    with served(home) as running:
        run = running.launch("refresh")
        worker = worker_of(home, run)
        jvm = wait_for("a JVM at work", lambda: _busy_jvm(worker, home, run))
        jvm.kill()
        first = running.ended(run)
        again = wait_for("the retried run", lambda: _runs_after(home, run))
        second = running.ended(again)
    return Outcome(
        (first, second) == ("FAILURE", "SUCCESS"), home, bench.one, "the run was tried again, in a new process"
    )


def full_disk(bench: Bench) -> Outcome:
    """a write that hits a size limit, as on a full disk"""
    home = bench.copy(bench.one, "full")
    failed = _self("limited", home)
    kept = len(table(home, "recommendations"))
    again = bench.run("run", home)
    survived = failed.returncode == 1 and "File too large" in failed.stdout and kept > 0 and again.returncode == 0
    return Outcome(survived, home, bench.one, "the version before stayed; `run` made the new one")


def everything_at_once(bench: Bench) -> Outcome:
    """every process of the instance killed at once during a run, then started again"""
    home = bench.copy(bench.one, "everything")
    with served(home) as running:
        run = running.launch("refresh")
        wait_for("the first steps", lambda: len(running.steps(run)) >= 5)
        family = running.family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=30)
    with served(home) as running:
        begun = time.monotonic()
        first = running.ended(run)
        took = time.monotonic() - begun
        again = wait_for("the retried run", lambda: _runs_after(home, run))
        survived = (first, running.ended(again)) == ("FAILURE", "SUCCESS") and took < 10
        repeated = running.steps(run) & running.steps(again)
    return Outcome(survived and not repeated, home, bench.one, f"failed {took:.0f} s after the start, then done")


def daemon_stopped(bench: Bench) -> Outcome:
    """the instance stopped (TERM) while data land, and started again"""
    home = bench.copy(bench.one, "stopped", AWAKE)
    with served(home):
        bench.land_second(home)
    with served(home) as running:
        _refreshed(home)
        del running
    return Outcome(True, home, bench.two, "what landed meanwhile was ingested after the start")


def truncated(bench: Bench) -> Outcome:
    """an asset's file cut off behind Dagster's back"""
    home = bench.copy(bench.one, "truncated")
    file = AssetStore(home.assets).current(["ratings"]) / TABLE_FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused = bench.run("run", home)
    bench.run("backfill", home, killed.BATCH)
    again = bench.run("run", home)
    survived = refused.returncode == 1 and again.returncode == 0
    return Outcome(
        survived, home, bench.one, "`run` fails and names the table; `backfill` of a batch and `run` mend it"
    )


def deleted(bench: Bench) -> Outcome:
    """an asset deleted behind Dagster's back"""
    home = bench.copy(bench.one, "deleted")
    for name in ("ratings", "train_ratings", "serving_model"):
        shutil.rmtree(home.assets / name)
    refused = bench.run("run", home)
    bench.run("backfill", home, killed.BATCH)
    again = bench.run("run", home)
    survived = "has not been materialized" in refused.stderr and again.returncode == 0
    return Outcome(survived, home, bench.one, "`run` says what is missing; `backfill` of a batch and `run` mend it")


def two_at_once(bench: Bench) -> Outcome:
    """two runs of one home started at the same moment, from the command line and in the UI"""
    home = bench.copy(bench.one, "two-runs")
    words = [*PROGRAM, "run", "--home", str(home.path)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in "ab"]
    errors = [process.communicate()[1] for process in both]
    refused = [error for process, error in zip(both, errors, strict=True) if process.returncode]
    with served(home) as running:
        runs = [running.launch("refresh", ["user_features", "user_clusters"]) for _ in "ab"]
        statuses = [running.ended(run) for run in runs]
    survived = len(refused) == 1 and "Another run" in refused[0] and statuses == ["SUCCESS", "SUCCESS"]
    survived = survived and not _overlap(home, runs)
    return Outcome(survived, home, bench.one, "the command line refuses the second, the UI queues it")


def clock_set_back(bench: Bench) -> Outcome:
    """the clock set back by a day between two batches"""
    home = bench.copy(bench.one, "clock")
    bench.land_second(home)
    ran = [_self("yesterday", home).returncode for _ in "ab"]
    return Outcome(ran == [0, 0], home, bench.two, "two runs, each with the clock a day before that of the last")


FAULTS: list[Callable[[Bench], Outcome]] = [
    worker_at_every_asset,
    jvm_in_als,
    full_disk,
    everything_at_once,
    daemon_stopped,
    truncated,
    deleted,
    two_at_once,
    clock_set_back,
]


# What they need


def _worker(home: Home, *deadly: str) -> int:
    command = [sys.executable, "-m", "recsys_assets_tests.killed", str(home.path), *deadly]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode


def _self(mode: str, home: Home) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", mode, str(home.path)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, check=False)


def _busy_jvm(worker: int, home: Home, run: str) -> psutil.Process | None:
    """The JVM of a worker whose run is fitting with Spark."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        begun = {e.step_key for e in instance.all_logs(run, of_type=dg.DagsterEventType.STEP_START)}
    fits = begun & {"cluster_ratings", "als_model", "als_model_unadjusted", "ranking_model", "serving_model"}
    if not fits:
        return None
    family = psutil.Process(worker).children(recursive=True)
    jvms = [process for process in family if "java" in process.name()]
    if not jvms:
        return None
    # Its session is up when it has computed for a few seconds.
    return jvms[0] if sum(jvms[0].cpu_times()[:2]) > 5 else None


def _runs_after(home: Home, run: str) -> str | None:
    """The run that was launched because another failed."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        found = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run}))
    return found[0].run_id if found else None


def _refreshed(home: Home) -> None:
    """Wait until the users of the second batch have recommendations."""
    wait_for("a refresh", lambda: "501" in set(table(home, "recommendations")["user_id"]), 600)


def _overlap(home: Home, runs: list[str]) -> bool:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        records = [instance.get_run_record_by_id(run) for run in runs]
    first, second = sorted((record.start_time or 0, record.end_time or 0) for record in records if record)
    return second[0] < first[1]


def _work_limited(home: Home) -> int:
    """`run` of a process that may write only a few bytes while it writes the recommendations."""
    from recsys_assets.io_managers import AssetIOManager

    write = AssetIOManager._write

    def limited(self: AssetIOManager, context: dg.OutputContext, *arguments: Any) -> Path:
        if context.asset_key != dg.AssetKey("recommendations"):
            return write(self, context, *arguments)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            return write(self, context, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    AssetIOManager._write = limited  # type: ignore[method-assign]
    return _cli_run(home)


def _work_yesterday(home: Home) -> int:
    """`run` of a process whose clock is a day behind that of the newest version."""
    from datetime import datetime, timedelta

    from recsys_assets import storage

    shift = home.path / "days"
    days = int(shift.read_text()) + 1 if shift.exists() else 1
    shift.write_text(str(days))

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Earlier":
            return super().now(tz) - timedelta(days=days)

    storage.datetime = Earlier  # type: ignore[misc]
    return _cli_run(home)


def _cli_run(home: Home) -> int:
    from recsys_assets.cli import app

    return int(app(["run", "--home", str(home.path)], standalone_mode=False) or 0)


def main() -> None:
    """Try each fault and print its row."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", nargs="*", help="names of faults", default=[fault.__name__ for fault in FAULTS])
    arguments.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.worker:
        mode, home = chosen.worker
        sys.exit({"limited": _work_limited, "yesterday": _work_yesterday}[mode](Home(Path(home))))
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        print("| tried | survived | rows lost | how |\n|---|---|---|---|", flush=True)
        for fault in FAULTS:
            if fault.__name__ not in chosen.only:
                continue
            try:
                outcome = fault(bench)
                rows, note = lost(outcome), outcome.note
                survived.append(outcome.survived and not rows)
            except Exception as error:
                # The other faults are tried all the same.
                rows, note = -1, f"{type(error).__name__}: {error}"
                survived.append(False)
            print(f"| {fault.__doc__} | {'yes' if survived[-1] else 'NO'} | {rows} | {note} |", flush=True)
    sys.exit(not all(survived))


if __name__ == "__main__":
    main()
