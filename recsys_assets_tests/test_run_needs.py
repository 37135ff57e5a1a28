"""What `run` says at its end: the time of its stages and the memory that it needed."""

import io
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from recsys_assets.cli import progress
from recsys_assets.cli.memory import Memory, PeakMemory, used_by
from recsys_assets.cli.progress import RunProgress

STEPS = [("ratings", "ingest", 4), ("als_adjusted_model", "models", 90), ("stack_model", "models", 45)]
MANY = [(stage, stage, took) for took, stage in enumerate(("a", "b", "c", "d", "e", "f", "g"), 1)]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    passed = deque([0.0], maxlen=1)
    monkeypatch.setattr(progress.time, "monotonic", lambda: passed[0])
    return passed


def _told(clock, steps, *, failure=""):
    out = io.StringIO()
    with RunProgress(Console(file=out, width=200), Path("log")) as run:
        run.plan(len(steps))
        for step, stage, took in steps:
            run.begin(step, stage)
            clock.append(clock[0] + took)
            run.end(succeeded=True)
        if failure:
            run.fail(failure)
    return out.getvalue().splitlines()


def test_stages_are_told_with_the_longest_first(clock):
    """A run takes an hour, and nobody knows which part of it."""
    assert "Time by stage: models 2 min 15 s, ingest 4.0 s" in _told(clock, STEPS)


def test_short_stages_are_added_up(clock):
    """The end of a run is a screen full of stages that took no time."""
    assert "Time by stage: g 7.0 s, f 6.0 s, e 5.0 s, d 4.0 s, c 3.0 s, others 3.0 s" in _told(clock, MANY)


@pytest.mark.parametrize("failure", ["", "als_adjusted_model failed"])
def test_peak_memory_is_told_whether_or_not_a_run_fails(clock, failure):
    """Somebody chooses a machine for a home, and has to watch `top` for an hour."""
    (told,) = (line for line in _told(clock, STEPS, failure=failure) if line.startswith("Peak memory: "))
    assert float(told.split()[2]) > 0


def test_memory_is_told_by_kind_of_process():
    """Python is made smaller, and it was the JVM."""
    assert str(Memory(3 * 2**30, 2**29)) == "3.5 GiB (Python 3.0, JVM 0.5)"
    assert str(Memory(3 * 2**29, 0)) == "1.5 GiB"


@pytest.mark.skipif(sys.platform != "linux", reason="a script is named after its interpreter on other systems")
def test_children_count_and_a_jvm_is_told_by_its_name(tmp_path):
    """The JVM, or a process that draws charts, needs gigabytes that nobody sees."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nread line\n")
    java.chmod(0o700)
    # A process of its own: that of the tests may have a JVM of other tests.
    parent = (
        "import subprocess, sys; jvm = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE); "
        "filled = b'x' * 100_000_000; print('filled', flush=True); input(); jvm.communicate(b'\\n')"
    )
    words = [sys.executable, "-c", parent, java]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        used = used_by(psutil.Process(started.pid))
        started.communicate(b"\n")
    assert used.jvm > 0
    assert used.python > 100_000_000


def test_a_run_between_two_samples_has_a_peak_too():
    """A short run says that it needed no memory."""
    with PeakMemory(lambda: "als_adjusted_model") as memory:
        pass
    assert memory.peak.total > psutil.Process(os.getpid()).memory_info().rss / 2
    assert memory.during == "als_adjusted_model"
