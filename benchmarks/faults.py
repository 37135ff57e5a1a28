"""Breaks things on purpose and prints what survived: the table in docs/reference/faults.md. Run by `make faults`.

Made-up data and real processes. A row survives if the final tables are, row for row, those of an undisturbed run and,
where it says so, nothing was done twice. Usage: python benchmarks/faults.py [--only NAME …]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.shifted_clock import shifted_clock  # noqa: E402
from recsys_assets.home.layout import Home  # noqa: E402
from recsys_assets.home.versions import TABLE_FILE, AssetStore  # noqa: E402
from recsys_assets_tests import kill_points, killed  # noqa: E402
from recsys_assets_tests.conftest import FAST_SETTINGS  # noqa: E402
from recsys_assets_tests.made_up import made_up  # noqa: E402
from recsys_assets_tests.running import copied, table  # noqa: E402
from recsys_assets_tests.served import (  # noqa: E402
    STEP_BEGUN,
    kill_jvm,
    served,
    steps_of,
    unfinished_runs,
    wait_for,
    worker_of,
)

COMPARED = ("ratings", "users", "items", "evaluation_scores", "recommendations")
PROGRAM = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]
STILL = "\n[automation]\nsensors = false\nschedule = false\n"
# The tables that are compared include scores, which `refresh_served` does not make.
AWAKE = '\n[automation]\ntick_seconds = 1\nquiet_seconds = 1\nsensor_job = "refresh"\n'
N_MORE = 4
# The smallest study that fits ALS.
STUDIED = ("--protocols", "time_cut", "--searches", "als", "--budget", "3")
DISK_BYTES = 400_000_000
_DAY = 86_400


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        conditions: what has to hold for it to be survived, by name.
        home: the disturbed one.
        against: an undisturbed one, whose tables it must have; None where the conditions say all.
        note: for the table.
    """

    conditions: Mapping[str, bool]
    home: Home
    against: Home | None
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
    def on_spark(self) -> Home:
        """A home in which everything has run on one batch with the engine Spark: the only one whose runs have a JVM."""
        home = self.landed("one-batch-on-spark", engine="spark")
        self.run("run", home, must=True)
        return home

    @cached_property
    def many(self) -> Home:
        """The same after four more batches."""
        home = self.copy(self.one, "many-batches")
        for number in range(N_MORE):
            self.land_more(home, number)
        self.run("run", home, must=True)
        return home

    def landed(self, name: str, settings: str = STILL, engine: str = "auto") -> Home:
        """A home in which one batch has landed."""
        home = Home(self.folder / name)
        home.prepare()
        _configure(home, settings, engine)
        made_up().write(home.landing / killed.BATCH)
        return home

    def copy(self, of: Home, name: str, settings: str = STILL, engine: str = "auto") -> Home:
        """The same home elsewhere."""
        home = copied(of, self.folder / name)
        _configure(home, settings, engine)
        return home

    def land_more(self, home: Home, number: int) -> None:
        """One of the further batches, with new users."""
        data = made_up(n_users=8, first_user=500 + 100 * number, day=30 * (number + 1), seed=number + 1)
        data.write(home.path / "arriving").rename(home.landing / f"more-{number}")

    def run(self, command: str, home: Home, *arguments: str, must: bool = False) -> subprocess.CompletedProcess[str]:
        """A command of the command line."""
        words = _words(command, home, *arguments)
        ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        if must and ran.returncode:
            sys.exit(f"{command} failed in {home.path}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        return ran


def lost(outcome: Outcome) -> int:
    """Rows of the final tables of an undisturbed run that are not in those of the disturbed one."""
    against = outcome.against
    return sum(_missing(table(against, name), table(outcome.home, name)) for name in COMPARED) if against else 0


def _missing(wanted: pl.DataFrame, found: pl.DataFrame) -> int:
    # Where a rating came from in its file is no part of it.
    columns = [name for name in wanted.columns if name not in ("row", "genres")]
    return len(wanted.join(found, on=columns, how="anti", nulls_equal=True))


# The faults


def worker_at_every_asset(bench: Bench) -> Outcome:
    """kill -9 of the worker at every asset: written, not yet switched in; then re-execution from failure"""
    home = bench.landed("every-asset")
    assets = killed.stages(home)
    command = [sys.executable, "-m", "recsys_assets_tests.killed", str(home.path), *assets]
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, check=False)
    deaths = json.loads((home.path / "deaths.json").read_text()) if ran.returncode == 0 else []
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        done = [step for run in instance.get_runs() for step in steps_of(instance, run.run_id)]
    repeated = len(done) - len({*done})
    conditions = {
        "a death at each asset": {*deaths} == {*assets},
        "all done": ran.returncode == 0,
        "nothing twice": not repeated,
    }
    return Outcome(
        conditions, home, bench.one, f"{len(deaths)} deaths, {len(done)} steps done, {repeated} of them twice"
    )


def jvm_in_als(bench: Bench) -> Outcome:
    """the JVM killed in the middle of ALS, in the running instance"""
    home = bench.copy(bench.on_spark, "jvm", engine="spark")
    with served(home) as running:
        run = running.launch("refresh")
        hit = wait_for("ALS at work", lambda: kill_jvm(home, run, worker_of(home, run)))
        first = running.ended(run)
        again = wait_for("the retried run", lambda: _run_after(home, run))
        second = running.ended(again)
        repeated = running.steps(run) & running.steps(again)
    conditions = {"failed": first == "FAILURE", "done": second == "SUCCESS", "nothing twice": not repeated}
    return Outcome(conditions, home, bench.on_spark, f"killed in {hit}; the daemon took the run up in a new process")


def jvm_of_the_command_line(bench: Bench) -> Outcome:
    """the same to `recsys-assets run`"""
    home = bench.copy(bench.on_spark, "jvm-cli", engine="spark")
    before = _newest(home)
    with subprocess.Popen(_words("run", home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        run = wait_for("a run", lambda: _newest(home) if _newest(home) != before else None)
        hit = wait_for("ALS at work", lambda: kill_jvm(home, run, process.pid))
        process.communicate()
    again = _run_after(home, run)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        repeated = {*steps_of(instance, run)} & {*(steps_of(instance, again) if again else ())}
    conditions = {"exit status 0": process.returncode == 0, "taken up": bool(again), "nothing twice": not repeated}
    return Outcome(conditions, home, bench.on_spark, f"killed in {hit}; `run` took it up in a new process")


def full_disk(bench: Bench) -> Outcome:
    """a write that hits a size limit, as on a full disk"""
    home = bench.copy(bench.one, "full")
    failed = _self("limited", home)
    kept = table(home, "recommendations").equals(table(bench.one, "recommendations"))
    again = bench.run("run", home)
    conditions = {
        f"failed, status {failed.returncode}": failed.returncode == 1,
        "told": "File too large" in failed.stdout,
        "kept": kept,
        f"then done, status {again.returncode}": again.returncode == 0,
    }
    return Outcome(conditions, home, bench.one, "the version before stayed; `run` made the new one")


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
        again = wait_for("the retried run", lambda: _run_after(home, run))
        second = running.ended(again)
        repeated = running.steps(run) & running.steps(again)
    conditions = {
        "failed": first == "FAILURE",
        f"within 10 s ({took:.0f})": took < 10,
        "done": second == "SUCCESS",
        "nothing twice": not repeated,
    }
    return Outcome(conditions, home, bench.one, f"failed {took:.0f} s after the start, then done from where it was")


def stopped_and_started(bench: Bench) -> Outcome:
    """daemon and web server stopped (TERM) during a run, more data landing meanwhile, started again"""
    home = bench.copy(bench.one, "stopped", AWAKE)
    with served(home) as running:
        bench.land_more(home, 0)
        run = wait_for("an ingest run", lambda: next(iter(_runs(home, "ingest")), None))
        wait_for("its first steps", lambda: running.steps(run))
    for number in range(1, N_MORE):
        bench.land_more(home, number)
    with served(home):
        _recommended(home)
    refreshes = len(_runs(home, "refresh"))
    conditions = {"the stopped run taken up": _is_done(home, run) or _run_after(home, run) is not None}
    return Outcome(
        conditions,
        home,
        bench.many,
        f"the run was done or taken up, the rest ingested; {refreshes} refreshes",
    )


def truncated(bench: Bench) -> Outcome:
    """an asset's file cut off behind Dagster's back"""
    home = bench.copy(bench.one, "truncated")
    file = AssetStore(home.assets).current(["ratings"]) / TABLE_FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused = bench.run("run", home)
    backfilled = bench.run("backfill", home, killed.BATCH)
    again = bench.run("run", home)
    conditions = {
        "noticed": refused.returncode == 1 and TABLE_FILE in refused.stderr,
        "read again": backfilled.returncode == 0,
        "done": again.returncode == 0,
    }
    return Outcome(
        conditions, home, bench.one, "`run` fails and names the file; `backfill` of a batch and `run` fix it"
    )


def deleted(bench: Bench) -> Outcome:
    """assets deleted behind Dagster's back"""
    home = bench.copy(bench.one, "deleted")
    for name in ("ratings", "train_ratings", "serving_model"):
        shutil.rmtree(home.assets / name)
    refused = bench.run("run", home)
    backfilled = bench.run("backfill", home, killed.BATCH)
    again = bench.run("run", home)
    conditions = {
        "noticed": "has not been materialized" in refused.stderr,
        "read again": backfilled.returncode == 0,
        "done": again.returncode == 0,
    }
    return Outcome(conditions, home, bench.one, "`run` says what is missing; `backfill` of a batch and `run` fix it")


def two_at_once(bench: Bench) -> Outcome:
    """four runs of one home started at the same moment: two on the command line, two in the UI"""
    home = bench.copy(bench.one, "two-runs")
    before = set(_runs(home))
    with served(home) as running:
        both = [
            subprocess.Popen(_words("run", home), stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
            for _ in "ab"
        ]
        runs = [running.launch("refresh") for _ in "ab"]
        errors = [process.communicate()[1] for process in both]
        statuses = [running.ended(run) for run in runs]
    refused = [error for process, error in zip(both, errors, strict=True) if process.returncode]
    done = set(_runs(home)) - before
    conditions = {
        "refused": len(refused) >= 1 and all("Another run" in error for error in refused),
        "the rest done": statuses == ["SUCCESS", "SUCCESS"] and len(done) == len(runs) + 2 - len(refused),
        "never two at a time": not _overlap(home, done),
    }
    return Outcome(
        conditions, home, bench.one, "the command line refuses the second; those of the UI wait for each other"
    )


def clock_set_back(bench: Bench) -> Outcome:
    """the clock set back by a day before each of four batches"""
    home = bench.copy(bench.one, "clock")
    statuses = []
    for number in range(N_MORE):
        bench.land_more(home, number)
        statuses.append(_self("yesterday", home).returncode)
    return Outcome(
        {f"done {statuses}": not any(statuses)}, home, bench.many, f"{N_MORE} runs, each a day before the last"
    )


def jvm_in_study(bench: Bench) -> Outcome:
    """the JVM killed in `study`, between two trials of ALS"""
    home = bench.copy(bench.on_spark, "jvm-study", engine="spark")
    before = _newest(home)
    with subprocess.Popen(_words("study", home, *STUDIED), stdout=subprocess.DEVNULL) as process:
        run = wait_for("its run", lambda: _newest_with_trials(home, before))
        kept = _trials(home)
        wait_for("the JVM", lambda: _kill_java(process.pid))
    again = wait_for("the run that takes it up", lambda: _run_after(home, run)) if not process.returncode else None
    now = _trials(home)
    conditions = {
        f"exit status 0, not {process.returncode}": process.returncode == 0,
        "taken up": again is not None,
        "no trial twice": all(now.get(path) == when for path, when in kept.items()),
        "scored": AssetStore(home.assets).has(["study_scores"], "time_cut"),
    }
    return Outcome(
        conditions, home, bench.on_spark, f"{len(kept)} trials were kept, {len(now) - len(kept)} made afterwards"
    )


def full_disk_in_study(bench: Bench) -> Outcome:
    """a disk that is full in `study`, then has room again"""
    with _small_disk(bench.folder / "disk-of-study") as disk:
        home = bench.copy(bench.one, "disk-of-study/home")
        filled = _filled(disk, leaving=200_000)
        failed = bench.run("study", home, *STUDIED)
        filled.unlink()
        again = bench.run("study", home, *STUDIED)
        conditions = {
            f"failed, status {failed.returncode}": failed.returncode == 1,
            f"told in one line: {failed.stderr[-300:]!r}": _tells_of_room(failed.stderr),
            f"then done, status {again.returncode}": again.returncode == 0,
        }
        return _judged(conditions, home, bench.one, "one line says so; given again, `study` went on")


def full_disk_beside_serve(bench: Bench) -> Outcome:
    """a disk that is full beside `serve` while it ingests four batches, then has room again"""
    with _small_disk(bench.folder / "disk-of-serve") as disk:
        home = bench.copy(bench.one, "disk-of-serve/home", AWAKE)
        before = set(_runs(home))
        with served(home) as running:
            for number in range(N_MORE):
                bench.land_more(home, number)
            run = wait_for(
                "an ingest run", lambda: next((run for run in _runs(home, "ingest") if run not in before), None)
            )
            worker = psutil.Process(worker_of(home, run))
            filled = _filled(disk, leaving=0)
            wait_for("the end of its worker", lambda: _is_gone(worker))
            is_served = running.process.poll() is None
            filled.unlink()
            _recommended(home)
            is_served = is_served and running.process.poll() is None
        conditions = {
            "the run failed": not _is_done(home, run),
            "serve went on": is_served,
            f"refreshed; failed runs: {_failures(home)}": any(_is_done(home, run) for run in _runs(home, "refresh")),
        }
        return _judged(conditions, home, bench.many, "the run failed, `serve` went on and read the batches afterwards")


def clock_jumps_beside_serve(bench: Bench) -> Outcome:
    """the clock set back by a day, forward by two and back by one, twice, beside `serve`; a batch lands after each"""
    home = bench.copy(bench.one, "clock-serve", AWAKE)
    if not shutil.which("cc"):
        raise NotTriedError("a clock of its own needs a C compiler")
    with shifted_clock(bench.folder / "clock-library") as set_to, served(home) as running:
        for number, shift in enumerate((-_DAY, _DAY, 0, -_DAY)):
            set_to(shift)
            bench.land_more(home, number)
            _recommended(home, number)
        is_served = running.process.poll() is None
    return Outcome({"serve went on": is_served}, home, bench.many, "each batch was read and led to recommendations")


def killed_at_every_change(bench: Bench) -> Outcome:
    """add, remove, forget, compact, rollback and upgrades killed before each change in a home, then given again"""
    folder = bench.folder / "killed"
    copied(bench.one, folder / "everything")
    command = [sys.executable, "-m", "recsys_assets_tests.kill_points", str(folder), "1"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    moments = {name: count for line in ran.stdout.splitlines() for name, count in json.loads(line).items()}
    told = ", ".join(f"{name} {count or '(no second disk)'}" for name, count in moments.items())
    missing = [name for name in kill_points.SCENARIOS if name not in moments]
    conditions = {"nothing lost, nobody left": ran.returncode == 0, f"all of them (not {missing})": not missing}
    return Outcome(conditions, Home(folder), None, f"kills: {told}")


FAULTS: list[Callable[[Bench], Outcome]] = [
    worker_at_every_asset,
    jvm_in_als,
    jvm_of_the_command_line,
    full_disk,
    everything_at_once,
    stopped_and_started,
    truncated,
    deleted,
    two_at_once,
    clock_set_back,
    jvm_in_study,
    full_disk_in_study,
    full_disk_beside_serve,
    clock_jumps_beside_serve,
    killed_at_every_change,
]


# What they need


def _configure(home: Home, settings: str, engine: str) -> None:
    # A key outside all sections comes before the first section.
    home.settings_file.write_text(f'engine = "{engine}"\n{FAST_SETTINGS}{settings}')


def _self(mode: str, home: Home) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", mode, str(home.path)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, check=False)


def _words(command: str, home: Home, *arguments: str) -> list[str]:
    return [*PROGRAM, command, *arguments, "--home", str(home.path)]


class NotTriedError(Exception):
    """This machine lacks what a fault needs."""


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A disk of its own, which can be filled."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise NotTriedError("mounting a small disk needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _filled(disk: Path, leaving: int) -> Path:
    """A file that takes all room on a disk but for so many bytes."""
    file = disk / "filled"
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        stream.write(bytes(max(shutil.disk_usage(disk).free - leaving, 0)))
        while not leaving:
            stream.write(bytes(4096))
    return file


def _tells_of_room(stderr: str) -> bool:
    return "The disk is full" in stderr and "Free some space" in stderr and "Traceback" not in stderr


def _judged(conditions: Mapping[str, bool], home: Home, against: Home, note: str) -> Outcome:
    """An outcome whose lost rows are counted now, because its home goes with its disk."""
    rows = lost(Outcome(conditions, home, against, note))
    return Outcome({**conditions, f"{rows} rows lost": not rows}, home, None, note)


def _newest_with_trials(home: Home, before: str | None) -> str | None:
    """The newest run, if it is another one and has kept a trial of ALS."""
    run = _newest(home)
    return run if run != before and _trials(home) else None


def _trials(home: Home) -> dict[Path, int]:
    """The trials that a study has kept, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in home.study.glob("trials/**/*.json")}


def _failures(home: Home) -> list[str]:
    """What failures.log tells about the runs that `serve` has launched."""
    return home.failures.read_text().splitlines() if home.failures.exists() else []


def _is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _kill_java(parent: int) -> bool:
    """Kill the JVM of a process; whether there was one."""
    found = [child for child in psutil.Process(parent).children(recursive=True) if child.name() == "java"]
    for process in found:
        process.kill()
    return bool(found)


def _runs(home: Home, job: str | None = None) -> list[str]:
    """Ids of the runs there have been, the newest first."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        return [run.run_id for run in instance.get_runs(dg.RunsFilter(job_name=job))]


def _newest(home: Home) -> str | None:
    return next(iter(_runs(home)), None)


def _is_done(home: Home, run: str) -> bool:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        found = instance.get_run_by_id(run)
    return found is not None and found.is_success


def _run_after(home: Home, run: str) -> str | None:
    """The run that was launched because another failed."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        found = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run}))
    return found[0].run_id if found else None


def _recommended(home: Home, number: int = N_MORE - 1) -> None:
    """Wait until the users of a further batch have recommendations, and nothing is at work any more."""
    last = str(500 + 100 * number)

    def is_done() -> bool:
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            return last in set(table(home, "recommendations")["user_id"]) and not unfinished_runs(instance)

    wait_for(f"recommendations for batch {number}", is_done, 1800)


def _overlap(home: Home, runs: Collection[str]) -> bool:
    """Whether any two runs had steps at work at the same time."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        spans = sorted(
            (min(steps_of(instance, run, STEP_BEGUN).values()), max(steps_of(instance, run).values())) for run in runs
        )
    return any(later[0] < earlier[1] for earlier, later in pairwise(spans))


def _work_limited(home: Home) -> int:
    """`run` of a process that may write only a few bytes while it writes the recommendations."""
    from recsys_assets.orchestration.io_managers import AssetIOManager

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

    from recsys_assets.home import versions as storage

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
    names = [fault.__name__ for fault in FAULTS]
    arguments.add_argument("--only", nargs="+", help="names of faults", default=names, choices=names, metavar="NAME")
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
                failed = [name for name, holds in outcome.conditions.items() if not holds]
            except NotTriedError as error:
                print(f"| {fault.__doc__} | not tried | | {error} |", flush=True)
                continue
            except Exception as error:
                # The other faults are tried all the same.
                rows, note, failed = -1, "", [f"{type(error).__name__}: {error}"]
            survived.append(not failed and not rows)
            told = "; ".join([note, *(f"not: {name}" for name in failed)])
            print(f"| {fault.__doc__} | {'yes' if survived[-1] else 'NO'} | {rows} | {told} |", flush=True)
    sys.exit(not all(survived))


if __name__ == "__main__":
    main()
