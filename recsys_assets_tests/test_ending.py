"""Commands that are ended by signals, as people, shells and supervisors send them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest
from filelock import FileLock, Timeout

from recsys_assets.home.layout import Home
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.running import copied
from recsys_assets_tests.served import served, wait_for

COMMAND = Path(sys.executable).with_name("recsys-assets")
ON_SPARK = 'engine = "spark"\n'


@dataclass
class AtWork:
    """A command in a process group of its own, while it works on a home."""

    home: Home
    process: subprocess.Popen[bytes]
    runs_before: frozenset[str]

    def family(self) -> list[psutil.Process]:
        """Every process of it."""
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def jvm(self) -> psutil.Process:
        """The one that Spark runs in."""
        (found,) = [process for process in self.family() if process.name() == "java"]
        return found

    def check_ended(self, sign: int, family: list[psutil.Process]) -> None:
        """It has ended by the signal, with all its processes; what it did is failed, and nobody tries it again."""
        printed = (self.home.path / "printed").read_text
        assert self.process.wait(240) == -sign, printed()
        assert "Interrupted. Finished results are kept." in printed()
        assert not psutil.wait_procs(family, timeout=30)[1]
        with dg.DagsterInstance.from_config(str(self.home.dagster)) as instance:
            runs = instance.get_runs()
        # compact deletes the runs before it.
        begun = [run for run in runs if run.run_id not in self.runs_before]
        assert begun and not any(run.parent_run_id for run in begun), "the run was tried again"
        assert begun[0].status == dg.DagsterRunStatus.FAILURE
        assert begun[0].tags["dagster/will_retry"] == "false"


@contextmanager
def at_work(home: Home, command: str, step: str, sigint: int = signal.SIG_DFL) -> Iterator[AtWork]:
    """A command from the moment at which a step begins; nothing is left of it afterwards.

    Args:
        home: that it works on.
        command: and its arguments.
        step: as it is printed.
        sigint: what the shell that starts it has made of SIGINT.
    """
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        before = frozenset(run.run_id for run in instance.get_runs())
    printed = home.path / "printed"
    words = [COMMAND, *command.split(), "--home", home.path]
    with printed.open("w") as out:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
        )

    def has_begun() -> bool:
        assert process.poll() is None, printed.read_text()
        return f" {step} " in printed.read_text()

    try:
        wait_for(f"{step} of {command}", has_begun)
        yield AtWork(home, process, before)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _home(folder: Path, small_data, settings: str = "") -> Home:
    home = Home(folder)
    home.prepare()
    home.settings_file.write_text(settings + FAST_SETTINGS)
    small_data.write(home.landing / "small")
    return home


@pytest.mark.parametrize(
    ("command", "sign", "sigint"),
    [
        ("run", signal.SIGINT, signal.SIG_DFL),
        pytest.param("backfill small", signal.SIGTERM, signal.SIG_IGN, marks=pytest.mark.slow),
    ],
)
def test_a_command_ends_by_the_signal_that_it_gets(small_data, tmp_path, command, sign, sigint):
    """A script would go on after Ctrl-C, systemd call a stop a failure, or `kill` do nothing to what Bash started."""
    home = _home(tmp_path / "home", small_data)
    with at_work(home, command, "users", sigint) as working:
        family = working.family()
        working.process.send_signal(sign)
        working.check_ended(sign, family)


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.parametrize("is_first", [False, True])
def test_a_jvm_that_is_ended_together_with_its_run_is_no_crash(small_data, tmp_path, is_first):
    """`timeout`, systemd and Docker end the JVM too, before the run or with it: the run would take itself up again."""
    home = _home(tmp_path / "home", small_data, ON_SPARK)
    with at_work(home, "backfill small", "ratings") as working:
        family, jvm = working.family(), working.jvm()
        if is_first:
            # By TERM it would close its connections a second or more before it ends: too early to be the same request.
            jvm.kill()
            wait_for("the end of the JVM", lambda: jvm.status() == psutil.STATUS_ZOMBIE)
        os.killpg(working.process.pid, signal.SIGTERM)
        working.check_ended(signal.SIGTERM, family)


def test_what_cannot_end_is_ended_where_it_stands():
    """A supervisor would wait in vain for a library that keeps control, and then kill only one of its processes.

    The second program is asked twice, and does not wait for its time to run out.
    """
    program = """
import subprocess, sys, time
from recsys_assets.orchestration import ending
ending._GRACE_SECONDS = float(sys.argv[1])
with ending.ending():
    child = subprocess.Popen(["sleep", "600"])
    while True:
        try:
            print(child.pid, flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            pass
"""
    for grace, times in ((2, 1), (600, 2)):
        stuck = subprocess.Popen([sys.executable, "-c", program, str(grace)], stdout=subprocess.PIPE, text=True)
        assert stuck.stdout
        child = psutil.Process(int(stuck.stdout.readline()))
        for _ in range(times):
            stuck.send_signal(signal.SIGTERM)
            assert stuck.stdout.readline()
            time.sleep(1.5 * (times - 1))
        assert stuck.wait(60) == 128 + signal.SIGTERM
        psutil.wait_procs([child], timeout=30)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_is_ended_does_not_end_its_command():
    """A library that stops a worker of its own would look like somebody who asks the command to end."""
    program = """
import multiprocessing, time
from recsys_assets.orchestration.ending import ending, is_ending
with ending():
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    time.sleep(0.5)
    worker.terminate()
    worker.join()
    assert not is_ending(after_a_death=True)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "step"), [("study --protocols time_cut --budget 1", "study_trials"), ("compact", "users")]
)
def test_long_commands_end_with_their_group(materialized_home, tmp_path, command, step):
    """A study of hours, or the erasing of a user, would go on in another process after it was ended."""
    home = copied(materialized_home, tmp_path / "home")
    home.settings_file.write_text(ON_SPARK + FAST_SETTINGS)
    if command == "compact":
        assert invoke("forget", "7", "--no-run", "--home", home.path).exit_code == 0
    with at_work(home, command, step) as working:
        family = working.family()
        os.killpg(working.process.pid, signal.SIGTERM)
        working.check_ended(signal.SIGTERM, family)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_beside_serve_stays_ended(small_data, tmp_path, sign):
    """The daemon of a served home would go on with a run that somebody has just ended or killed."""
    home = _home(tmp_path / "home", small_data, ON_SPARK)
    with home.settings_file.open("a") as settings:
        settings.write("\n[automation]\nsensors = false\nschedule = false\n")
    with served(home), at_work(home, "run", "ratings") as working:
        family = working.family()
        os.killpg(working.process.pid, sign)
        psutil.wait_procs(family, timeout=30)
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            run_id = instance.get_runs(limit=1)[0].run_id
            wait_for("the end of the run", lambda: instance.get_run_by_id(run_id).is_finished)  # type: ignore[union-attr]
            # The daemon looks every few seconds; what it launches is there as soon as it has looked.
            looks = time.monotonic() + 20
            wait_for("looks of the daemon", lambda: time.monotonic() > looks)
            assert instance.get_runs(limit=1)[0].run_id == run_id
            assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]


LOSES_AN_INTERRUPT = """
import io, os, signal, sys, time
from pathlib import Path
import dagster as dg
from rich.console import Console
from recsys_assets.orchestration.ending import ending
from recsys_assets.cli.progress import RunProgress
from recsys_assets.orchestration.run_events import LOGGER_NAME, RunEvents

log = Path(sys.argv[1])
events = RunEvents(RunProgress(Console(file=io.StringIO()), log), log)

@dg.op
def loses_it():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except BaseException:
        pass

@dg.op(ins={"start": dg.In(dg.Nothing)})
def next_step():
    print("began", flush=True)

@dg.job(logger_defs={LOGGER_NAME: events.logger})
def work():
    next_step(loses_it())

with ending():
    work.execute_in_process(run_config={"loggers": {LOGGER_NAME: {}}}, raise_on_error=False)
"""


def test_a_run_whose_step_loses_an_interrupt_ends_at_the_next_step(tmp_path):
    """Ctrl-C while a library runs a callback is lost, and the run would go on until it is ended by force."""
    ended = subprocess.run(
        [sys.executable, "-c", LOSES_AN_INTERRUPT, tmp_path / "log"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert not ended.stdout


HOLDER = """
import sys
from pathlib import Path
from recsys_assets.orchestration import resume
from recsys_assets.cli.run import locked
from recsys_assets.home.layout import Home

with locked(Home(Path(sys.argv[1]))):
    child = resume.start(["-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    child.wait()
"""


def test_a_run_that_goes_on_keeps_the_home_when_its_command_is_killed(tmp_path):
    """Two runs would write one home: the one that goes on in another process, and the next command's."""
    home = Home(tmp_path / "home")
    command = subprocess.Popen([sys.executable, "-c", HOLDER, str(home.path)], stdout=subprocess.PIPE)
    assert command.stdout is not None
    goes_on = psutil.Process(int(command.stdout.readline()))
    try:
        command.kill()
        command.wait()
        with pytest.raises(Timeout):
            FileLock(home.lock).acquire(timeout=0)
    finally:
        goes_on.kill()
    wait_for("the end of the process", lambda: not goes_on.is_running() or goes_on.status() == psutil.STATUS_ZOMBIE)
    FileLock(home.lock).acquire(timeout=10)
