"""Time, memory and disk of the whole graph on generated data of a given size, from an empty home to the report.

Prints a Markdown table of the heaviest steps. With several sizes it adds the exponent of growth: time grows as the
ratings to this power. Each size runs in processes of its own. Seconds of the processor, of all cores together, are
those that a busy machine hardly changes; memory is sampled, so that shorter peaks are missed.
Usage: python benchmarks/scale.py [--ratings 1000000 …] [--select SELECTION] [--minutes 120] [--steps 25]
[--homes FOLDER] [--refresh] [--cluster] [--settings TEXT]
With --refresh, 100,000 new ratings land after the run of each size; then `ingest` and `refresh_served` are measured, as
new data start them beside `serve`. --refresh-only does just this to the homes that an earlier call has kept; their
settings become those of this call, if it has --cluster or --settings.
With --cluster, Spark computes everything, checks included, on a standalone cluster of two workers with a core each;
what is measured then is the driver: its Python process and its JVM, without the executors.
"""

import argparse
import bisect
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.generate import FULL_RATINGS, Size, cache, generate  # noqa: E402
from recsys_assets.cli.memory import used_by  # noqa: E402
from recsys_assets.cli.run import environment, launch, locked  # noqa: E402
from recsys_assets.cli.terminal import console  # noqa: E402
from recsys_assets.home.landing import land  # noqa: E402
from recsys_assets.home.layout import Home  # noqa: E402
from recsys_assets.orchestration.build import build_defs  # noqa: E402
from recsys_assets.orchestration.jobs import ingest, refresh_served  # noqa: E402
from recsys_assets.orchestration.planning import Launch, pipeline_assets, plan  # noqa: E402
from recsys_assets_tests.spark_servers import standalone_cluster  # noqa: E402

_GIB = 2**30
_EVERY_SECONDS = 0.5
# A command that is asked to end does so within 8 seconds, or kills itself.
_GRACE_SECONDS = 30
_BUSY_LOAD = 0.5
# The whole graph at the size of MovieLens latest, and growth in proportion to the ratings.
_MOST_SECONDS, _MOST_EXPONENT = 900, 0.6
# New ratings of a refresh; another seed than that of the first batch.
_NEW_RATINGS, _NEW_SEED, _NEW_BATCH = 100_000, 1, "new.csv"
_REFRESH = "ingest and refresh_served"
# What the driver's JVM and each of two executors get, and the partitions of a shuffle.
_DRIVER_MEMORY, _EXECUTOR_MEMORY, _PARTITIONS = "1g", "3g", 16


@dataclass(frozen=True)
class Sample:
    """What a process and its descendants have used so far (`processor`, seconds) and use now (bytes)."""

    when: float
    processor: float
    python: int
    jvm: int


@dataclass(frozen=True)
class Step:
    """What a step took and needed. `peak` is of all processes together, `python` of those that are no JVM, in bytes."""

    name: str
    seconds: float
    processor: float
    peak: int
    python: int
    is_done: bool = True


@dataclass(frozen=True)
class Measured:
    """A run over one size. `seconds` and `processor` include the start of the program; `peak` is the largest sample."""

    size: Size
    seconds: float
    processor: float
    peak: Sample
    disk: int
    steps: Sequence[Step]
    end: str


def sample(process: psutil.Process) -> Sample | None:
    """The present sample; None if the process has ended."""
    try:
        processes = [process, *process.children(recursive=True)]
        processor = 0.0
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                # The times of children that have ended are in those of their parent.
                processor += sum(one.cpu_times()[:4])
        memory = used_by(process)
    except psutil.NoSuchProcess:
        return None
    return Sample(time.time(), processor, memory.python, memory.jvm) if memory.total else None


def measure(size: Size, home: Home, select: str | None, minutes: float, settings: str) -> Measured:
    """Land the generated ratings in an empty home, run, and end the run after some minutes."""
    source = cache(size, 0)
    generate(source, size, formats=("csv",))
    home.prepare()
    if settings:
        home.settings_file.write_text(settings)
    land(home, source / "csv", "generated")
    return _measured(size, home, select, minutes)


def measure_refresh(size: Size, home: Home, minutes: float, settings: str) -> Measured:
    """Land new ratings in a home in which everything has run, ingest them and refresh what is served."""
    if settings:
        home.settings_file.write_text(settings)
    new = Size.of(_NEW_RATINGS)
    source = cache(new, _NEW_SEED)
    generate(source, new, seed=_NEW_SEED, formats=("csv",))
    land(home, source / "csv" / "ratings.csv", _NEW_BATCH)
    return _measured(size, home, _REFRESH, minutes)


def _measured(size: Size, home: Home, select: str | None, minutes: float) -> Measured:
    asked = ["--child", str(home.path), *(["--select", select] if select else [])]
    begun, samples = time.time(), list[Sample]()
    with (home.path / "benchmark.log").open("ab") as log:
        # A session of its own: the signals of this command's terminal do not reach the run.
        run = subprocess.Popen(
            [sys.executable, __file__, *asked], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            end = _watched(run, begun + 60 * minutes, samples)
        finally:
            _ended(run)
    ended = time.time()
    return Measured(
        size=size,
        seconds=ended - begun,
        processor=samples[-1].processor,
        peak=max(samples, key=lambda one: one.python + one.jvm),
        disk=_on_disk(home),
        steps=[*_steps(home, samples, begun, ended)],
        end=end,
    )


def _watched(run: subprocess.Popen[bytes], deadline: float, samples: list[Sample]) -> str:
    """Sample until the run ends, or end it at the deadline; how it has ended, in words."""
    process = psutil.Process(run.pid)
    while run.poll() is None:
        if found := sample(process):
            samples.append(found)
        if time.time() > deadline:
            return "ended by the limit of minutes"
        time.sleep(_EVERY_SECONDS)
    return "done" if run.returncode == 0 else f"failed with exit status {run.returncode}"


def _ended(run: subprocess.Popen[bytes]) -> None:
    """End the run with everything that it has started: its process group."""
    if run.poll() is None:
        run.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            run.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def _steps(home: Home, samples: Sequence[Sample], since: float, ended: float) -> Iterator[Step]:
    """All steps of the runs since a time, from Dagster's event log; the one that was cut off ends with the run."""
    of_type = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE}
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for run in instance.get_runs(dg.RunsFilter(created_after=datetime.fromtimestamp(since, UTC))):
            begun: dict[str, float] = {}
            for event in instance.all_logs(run.run_id, of_type=of_type):
                if event.dagster_event_type == dg.DagsterEventType.STEP_START:
                    begun[str(event.step_key)] = event.timestamp
                else:
                    is_done = event.dagster_event_type == dg.DagsterEventType.STEP_SUCCESS
                    step = str(event.step_key)
                    yield _step(step, begun.pop(step), event.timestamp, samples, is_done=is_done)
            for step, start in begun.items():
                yield _step(step, start, ended, samples, is_done=False)


def _step(key: str, begun: float, ended: float, samples: Sequence[Sample], *, is_done: bool) -> Step:
    times = [one.when for one in samples]
    # From the last sample before the step to the first one after it.
    within = samples[max(bisect.bisect(times, begun) - 1, 0) : bisect.bisect(times, ended) + 1]
    inside = [one for one in within if begun <= one.when <= ended] or within
    share = (ended - begun) / max(within[-1].when - within[0].when, ended - begun, 1e-9)
    return Step(
        name=key.replace("__", "/"),
        seconds=ended - begun,
        processor=(within[-1].processor - within[0].processor) * share,
        peak=max(one.python + one.jvm for one in inside),
        python=max(one.python for one in inside),
        is_done=is_done,
    )


def _on_disk(home: Home) -> int:
    """Bytes of the home's files, landed ratings included."""
    return sum(path.lstat().st_size for path in home.path.rglob("*") if path.is_file() and not path.is_symlink())


def run_here(home: Home, select: str | None) -> None:
    """Run what the home needs, or what of it is in a selection or a job."""
    with locked(home):
        launch(home, console(), _chosen(home, select) if select else ())


def _chosen(home: Home, select: str) -> list[Launch]:
    with environment(home.environment), dg.DagsterInstance.get() as instance:
        defs = build_defs(home=home)
        assets = pipeline_assets(defs)
        if select == _REFRESH:
            reading = [one for one in plan(home, instance, assets) if one.job == ingest.name]
            return [*reading, Launch(refresh_served.name, "Refreshing what is served")]

        def keys(job: str) -> set[dg.AssetKey]:
            return set(defs.resolve_job_def(job).asset_layer.selected_asset_keys)

        is_job = select in {job.name for job in defs.jobs or []}
        wanted = keys(select) if is_job else set(dg.AssetSelection.from_string(select).resolve(assets))
        planned = [(one, sorted(wanted & set(one.assets or keys(one.job)))) for one in plan(home, instance, assets)]
        return [replace(one, title=f"Selected: {select}", assets=chosen) for one, chosen in planned if chosen]


def table(results: Sequence[Measured], n_steps: int) -> Iterator[str]:
    """Lines of Markdown: the whole, the heaviest steps at the largest size, and how each has grown."""
    first, last = results[0], results[-1]
    yield "| ratings | users | items | end | seconds | of the processor | peak, GiB (Python + JVM) | home, GiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in results:
        size, peak = one.size, one.peak
        yield (
            f"| {size.ratings:,} | {size.users:,} | {size.items:,} | {one.end}, {len(one.steps)} steps | "
            f"{one.seconds:,.0f} | {one.processor:,.0f} | "
            f"{(peak.python + peak.jvm) / _GIB:.1f} ({peak.python / _GIB:.1f} + {peak.jvm / _GIB:.1f}) | "
            f"{one.disk / _GIB:.2f} |"
        )
    yield ""
    if len(results) > 1:
        yield f"Growth: seconds of the processor as the ratings to the power of {_exponent(first, last):.2f}."
        yield ""
    columns = [f"{one.size.ratings:,}: s | of the processor | peak, GiB (Python)" for one in results]
    yield "| step | " + " | ".join(columns) + (" | exponent |" if len(results) > 1 else " |")
    yield "|---|" + "---|---|---|" * len(results) + ("---|" if len(results) > 1 else "")
    by_name = [{step.name: step for step in one.steps} for one in results]
    for heavy in sorted(last.steps, key=lambda step: -step.seconds)[:n_steps]:
        yield _row(heavy, by_name, first.size, last.size)


def aims(results: Sequence[Measured]) -> Iterator[str]:
    """Lines of Markdown about runs from an empty home to the report: each figure that has an aim."""
    first, last = results[0], results[-1]
    figures = []
    if last.size.ratings == FULL_RATINGS:
        figures.append((f"seconds at {FULL_RATINGS:,} ratings", f"{last.seconds:,.0f}", last.seconds, _MOST_SECONDS))
    if len(results) > 1:
        power = _exponent(first, last)
        figures.append((f"exponent from {first.size.ratings:,} ratings on", f"{power:.2f}", power, _MOST_EXPONENT))
    if figures:
        yield "| the whole graph | seen | aim | met |"
        yield "|---|---|---|---|"
    for name, told, value, most in figures:
        met = "yes" if value <= most and last.end == "done" else "**no**"
        yield f"| {name} | {told} | ≤ {most:g} | {met} |"


def _row(heavy: Step, by_name: Sequence[Mapping[str, Step]], first: Size, last: Size) -> str:
    cells = [heavy.name if heavy.is_done else f"{heavy.name} (not done)"]
    for steps in by_name:
        step = steps.get(heavy.name)
        cells += (
            [f"{step.seconds:,.1f}", f"{step.processor:,.1f}", f"{step.peak / _GIB:.1f} ({step.python / _GIB:.1f})"]
            if step
            else ["–"] * 3
        )
    if len(by_name) > 1:
        before = by_name[0].get(heavy.name)
        is_known = before and before.processor > _EVERY_SECONDS and heavy.is_done
        cells.append(f"{_power(before.processor, heavy.processor, first, last):.2f}" if before and is_known else "–")
    return f"| {' | '.join(cells)} |"


def _exponent(first: Measured, last: Measured) -> float:
    return _power(first.processor, last.processor, first.size, last.size)


def _power(before: float, after: float, first: Size, last: Size) -> float:
    return math.log(after / before) / math.log(last.ratings / first.ratings)


def machine(load: float) -> Iterator[str]:
    """Lines about the machine, its load before the run, and the versions."""
    cores = os.cpu_count() or 1
    cpu = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("recsys_assets", "polars", "numpy", "pyspark", "dagster")
    )
    memory = psutil.virtual_memory().total / _GIB
    yield f"{cores} cores ({cpu[0] if cpu else platform.processor()}), {memory:.0f} GiB; {platform.platform()}"
    yield f"Python {platform.python_version()}, {versions}"
    if load > _BUSY_LOAD:
        yield f"The machine was busy (load {load:.1f} before the run): seconds are upper bounds."


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main() -> None:
    """Measure each size and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, action="append", help="may be repeated, from small to large")
    parser.add_argument("--select", help="a job, or an asset selection such as 'group:ingest'")
    parser.add_argument("--minutes", type=float, default=120, help="end the run of a size after so long")
    parser.add_argument("--steps", type=int, default=25, help="how many steps to print")
    parser.add_argument("--homes", type=Path, help="keep the homes in this folder, which must not hold any yet")
    parser.add_argument("--refresh", action="store_true", help="then measure a refresh after new ratings")
    parser.add_argument("--refresh-only", action="store_true", help="measure that on the kept homes alone")
    parser.add_argument("--cluster", action="store_true", help="compute everything on a standalone cluster of Spark")
    parser.add_argument("--settings", default="", help="text of settings.toml, after that of --cluster")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        run_here(Home(asked.child), asked.select)
        return
    # Without a handler, `kill` would end this process alone, and the run would work on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by a signal"))
    load = os.getloadavg()[0]
    results, refreshes = list[Measured](), list[Measured]()
    with tempfile.TemporaryDirectory() as scratch, _spark(asked.cluster, Path(scratch)) as of_cluster:
        settings = of_cluster + asked.settings
        for ratings in asked.ratings or [1_000_000]:
            size, home = Size.of(ratings), Home((asked.homes or Path(scratch)) / f"{ratings}")
            if home.path.exists() != asked.refresh_only:
                sys.exit(f"{home.path}: a run begins with an empty home, and a refresh with one that was kept")
            if not asked.refresh_only:
                results.append(measure(size, home, asked.select, asked.minutes, settings))
                _tell(results[-1], home)
            if asked.refresh or asked.refresh_only:
                refreshes.append(measure_refresh(size, home, asked.minutes, settings))
                _tell(refreshes[-1], home)
    parts = [machine(load), *(table(found, asked.steps) for found in (results, refreshes) if found)]
    if results and not asked.select:
        parts.append(aims(results))
    print("\n\n".join("\n".join(part) for part in parts))


@contextmanager
def _spark(is_wanted: bool, folder: Path) -> Iterator[str]:
    """Start the cluster, if it is wanted; the settings that use it."""
    if not is_wanted:
        yield ""
        return
    with standalone_cluster(folder / "cluster", memory=_EXECUTOR_MEMORY) as cluster:
        sizes = f'driver_memory = "{_DRIVER_MEMORY}"\nshuffle_partitions = {_PARTITIONS}\n'
        checks = "[scale]\nspark_from_rows = 1\n"
        yield f'engine = "spark"\n{checks}[spark]\n{sizes}{cluster.settings(_EXECUTOR_MEMORY)}'


def _tell(found: Measured, home: Home) -> None:
    print(f"{found.size.ratings:,} ratings: {found.end}", file=sys.stderr)
    if found.end.startswith("failed"):
        sys.exit((home.path / "benchmark.log").read_text())


if __name__ == "__main__":
    main()
