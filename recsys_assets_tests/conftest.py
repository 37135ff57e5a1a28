"""What tests of several stages share: one home in which the whole pipeline has run once."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from recsys_assets.cli import app
from recsys_assets.home.layout import Home
from recsys_assets_tests.browser import CHROMIUM, Browser, chromium
from recsys_assets_tests.made_up import MadeUp, made_up

# How long an example takes says something about the machine, nothing about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# GNU readline writes the size of a terminal into the environment of the workers, where there is none. Output to a pipe
# would be as narrow as that.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)

# Little data: the JVM would compile far longer than it computes.
os.environ["PYSPARK_SUBMIT_ARGS"] = "--driver-java-options '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC' pyspark-shell"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Give each worker a file at a time, and all files with Spark to one worker: a second JVM would start cold."""

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / super()._split_scope(nodeid))

    return Scheduling(config, log)


@cache
def _group(file: Path) -> str:
    return "spark" if "pytest.mark.spark" in file.read_text() else str(file)


# After the deselection of slow tests: a file of which nothing runs makes no home.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the groups: largest first, as xdist would, but only one of the two workers waits for the shared home.

    The first group makes it. Meanwhile the other worker has the groups that need no such home. A test with Spark counts
    as twenty others.
    """
    groups = {item: _group(item.path) for item in items}
    n_tests = Counter[str]()
    for item, group in groups.items():
        n_tests[group] += 20 if item.get_closest_marker("spark") else 1
    needing = {group for item, group in groups.items() if "first_run" in getattr(item, "fixturenames", ())}
    first = max(needing, key=lambda group: (n_tests[group], group), default=None)

    def place(item: pytest.Item) -> tuple[bool, bool, int, str, str]:
        group = groups[item]
        return group != first, group in needing, -n_tests[group], group, str(item.path)

    items.sort(key=place)


@event.listens_for(Engine, "connect")
def _without_waiting_for_the_disk(connection: Any, _: object) -> None:
    """Run histories of tests need not survive a power cut: a third of a run's time was waiting for the disk."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


FAST_SETTINGS = """
[clusters]
k = 2
k_max = 4

[als]
rank = 4
max_iter = 3
n_blocks = 1

[implicit_als]
rank = 4
max_iter = 3

[next_implicit_als]
rank = 4
max_iter = 3
n_blocks = 1

[segments]
n_segments = 2
batch_size = 16

[evaluation]
n_resamples = 100
# The quick choice fits a dozen models: where it is meant, a test sets this to auto.
selected_ranking_model = "blend"

[spark]
master = "local[2]"
driver_memory = "1g"
shuffle_partitions = 1
"""


def invoke(*arguments: object) -> Result:
    """The command line in this process; the environment is as before afterwards."""
    with pytest.MonkeyPatch.context() as environment:
        for variable in ("DAGSTER_HOME", "RECSYS_HOME", "DAGSTER_DISABLE_TELEMETRY"):
            # Set and taken away again, so that what the command sets is undone as well.
            environment.setenv(variable, "")
            environment.delenv(variable)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def small_data() -> MadeUp:
    """What the shared home was made from."""
    return made_up()


@dataclass(frozen=True)
class Printed:
    """What a command printed: all of it, and without what went to the error stream."""

    output: str
    stdout: str


@pytest.fixture(scope="session")
def first_run(small_data, tmp_path_factory, worker_id) -> tuple[Home, Printed]:
    """A home with every asset, and what `recsys-assets run` printed: one run for all tests, on all workers.

    Read only: a test that changes a home makes its own.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    home, printed = Home(folder / "home"), folder / "printed.json"
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            home.prepare()
            home.settings_file.write_text(FAST_SETTINGS)
            added = invoke("add", small_data.write(folder / "small"), "--home", home.path)
            assert added.exit_code == 0, added.output
            ran = invoke("run", "--home", home.path)
            assert ran.exit_code == 0, ran.output
            printed.write_text(json.dumps(asdict(Printed(ran.output, ran.stdout))))
    return home, Printed(**json.loads(printed.read_text()))


@pytest.fixture(scope="session")
def materialized_home(first_run) -> Home:
    """A home with every asset. Read only."""
    return first_run[0]


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    """Headless Chromium with an empty profile."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with chromium(tmp_path / "profile") as opened:
        yield opened
