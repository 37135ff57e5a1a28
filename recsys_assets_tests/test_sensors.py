import os
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from filelock import FileLock

from recsys_assets.cli.batches import listed
from recsys_assets.home.batches import landed_releases
from recsys_assets.home.layout import Home
from recsys_assets.home.running import AutomationSettings
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration import landing_watch, sensors
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.checks import declared
from recsys_assets.orchestration.dagster_internals import EngineEventData, SerializableErrorInfo
from recsys_assets.orchestration.failures import one_line
from recsys_assets.orchestration.landing_watch import RAW
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.running import table

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
BAD = "what is this?\n"


class Ticker:
    """A home with its instance, its sensors ticked by hand, and a clock of its own that moves with each tick."""

    def __init__(self, home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        home.prepare()
        self.home, self.instance = home, instance
        self.now, self.cursor = 1_000_000.0, ""
        self._defs = build_defs(home=home, settings=Settings())
        self.asked: list[dg.RunRequest] = []
        monkeypatch.setattr(sensors, "time", SimpleNamespace(time=lambda: self.now))

    def land(self, name: str, *, first_user: int = 1, seed: int = 0) -> Path:
        """A batch of made-up ratings."""
        return made_up(n_users=6, n_items=8, first_user=first_user, seed=seed).write(self.home.landing / name)

    def spoil(self, name: str) -> None:
        """A batch that cannot be read."""
        folder = self.home.landing / name
        folder.mkdir(exist_ok=True)
        (folder / "u.data").write_text(BAD)

    def tick(self) -> dg.SensorResult:
        """One tick of the landing sensor, ten seconds after the last; what it asks for is kept, not run."""
        self.now += 10
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = sensors.watch_landing(context, self.home, 5.0)
        self.cursor = result.cursor or self.cursor
        for change in result.dynamic_partitions_requests or []:
            if isinstance(change, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions("batches", list(change.partition_keys))
            else:
                for name in change.partition_keys:
                    self.instance.delete_dynamic_partition("batches", name)
        self.asked = list(result.run_requests or [])
        return result

    def run(self) -> list[bool]:
        """Run what was asked for; a run key that was run before is not, as in the daemon."""
        return [self._run(asked) for asked in self.asked if not self._has_run(str(asked.run_key))]

    def job(self, name: str) -> dg.JobDefinition:
        """A job of the home."""
        return self._defs.resolve_job_def(name)

    def _has_run(self, key: str) -> bool:
        return bool(self.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": key})))

    def _run(self, asked: dg.RunRequest) -> bool:
        tags = {**asked.tags, "dagster/run_key": str(asked.run_key)}
        selection = list(asked.asset_selection or []) or None
        return (
            self.job("ingest")
            .execute_in_process(instance=self.instance, tags=tags, asset_selection=selection, raise_on_error=False)
            .success
        )

    def settle(self) -> None:
        """Tick and run until nothing is asked for any more."""
        for _ in range(30):
            result = self.tick()
            if not self.run() and result.skip_reason and "waiting" not in str(result.skip_reason.skip_message):
                return
        raise AssertionError("the sensor never comes to rest")

    def ranges(self) -> list[tuple[str, ...]]:
        """First and last batch of each run that was asked for."""
        return [tuple(asked.tags[tag] for tag in RANGE) for asked in self.asked]

    def batches(self) -> list[str]:
        """The batches that are known."""
        return list(self.instance.get_dynamic_partitions("batches"))

    def ingested(self) -> set[str]:
        """The batches of which every raw table is there."""
        return set.intersection(*(set(self.instance.get_materialized_partitions(key)) for key in RAW))

    def users(self) -> int:
        """Users in the merged table."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey("users"))
        assert event and event.asset_materialization
        return int(str(event.asset_materialization.metadata["dagster/row_count"].value))


@pytest.fixture
def ticker(tmp_path, monkeypatch) -> Iterator[Ticker]:
    """An empty home whose sensors are ticked by hand."""
    home = Home(tmp_path / "home")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticker(home, instance, monkeypatch)


# What is ready


def test_a_growing_file_is_not_read(ticker):
    """Half of a file that is being copied would be taken for the whole."""
    file = ticker.home.landing / "ratings.csv"
    file.write_text("user_id,item_id,rating,timestamp\n")
    for user in range(4):
        ticker.tick()
        assert not ticker.asked
        with file.open("a") as stream:
            stream.write(f"{user},1,3,88000000{user}\n")
    ticker.tick()
    assert not ticker.asked
    ticker.tick()
    assert ticker.ranges() == [("ratings.csv", "ratings.csv")]


def test_an_archive_without_its_end_is_waited_for_and_then_told(ticker):
    """An upload that stalls would be read as a damaged archive, or a damaged archive never be spoken of."""
    whole = ticker.home.path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("ratings.csv", "user_id,item_id,rating,timestamp\n1,1,3,880000000\n" * 100)
    (ticker.home.landing / "cut.zip").write_bytes(whole.read_bytes()[:100])
    ticker.tick()
    assert "is truncated" in str(ticker.tick().skip_reason.skip_message)
    for _ in range(6):
        if not ticker.asked:
            ticker.tick()
    assert ticker.ranges() == [("cut.zip", "cut.zip")]


@pytest.mark.parametrize(
    "name", [".hidden", "_unfinished", "ratings.csv.part", "ratings.csv.crdownload", "ratings.csv~"]
)
def test_what_names_itself_unfinished_is_no_batch(ticker, name):
    """Temporary files of browsers and copy programs would become batches."""
    (ticker.home.landing / name).write_text("user_id,item_id,rating,timestamp\n1,1,3,880000000\n")
    for _ in range(3):
        ticker.tick()
    assert not ticker.asked and not ticker.batches()


def test_a_clock_that_is_set_back_loses_nothing(ticker):
    """After the clock is corrected, what had landed before would wait for ever, or be read while it grows."""
    ticker.land("batch")
    ticker.tick()
    ticker.now -= 86_400
    ticker.tick()
    assert not ticker.asked
    ticker.tick()
    assert ticker.ranges() == [("batch", "batch")]


def test_a_name_that_dagster_cannot_hold_is_told_and_harms_nobody(ticker):
    """One oddly named file would stop the sensor for all others."""
    ticker.land("a...b")
    ticker.land("good")
    ticker.tick()
    ticker.tick()
    assert ticker.ranges() == [("good", "good")]


def test_names_are_only_names(ticker):
    """A file name would be run as a command, or a batch with an unusual name be lost."""
    names = {"a b.csv", "ü.csv", "$(touch pwned).csv", "'; rm -rf .csv", "-rf.csv"}
    for name in names:
        (ticker.home.landing / name).write_text("user_id,item_id,rating,timestamp\n1,1,3,880000000\n2,1,4,880000001\n")
    ticker.settle()
    assert ticker.ingested() == names
    assert not list(ticker.home.path.rglob("pwned"))


# What is asked for


def test_all_that_is_ready_is_one_run(ticker):
    """Every file would cost a run and a process of its own."""
    for number in range(300):
        (ticker.home.landing / f"day-{number:03}.csv").write_text(
            f"user_id,item_id,rating,timestamp\n{number},1,3,880000000\n"
        )
    ticker.tick()
    ticker.tick()
    assert ticker.ranges() == [("day-000.csv", "day-299.csv")]
    assert len(ticker.batches()) == 300


def test_what_was_ingested_is_not_asked_for_again(ticker):
    """The same files would be ingested at every tick."""
    ticker.land("one")
    ticker.settle()
    assert ticker.ingested() == {"one"}
    ticker.tick()
    assert not ticker.asked


def test_touching_or_rewriting_with_the_same_content_asks_for_nothing(ticker):
    """A backup program that touches files would retrain everything."""
    folder = ticker.land("one")
    ticker.settle()
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    for _ in range(3):
        ticker.tick()
        assert not ticker.asked


def test_changed_content_is_ingested_again_and_back_again(ticker):
    """A corrected file would be ignored; or going back to an earlier state would, because it was seen once."""
    folder = ticker.land("one")
    first = (folder / "u.data").read_text()
    second = "".join(first.splitlines(keepends=True)[:-1])
    ticker.settle()
    for content in (second, first, second):
        (folder / "u.data").write_text(content)
        runs = ticker.instance.get_runs_count()
        ticker.settle()
        assert ticker.instance.get_runs_count() == runs + 1


def test_a_batch_that_run_ingested_is_known(ticker):
    """What the command line has done would be done again by the automation."""
    ticker.land("one")
    ticker.instance.add_dynamic_partitions("batches", ["one"])
    job = ticker.job("ingest")
    assert job.execute_in_process(instance=ticker.instance, tags=dict(zip(RANGE, ["one", "one"], strict=True))).success
    for _ in range(3):
        ticker.tick()
        assert not ticker.asked


def test_a_new_run_history_keeps_what_was_read_of_a_source_that_is_gone(ticker, monkeypatch):
    """After a damaged or a moved run history all ratings of a batch vanish, because its source was deleted before."""
    ticker.land("one")
    ticker.land("two", first_user=50)
    ticker.settle()
    shutil.rmtree(ticker.home.landing / "one")
    with dg.DagsterInstance.ephemeral() as instance:
        anew = Ticker(ticker.home, instance, monkeypatch)
        anew.settle()
        assert (anew.batches(), anew.users()) == (["one", "two"], 12)
        anew.land("three", first_user=100)
        anew.settle()
        assert (anew.batches(), anew.users()) == (["one", "two", "three"], 18)


@pytest.mark.parametrize("garbage", ["", "no json", "[]", '{"batches": 3}', '{"batches": {"one": {}}}', "null"])
def test_a_garbage_cursor_loses_and_repeats_nothing(ticker, garbage):
    """A cursor of another version would stop the sensor, or start everything anew."""
    ticker.land("one")
    ticker.settle()
    ticker.cursor = garbage
    ticker.land("two", first_user=50)
    ticker.settle()
    assert ticker.ingested() == {"one", "two"}
    assert ticker.instance.get_runs_count() == 2


def test_a_removed_batch_is_told_once_and_stays(ticker):
    """Nobody would notice that a source has gone, or its ratings would vanish with it."""
    folder = ticker.land("one")
    ticker.settle()
    folder.rename(ticker.home.path / "elsewhere")
    assert "one is no longer in landing/" in str(ticker.tick().skip_reason.skip_message)
    assert "gone" not in str(ticker.tick().skip_reason.skip_message)
    assert ticker.batches() == ["one"]


def test_what_somebody_removed_is_not_said_to_stay(tmp_path):
    """Whoever removes a batch beside `serve` reads that its ratings are still used."""
    home = Home(tmp_path)
    home.prepare()
    cursor = landing_watch.Cursor(batches={"may.csv": landing_watch.Seen(signature="as it was", since=0)})
    looked = landing_watch.look(home, cursor, quiet_seconds=5, now=10)
    assert not looked.news and not looked.cursor.batches


def test_batches_that_are_no_neighbours_are_ranges_of_their_own(ticker):
    """A range over changed batches would read those between them again, or fail."""
    folders = [ticker.land(f"batch-{number}", first_user=10 * number) for number in range(4)]
    ticker.settle()
    for number in (0, 1, 3):
        (folders[number] / "u.data").write_text("1\t1\t3\t880000000\n2\t1\t4\t880000001\n")
    ticker.land("batch-9", first_user=90)
    ticker.tick()
    ticker.tick()
    assert ticker.ranges() == [("batch-0", "batch-1"), ("batch-3", "batch-9")]
    assert [bool(asked.asset_selection) for asked in ticker.asked] == [True, False]
    assert ticker.run() == [True, True]


def test_nothing_is_asked_for_while_a_run_is_at_work(ticker):
    """A batch that a run is just ingesting would be asked for a second time."""
    ticker.land("one")
    ticker.tick()
    job = ticker.job("refresh")
    run = ticker.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "a run is in progress" in str(ticker.tick().skip_reason.skip_message)
    ticker.instance.report_run_canceled(run)
    ticker.tick()
    assert ticker.ranges() == [("one", "one")]


# What fails


def test_a_failed_ingest_is_tried_again_only_when_its_content_changes(ticker):
    """A bad file would be read in a loop, or stay unread after it was mended."""
    ticker.spoil("one")
    ticker.settle()
    assert ticker.instance.get_runs_count() == 1
    for _ in range(5):
        ticker.tick()
        assert not ticker.asked
    ticker.cursor = ""
    ticker.settle()
    assert ticker.instance.get_runs_count() == 1
    (ticker.home.landing / "one" / "u.data").unlink()
    made_up(n_users=6, n_items=8).write(ticker.home.path / "mended")
    for file in (ticker.home.path / "mended").iterdir():
        file.rename(ticker.home.landing / "one" / file.name)
    ticker.settle()
    assert ticker.ingested() == {"one"}


def _csv(ticker: Ticker, number: int, rows: int = 1) -> str:
    """A small batch; without rows it holds a header only."""
    name = f"day-{number:03}.csv"
    lines = [f"{number},{item},3,{880_000_000 + number}\n" for item in range(1, rows + 1)]
    (ticker.home.landing / name).write_text("".join(["user_id,item_id,rating,timestamp\n", *lines]))
    return name


def test_bad_batches_among_many_cost_one_run_more(ticker):
    """One unreadable file among many would keep all of them out, or have each of them read by a run of its own."""
    empty = _csv(ticker, 40, rows=0)
    good = {_csv(ticker, number) for number in range(64) if number != 40}
    ticker.spoil("worse")
    ticker.settle()
    assert ticker.ingested() == good and ticker.users() == 63
    assert ticker.instance.get_runs_count() == 2
    told = str(ticker.tick().skip_reason.skip_message)
    assert f"{empty} is not read: Batch {empty}: " in told and "worse is not read: " in told
    ticker.land("later", first_user=500)
    ticker.settle()
    assert ticker.users() == 69 and not {empty, "worse"} & {*ticker.batches()}


def test_a_fault_that_passes_is_tried_again_and_told_meanwhile(ticker):
    """After a minute of a full disk, a broken settings file or a missing Java, nobody would ever read what landed."""
    ticker.land("one")
    obstacle = ticker.home.assets / "raw_users"
    obstacle.write_text("no folder can be made here")
    ticker.tick()
    ticker.tick()
    assert ticker.run() == [False]
    for _ in range(3):
        told = str(ticker.tick().skip_reason.skip_message)
        assert not ticker.asked and "one is not read: raw_tables: " in told and str(obstacle) in told
    assert "again in " in told
    obstacle.unlink()
    ticker.now += 60
    ticker.settle()
    assert ticker.ingested() == {"one"} and ticker.instance.get_runs_count() == 2
    assert "not read" not in str(ticker.tick().skip_reason.skip_message)


def test_a_fault_that_passes_is_tried_again_when_the_clock_was_set_back(ticker):
    """What failed while the clock was a day ahead would not be read for a day."""
    ticker.land("one")
    obstacle = ticker.home.assets / "raw_users"
    obstacle.write_text("no folder can be made here")
    ticker.tick()
    ticker.tick()
    assert ticker.run() == [False]
    ticker.tick()
    obstacle.unlink()
    ticker.now -= 86_400
    ticker.settle()
    assert ticker.ingested() == {"one"}


def test_a_fault_that_stays_is_tried_ever_more_rarely(ticker):
    """A fault that nobody mends would start a run every few seconds."""
    ticker.land("one")
    (ticker.home.assets / "raw_users").write_text("no folder can be made here")
    for _ in range(3_600 // 10):
        ticker.tick()
        ticker.run()
    assert ticker.instance.get_runs_count() == 6


def test_a_merge_that_fails_is_done_again_when_it_can_be(ticker):
    """What was read while the disk was full would be in no table until something else lands."""
    ticker.land("one")
    ticker.land("two", first_user=50)
    obstacle = ticker.home.assets / "ratings"
    obstacle.write_text("no folder can be made here")
    ticker.tick()
    ticker.tick()
    assert ticker.run() == [False] and ticker.ingested() == {"one", "two"}
    assert "two is not read: ratings: " in str(ticker.tick().skip_reason.skip_message)
    obstacle.unlink()
    ticker.now += 60
    ticker.tick()
    assert ticker.ranges() == [("two", "two")] and ticker.run() == [True]
    ticker.settle()
    assert ticker.instance.get_runs_count() == 2 and not sensors.why_invalid(ticker.instance)


def test_a_merge_that_nobody_checked_is_done_again(ticker, monkeypatch):
    """A disk that fills up between a merge and its check would keep every later refresh from starting."""

    check_result = declared.check_result

    def full(key: dg.AssetCheckKey, *found: Any) -> dg.AssetCheckResult:
        if key.asset_key == dg.AssetKey("ratings"):
            raise OSError(28, "No space left on device")
        return check_result(key, *found)

    ticker.land("one")
    with monkeypatch.context() as patched:
        patched.setattr(declared, "check_result", full)
        ticker.tick()
        ticker.tick()
        assert ticker.run() == [False] and ticker.ingested() == {"one"}
    assert "No space left" in str(ticker.tick().skip_reason.skip_message)
    assert "was not checked" in sensors.why_invalid(ticker.instance)
    ticker.now += 60
    ticker.tick()
    assert ticker.run() == [True] and not sensors.why_invalid(ticker.instance)


def test_a_source_that_is_away_when_it_is_to_be_read_keeps_nobody_out_and_is_read_later(ticker):
    """A mount that is gone for a moment would keep its batches out for ever, and those of all others meanwhile."""
    folder = ticker.land("away")
    ticker.land("good", first_user=50)
    ticker.tick()
    ticker.tick()
    folder.rename(ticker.home.path / "elsewhere")
    assert ticker.run() == [False]
    (ticker.home.path / "elsewhere").rename(folder)
    ticker.tick()
    assert ticker.ranges() == [("good", "good")] and ticker.run() == [True]
    assert "away is not read: Batch away: FileNotFoundError" in str(ticker.tick().skip_reason.skip_message)
    ticker.now += 60
    ticker.settle()
    assert ticker.ingested() == {"away", "good"}


def test_a_landing_folder_that_is_gone_is_told_and_forgets_nothing(ticker):
    """While a disk is not mounted every batch would be taken for removed, and asked for again afterwards."""
    ticker.land("one")
    ticker.spoil("bad")
    ticker.settle()
    runs = ticker.instance.get_runs_count()
    ticker.home.landing.rename(ticker.home.path / "elsewhere")
    assert "landing does not exist" in str(ticker.tick().skip_reason.skip_message)
    (ticker.home.path / "elsewhere").rename(ticker.home.landing)
    ticker.settle()
    assert ticker.instance.get_runs_count() == runs


def test_a_run_that_was_never_started_is_asked_for_again(ticker):
    """If the daemon dies between a tick and its run, what had landed would never be read."""
    ticker.land("one")
    ticker.tick()
    ticker.tick()
    assert ticker.asked
    assert "no run was started for it" in str(ticker.tick().skip_reason.skip_message)
    ticker.now += 60
    ticker.settle()
    assert ticker.ingested() == {"one"}


def test_a_run_that_somebody_canceled_is_not_asked_for_again(ticker):
    """Whoever ends a run in the UI would see it come back a minute later."""
    ticker.land("one")
    ticker.tick()
    ticker.tick()
    (asked,) = ticker.asked
    run = ticker.instance.create_run_for_job(ticker.job("ingest"), tags=dict(asked.tags))
    ticker.instance.report_run_canceled(run)
    for _ in range(20):
        told = str(ticker.tick().skip_reason.skip_message)
        assert not ticker.asked and "one is not read: its run was canceled" in told


def test_what_a_person_has_read_is_no_longer_told(ticker):
    """The sensor would name a batch as unread for ever that `backfill` has read since."""
    ticker.spoil("one")
    ticker.settle()
    assert "one is not read" in str(ticker.tick().skip_reason.skip_message)
    (ticker.home.landing / "one" / "u.data").unlink()
    made_up(n_users=6, n_items=8).write(ticker.home.path / "mended")
    for file in (ticker.home.path / "mended").iterdir():
        file.rename(ticker.home.landing / "one" / file.name)
    ticker.instance.add_dynamic_partitions("batches", ["one"])
    tags = dict(zip(RANGE, ["one", "one"], strict=True))
    assert ticker.job("ingest").execute_in_process(instance=ticker.instance, tags=tags).success
    ticker.tick()
    assert "not read" not in str(ticker.tick().skip_reason.skip_message) and not ticker.asked


@contextmanager
def _as_anybody(*folders: Path) -> Iterator[None]:
    """Without root's right to read everything, where the tests are run by root; the folders are then anybody's."""
    if os.geteuid():
        yield
        return
    for folder in folders:
        os.chown(folder, 65_534, 65_534)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_may_not_be_read_is_named_until_it_may(monkeypatch, kind):
    """A batch with the wrong permissions would be passed over without a word, be called empty, or stop all others."""
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.ephemeral() as instance:
        home = Home(Path(folder) / "home")
        ticker = Ticker(home, instance, monkeypatch)
        # Its name is the first, so the kind of the home is looked for in it first.
        locked = home.landing / "a-locked.csv"
        _csv(ticker, 1)
        if kind == "folder":
            locked.mkdir()
            (locked / "ratings.csv").write_text("user_id,item_id,rating,timestamp\n9,1,3,880000000\n")
        else:
            locked.write_text("user_id,item_id,rating,timestamp\n9,1,3,880000000\n")
        right = locked.stat().st_mode
        locked.chmod(0)
        Path(folder).chmod(0o755)
        anybodys = (home.format_file, home.landing, home.landing / "day-001.csv", home.assets, home.scratch)
        with _as_anybody(home.path, *anybodys):
            ticker.tick()
            ticker.tick()
            assert list(landed_releases(home, Settings().data)) == [("day-001.csv", None)]
            assert build_defs(home=home, settings=Settings()).sensors
            assert ticker.ranges() == [("day-001.csv", "day-001.csv")] and ticker.run() == [True]
            assert "a-locked.csv cannot be read: " in str(ticker.tick().skip_reason.skip_message)
            assert [each.state for each in listed(home)] == ["read", "not read yet"]
        locked.chmod(right)
        ticker.settle()
        assert ticker.ingested() == {"day-001.csv", "a-locked.csv"}


# The refresh


def _retrain(
    ticker: Ticker, cursor: str | None, job: str = "refresh"
) -> tuple[dg.RunRequest | dg.SkipReason, str | None]:
    context = dg.build_sensor_context(instance=ticker.instance, cursor=cursor)
    return sensors.watch_ratings(context, ticker.home, job), context.cursor


def test_a_refresh_is_asked_for_once_per_content(ticker):
    """Recommendations would stay old, or everything would be retrained at every tick."""
    assert isinstance(_retrain(ticker, None)[0], dg.SkipReason)
    ticker.land("one")
    ticker.land("two", first_user=50)
    ticker.settle()
    first, cursor = _retrain(ticker, None)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(_retrain(ticker, cursor)[0], dg.SkipReason)
    ticker.land("three", first_user=90)
    ticker.settle()
    second, _ = _retrain(ticker, cursor)
    assert isinstance(second, dg.RunRequest) and second.run_key != first.run_key


def test_new_users_are_recommended_to_before_everything_is_scored(ticker):
    """New users would wait until two dozen models are scored; or a home in which nothing is in use yet would fail."""
    ticker.land("one")
    ticker.settle()
    _, retrain, _ = sensors.build_sensors(ticker.home, Settings().automation)

    def asked() -> list[str | None]:
        return [request.job_name for request in retrain(dg.build_sensor_context(instance=ticker.instance))]

    assert asked() == ["refresh"]
    for name in ("promoted_configuration", "quick_choice"):
        (ticker.home.assets / name / "current").mkdir(parents=True)
    assert asked() == ["refresh_served"]
    settings = Settings.model_validate({"automation": {"sensor_job": "refresh"}})
    _, retrain, _ = sensors.build_sensors(ticker.home, settings.automation)
    assert asked() == ["recommend", "refresh"]


def test_rows_in_another_order_ask_for_no_refresh(ticker):
    """A batch that is sent again, sorted differently, would retrain everything for nothing."""
    folder = ticker.land("one")
    ticker.settle()
    _, cursor = _retrain(ticker, None)
    for name in ("u.data", "u.user", "u.item"):
        rows = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(reversed(rows)))
    runs = ticker.instance.get_runs_count()
    ticker.settle()
    assert ticker.instance.get_runs_count() == runs + 1
    assert isinstance(_retrain(ticker, cursor)[0], dg.SkipReason)


def test_no_second_refresh_while_a_run_is_at_work(ticker):
    """Two refreshes of one home would write the same assets at the same time."""
    ticker.land("one")
    ticker.settle()
    job = ticker.job("refresh")
    run = ticker.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    waiting, cursor = _retrain(ticker, None)
    assert isinstance(waiting, dg.SkipReason)
    ticker.instance.report_run_canceled(run)
    assert isinstance(_retrain(ticker, cursor)[0], dg.RunRequest)


def test_nothing_is_asked_for_between_two_runs_of_the_command_line(ticker):
    """What `run` is about to do next would be done a second time, after it or before it."""
    ticker.land("one")
    ticker.settle()
    ticker.land("two", first_user=50)
    with FileLock(ticker.home.lock):
        waiting, cursor = _retrain(ticker, None)
        assert "waiting for the run in progress" in str(waiting)
        for _ in range(3):
            assert "a run is in progress" in str(ticker.tick().skip_reason)
    ticker.tick()
    assert ticker.ranges() == [("two", "two")]
    assert isinstance(_retrain(ticker, cursor)[0], dg.RunRequest)


def test_what_was_done_while_a_run_waited_is_known(ticker):
    """A refresh that the daemon had asked for would be done again after `run` has done it, or never be done."""
    ticker.land("one")
    ticker.settle()
    asked, _ = _retrain(ticker, None)

    def left(job: str, tags: Mapping[str, str], parent: str | None = None) -> bool:
        run = ticker.instance.create_run_for_job(
            ticker.job(job), tags=dict(tags), parent_run_id=parent, root_run_id=parent
        )
        return not sensors.done_meanwhile(ticker.instance, run)

    assert left("recommend", asked.tags) and left("refresh", asked.tags)
    _refreshed(ticker, ["serving_model", "recommendations"])
    assert left("recommend", asked.tags), "similar items are missing"
    _refreshed(ticker, ["similar_items"])
    assert not left("recommend", asked.tags) and left("refresh", asked.tags) and left("refresh_served", asked.tags)
    _refreshed(ticker, ["promoted_configuration"])
    assert left("refresh", asked.tags) and not left("refresh_served", asked.tags)
    _refreshed(ticker, ["evaluation_report"])
    assert not left("refresh", asked.tags)
    assert left("refresh", {}) and left("recommend", {}), "what a person launches is always done"
    parent = ticker.instance.create_run_for_job(ticker.job("refresh"), tags=dict(asked.tags)).run_id
    assert left("refresh", asked.tags, parent), "a retry skips what its parent has not checked"
    _refreshed(ticker, ["evaluation_report"], users="others")
    assert left("refresh", asked.tags)
    _refreshed(ticker, ["serving_model"], ratings="others")
    assert left("recommend", asked.tags), "similar items are of the model before"


def _refreshed(ticker: Ticker, assets: Sequence[str], **versions: str) -> None:
    """As if these had been made from the present tables, or from the versions given."""
    latest = ticker.instance.get_latest_materialization_event
    seen = {
        name: versions.get(name) or latest(dg.AssetKey(name)).asset_materialization.tags["dagster/data_version"]
        for name in ("ratings", "users", "items")
    }
    for asset in assets:
        inputs = {**seen, "serving_model": f"serving_model of {seen['ratings']}"}
        if asset == "similar_items":
            del inputs["ratings"]
        tags = {f"dagster/input_data_version/{name}": version for name, version in inputs.items()}
        tags["dagster/data_version"] = f"{asset} of {seen['ratings']}"
        ticker.instance.report_runless_asset_event(dg.AssetMaterialization(asset, tags=tags))


def test_ratings_that_failed_their_check_are_not_trained_on(ticker):
    """What a check refused would be trained on by the next run, or nothing be trained any more once it is mended."""
    folder = ticker.land("one")
    ticker.settle()
    assert not sensors.why_invalid(ticker.instance)
    ratings = folder / "u.data"
    ratings.write_text("".join(ratings.read_text().splitlines(keepends=True)[:5]))
    ticker.settle()
    asked, cursor = _retrain(ticker, None)
    assert isinstance(asked, dg.SkipReason) and "ratings failed a check" in str(asked.skip_message)
    made_up(n_users=6, n_items=8).write(ticker.home.path / "mended")
    (ticker.home.path / "mended" / "u.data").replace(ratings)
    ticker.settle()
    assert not sensors.why_invalid(ticker.instance)
    assert isinstance(_retrain(ticker, cursor)[0], dg.RunRequest)


def test_ratings_of_other_users_are_not_trained_on(ticker):
    """After a merge that broke off between users and ratings, models would learn from the ratings of others."""
    ticker.land("one")
    ticker.settle()
    ticker.instance.report_runless_asset_event(dg.AssetMaterialization("users", tags={"dagster/data_version": "new"}))
    assert "not merged with the present users" in sensors.why_invalid(ticker.instance)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_run_that_failed_after_its_ratings_were_checked_stops_nothing(ticker, monkeypatch, is_checked):
    """After a model has failed once, nothing would be retrained by itself before new data arrive."""
    ticker.land("one")
    ticker.settle()
    get_run_group = ticker.instance.get_run_group

    def failed(run_id: str) -> Any:
        root, runs = get_run_group(run_id)
        return root, [run._replace(status=dg.DagsterRunStatus.FAILURE) for run in runs]

    monkeypatch.setattr(ticker.instance, "get_run_group", failed)
    if not is_checked:
        for module in (sensors, landing_watch):
            monkeypatch.setattr(module, "was_good", lambda *_: None)
    asked, _ = _retrain(ticker, None)
    assert isinstance(asked, dg.RunRequest) == is_checked
    assert is_checked or "ratings was not checked" in str(asked)


def test_a_refresh_by_the_command_line_counts(first_run):
    """After `run` the automation would retrain what has just been trained."""
    home, _ = first_run
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        context = dg.build_sensor_context(instance=instance)
        assert "has seen these ratings" in str(sensors.watch_ratings(context, home, "refresh"))


def test_recommendations_of_other_ratings_than_the_report_are_made_anew(ticker):
    """After a refresh that failed before its report, recommendations would rest on ratings that are gone."""
    ticker.land("one")
    ticker.settle()
    _refreshed(ticker, ["serving_model", "similar_items", "evaluation_report"])
    _refreshed(ticker, ["recommendations"], ratings="others")
    assert isinstance(_retrain(ticker, None)[0], dg.RunRequest)
    _refreshed(ticker, ["recommendations"])
    assert "has seen these ratings" in str(_retrain(ticker, None)[0])


# Failures and times


def test_a_failure_is_one_clear_line(ticker):
    """Whoever operates this would have to read Dagster's event log to learn what failed."""
    ticker.spoil("one")
    ticker.settle()
    (run,) = ticker.instance.get_runs()
    entry = ticker.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)[0]
    context = dg.build_run_status_sensor_context(
        "failure_log", dagster_event=entry.dagster_event, dagster_run=run, dagster_instance=ticker.instance
    ).for_run_failure()
    sensors.record_failure(context, ticker.home)
    (line,) = ticker.home.failures.read_text().splitlines()
    assert "ingest of one failed, not retried automatically: " in line and "u.data" in line
    assert run.run_id in line


@pytest.mark.parametrize("is_told", [True, False])
def test_a_run_that_failed_before_its_first_step_stops_no_sensor(ticker, is_told):
    """After a killed worker, or settings with a typing error, no batch would ever be read again."""
    ticker.land("one")
    ticker.tick()
    (asked,) = ticker.tick().run_requests or ()
    run = ticker.instance.create_run_for_job(ticker.job("ingest"), tags={**asked.tags})
    if is_told:
        error = SerializableErrorInfo("recsys_assets.home.settings.SettingsError: settings.toml: line 7\n", [], "Any")
        ticker.instance.report_engine_event("Could not load", run, EngineEventData(error=error))
    ticker.instance.report_run_failed(run)
    cause = "settings.toml: line 7" if is_told else "marked as failed from outside"
    (failed,) = ticker.instance.get_runs()
    assert cause in one_line(ticker.instance, failed)
    assert cause in str(ticker.tick().skip_reason)
    ticker.now += 60
    assert ticker.tick().run_requests


def test_automation_is_one_switch(tmp_path):
    """Nobody could keep a home still, or change the times, without editing code."""
    home = Home(tmp_path)
    for is_on in (True, False):
        settings = AutomationSettings(sensors=is_on, schedule=is_on, cron="30 4 * * 1", time_zone="Europe/Berlin")
        defs = build_defs(home=home, settings=Settings(automation=settings)).get_repository_def()
        assert {sensor.name: sensor.default_status.value for sensor in defs.sensor_defs} == dict.fromkeys(
            ("landing_sensor", "retrain_sensor", "failure_log"), "RUNNING" if is_on else "STOPPED"
        )
        (schedule,) = defs.schedule_defs
        assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * 1", "Europe/Berlin")
        assert schedule.default_status.value == ("RUNNING" if is_on else "STOPPED")


@pytest.mark.parametrize("line", ['cron = "every sunday"', 'time_zone = "Mars"', "tick_seconds = 0"])
def test_times_that_cannot_be_are_refused(tmp_path, line):
    """A typing error in the cron line would mean that nothing ever runs."""
    (tmp_path / "settings.toml").write_text(f"[automation]\n{line}\n")
    with pytest.raises(SettingsError, match=line.split()[0]):
        Settings.load(Home(tmp_path))


def test_every_asset_has_a_code_version_that_follows_its_settings(tmp_path):
    """The UI could not show which models were made with other settings than the present ones."""

    def versions(settings: Settings) -> dict[str, str | None]:
        graph = build_defs(home=Home(tmp_path), settings=settings).get_repository_def().asset_graph
        return {node.key.to_user_string(): node.code_version for node in graph.asset_nodes}

    before, after = versions(Settings()), versions(Settings.model_validate({"als": {"rank": 3}}))
    assert all(before.values())
    changed = {key for key in before if before[key] != after[key]}
    assert {"als_adjusted_model", "backtest_scores", "study_trials"} <= changed and not changed & {
        "ratings",
        "segment_model",
        "train_ratings",
    }
    stacked = versions(Settings.model_validate({"stack": {"reg": 3.0}}))
    assert {"stack_model", "backtest_scores", "study_scores"} <= {key for key in before if before[key] != stacked[key]}


# What a person asks for


def test_backfill_reads_the_named_batches_in_one_run(tmp_path):
    """Whoever has mended three files could only ingest everything, or one after the other."""
    home = Home(tmp_path / "home")
    home.prepare()
    for number in range(4):
        made_up(n_users=6, n_items=8, first_user=10 * number).write(home.landing / f"batch-{number}")
    ran = invoke("backfill", "batch-0", "batch-1", "batch-2", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    assert AssetStore(home.assets).batches(["raw_ratings"]) == ["batch-0", "batch-1", "batch-2"]
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        (run,) = instance.get_runs()
    assert (run.job_name, run.tags[RANGE[0]], run.tags[RANGE[1]]) == ("ingest", "batch-0", "batch-2")
    ran = invoke("backfill", "batch-7", "--home", home.path)
    assert ran.exit_code == 1 and "There is no batch 'batch-7' in" in ran.stderr and "batch-3" in ran.stderr
    shutil.rmtree(home.landing / "batch-0")
    shutil.rmtree(home.dagster)
    assert invoke("backfill", "batch-3", "--home", home.path).exit_code == 0
    assert len(table(home, "users")) == 24, "a new run history leaves out what was read before"


@pytest.mark.parametrize("names", [("batch-0", "batch-1", "batch-2"), ("batch-1",), ("batch-1", "batch-2")])
def test_a_refused_batch_does_not_end_a_backfill(tmp_path, names):
    """One unreadable file among many would keep all of them from being read again, or pass unnoticed in a script."""
    home = Home(tmp_path / "home")
    home.prepare()
    for number in range(3):
        made_up(n_users=6, n_items=8, first_user=10 * number).write(home.landing / f"batch-{number}")
    (home.landing / "batch-1" / "u.data").write_text(BAD)
    ran = invoke("backfill", *names, "--home", home.path)
    assert ran.exit_code == 1, ran.output
    assert "Batch batch-1: " in ran.stderr and "Batch batch-0" not in ran.stderr
    good = [name for name in names if name != "batch-1"]
    store = AssetStore(home.assets)
    assert store.batches(["raw_ratings"]) == good
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert list(instance.get_dynamic_partitions("batches")) == good
    if good:
        assert len(table(home, "users")) == 6 * len(good)


@pytest.mark.slow
def test_a_backfill_of_many_with_some_that_are_refused_is_two_runs(tmp_path):
    """Minutes would become hours, because every batch is read by a run of its own."""
    home = Home(tmp_path / "home")
    home.prepare()
    for number in range(30):
        rows = "" if number in (7, 20) else f"{number},1,3,880000000\n{number},2,4,880000001\n"
        (home.landing / f"day-{number:02}.csv").write_text(f"user_id,item_id,rating,timestamp\n{rows}")
    names = home.landed_batches()
    ran = invoke("backfill", *names, "--home", home.path)
    assert ran.exit_code == 1 and "Batch day-07.csv: " in ran.stderr and "Batch day-20.csv: " in ran.stderr
    assert len(AssetStore(home.assets).batches(["raw_ratings"])) == len(table(home, "users")) == 28
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.get_runs_count() == 2


def test_a_batch_that_is_refused_now_keeps_what_was_read_of_it(tmp_path):
    """A file that was spoiled later would take the good ratings with it that were read from it before."""
    home = Home(tmp_path / "home")
    home.prepare()
    for number in range(2):
        made_up(n_users=6, n_items=8, first_user=10 * number).write(home.landing / f"batch-{number}")
    assert invoke("backfill", "batch-0", "batch-1", "--home", home.path).exit_code == 0
    before = table(home, "ratings")
    (home.landing / "batch-1" / "u.data").write_text(BAD)
    ran = invoke("backfill", "batch-0", "batch-1", "--home", home.path)
    assert ran.exit_code == 1 and "Batch batch-1: " in ran.stderr
    assert table(home, "ratings").equals(before)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_told_and_a_public_address_warned_of(tmp_path, host):
    """`serve` would start, fail in the log, and look as if it ran; or somebody opens the home to a network unawares."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        ran = invoke("serve", "--host", host, "--port", taken.getsockname()[1], "--home", tmp_path / "home")
    assert ran.exit_code == 1 and "choose another --port" in ran.stderr
    assert ("Warning: the UI has no passwords" in ran.stderr) == (host == "0.0.0.0")
