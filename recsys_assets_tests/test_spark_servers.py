"""The whole pipeline on Spark as people run it: on a standalone cluster of processes, and through Spark Connect."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys_assets.home.layout import Home
from recsys_assets.recommender.data.tables import RELATIONAL, TABLES
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.running import table
from recsys_assets_tests.served import wait_for
from recsys_assets_tests.spark_servers import connect_server, standalone_cluster

pytestmark = [pytest.mark.spark, pytest.mark.slow]
RUN = [sys.executable, "-c", "from recsys_assets.cli import app; app()", "run", "--home"]


def _prepared(folder: Path, data: Path, spark: str) -> Home:
    home = Home(folder)
    home.prepare()
    home.settings_file.write_text('engine = "spark"\n' + FAST_SETTINGS.replace('master = "local[2]"\n', spark))
    assert invoke("add", data, "--home", home.path).exit_code == 0
    return home


def _assert_same(home: Home, expected: Home) -> None:
    for name in (*RELATIONAL, "user_clusters"):
        key = TABLES[name].key
        assert table(home, name).sort(key).equals(table(expected, name).sort(key)), name
    lists = [table(each, "recommendations").select("user_id", "rank", "item_id") for each in (home, expected)]
    in_both = lists[0].join(lists[1], on=["user_id", "rank", "item_id"])
    changed = lists[1].join(in_both, on=["user_id", "rank"], how="anti")["user_id"].n_unique()
    assert changed <= 0.001 * lists[1]["user_id"].n_unique()
    scores = [table(each, "evaluation_scores") for each in (home, expected)]
    both = scores[0].join(scores[1], on=["protocol", "model", "population", "metric"])
    assert len(both) == len(scores[0]) == len(scores[1])
    assert (both["value"] - both["value_right"]).abs().max() <= 0.002


@pytest.mark.parametrize("through", ["cluster", "connect"])
def test_the_whole_pipeline_runs_on_servers_of_spark(through, materialized_home, small_data, tmp_path):
    """Whoever has a cluster would find that an asset needs a session in the own process, or gets other numbers."""
    data = small_data.write(tmp_path / "small")

    @contextmanager
    def started() -> Iterator[str]:
        if through == "connect":
            with connect_server(tmp_path / "spark") as address:
                yield f'remote = "{address}"\n'
        else:
            with standalone_cluster(tmp_path / "spark") as cluster:
                yield cluster.settings("700m")

    with started() as spark:
        home = _prepared(tmp_path / "home", data, spark)
        ran = subprocess.run([*RUN, str(home.path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    _assert_same(home, materialized_home)


def test_a_run_outlives_its_executors(materialized_home, small_data, tmp_path):
    """A spot instance that is taken away would end a run of hours, or leave lists of a part of the users."""
    with standalone_cluster(tmp_path / "spark") as cluster:
        home = _prepared(tmp_path / "home", small_data.write(tmp_path / "small"), cluster.settings("700m"))
        running = subprocess.Popen([*RUN, str(home.path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        killed = []
        for step in ("implicit_als_model", "recommendations"):
            wait_for(f"the start of {step}", lambda step=step: _has_begun(home, step) or running.poll() is not None)
            time.sleep(0.5)
            victim = wait_for("an executor", lambda: next(iter(cluster.executors()), None))
            victim.kill()
            killed.append(victim.pid)
        printed, _ = running.communicate()
    assert running.returncode == 0, printed
    assert len(set(killed)) == 2
    _assert_same(home, materialized_home)


def _has_begun(home: Home, step: str) -> bool:
    return any(f" {step} - STEP_START" in log.read_text() for log in home.logs.glob("*.log"))
