"""The benchmark of the whole graph: how samples become figures of steps, and what its tables say."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import scale
from benchmarks.generate import Size
from benchmarks.scale import Measured, Sample, Step
from recsys_assets_tests.served import wait_for

GIB = 2**30
SAMPLES = [Sample(when, processor=2.0 * when, python=(1 + when % 3) * GIB, jvm=0) for when in range(10)]


def _measured(ratings, factor, *steps):
    peak = Sample(0.0, 0.0, 3 * GIB, GIB)
    return Measured(Size.of(ratings), 10.0 * factor, 20.0 * factor, peak, GIB // 2, steps, "done")


def test_a_step_gets_the_processor_seconds_and_the_peak_of_its_own_time():
    """The peak of one step is blamed on the step after it, and somebody mends the wrong one."""
    found = scale._step("predictions__top_n__ease", 3.2, 4.8, SAMPLES, is_done=True)
    assert found.name == "predictions/top_n/ease"
    assert (found.seconds, found.processor) == (pytest.approx(1.6), pytest.approx(3.2))
    assert found.peak == 2 * GIB


def test_a_step_between_two_samples_has_figures_too():
    """Short steps are missing in the table, or stop it with an error."""
    found = scale._step("users", 3.2, 3.4, SAMPLES, is_done=True)
    assert found.processor == pytest.approx(0.4)
    assert found.peak > 0


def test_growth_is_told_as_an_exponent_of_the_ratings():
    """Time that grows faster than the ratings is not seen before somebody has 27 million."""
    small = _measured(10_000, 1, Step("als_adjusted_model", 4.0, 8.0, GIB, GIB), Step("users", 0.1, 0.1, GIB, 0))
    large = _measured(
        1_000_000, 10, Step("als_adjusted_model", 400.0, 800.0, 2 * GIB, GIB), Step("users", 1.0, 1.0, GIB, 0)
    )
    lines = list(scale.table([small, large], n_steps=25))
    assert "Growth: seconds of the processor as the ratings to the power of 0.50." in lines
    assert "| als_adjusted_model | 4.0 | 8.0 | 1.0 (1.0) | 400.0 | 800.0 | 2.0 (1.0) | 1.00 |" in lines
    assert "| users | 0.1 | 0.1 | 1.0 (0.0) | 1.0 | 1.0 | 1.0 (0.0) | – |" in lines


def test_a_step_that_was_cut_off_is_not_told_as_done():
    """A run is ended after an hour, and the step that it hung in looks fast."""
    lines = list(
        scale.table([_measured(10_000, 1, Step("als_adjusted_model", 4.0, 8.0, GIB, GIB, is_done=False))], n_steps=25)
    )
    assert "| als_adjusted_model (not done) | 4.0 | 8.0 | 1.0 (1.0) |" in lines


def test_a_run_is_ended_at_its_limit_with_all_that_it_has_started():
    """`--minutes 5` leaves a JVM that works on until somebody sees it."""
    works = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with subprocess.Popen([sys.executable, "-c", works], start_new_session=True) as run:
        process = psutil.Process(run.pid)
        while not process.children():
            time.sleep(0.01)
        (child,) = process.children()
        samples = []
        assert scale._watched(run, 0, samples) == "ended by the limit of minutes"
        scale._ended(run)
    assert samples
    # A killed process is there for a moment, and then a zombie until somebody reaps it.
    wait_for("the end", lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, seconds=60)
