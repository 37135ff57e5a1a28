"""Kills commands before each change that they make in a home: as a program, it prints how many such moments there were.

Usage: python -m recsys_assets_tests.kill_points FOLDER EVERY [COMMAND …], where EVERY is 1 for all moments and n for
every n-th one. `rollback` needs a home in which everything has run, at FOLDER/everything. After each kill the command
is given again; then nothing may be lost, and nobody left who was erased.

An audit hook sees what Python opens for writing, renames, deletes or makes, SQLite's trace sees statements, wrappers
see files that Polars writes. A file that is written has two moments: before it is there, and when it is there without
its content. Commands run in processes forked from this one, which has imported everything and done nothing.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from recsys_assets.cli import app, compacting  # noqa: F401
from recsys_assets.home import searching, upgrade  # noqa: F401
from recsys_assets.home.batches import RAW_TABLES, Batch
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.layout import Home
from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import TABLE_FILE, AssetStore, scan
from recsys_assets.orchestration import launch  # noqa: F401
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.promotion.gate import Configuration, Decision
from recsys_assets_tests.old_homes import content, home_of_0_6, home_of_0_9
from recsys_assets_tests.running import copied, materialize, table

FORGOTTEN = ("Zebulon", "86420975")
HEADER = "user_id,item_id,rating,timestamp\n"
ADDED, REMOVED, KEPT = "added.csv", "b", "a.csv"
# Those who stay, by batch.
OTHERS = {"a.csv": ["ana", "eve"], "b": ["ben"], "versions": ["cleo"], "gone.csv": ["dora"], "numbers.csv": ["7"]}
MEMORY = Path("/dev/shm")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
# Homes of earlier versions, which the first command upgrades.
OLD = {"0.6": home_of_0_6, "0.9": home_of_0_9}
_FIRST = ("blocked",)
_READING = ("SELECT", "PRAGMA", "BEGIN", "EXPLAIN")


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        arguments: of the command line, but for the home; ADDED stands for the file of that name.
        check: raises AssertionError if the command, given again, has not done all it should.
        template: name of the home that it works on.
        elsewhere: whether landing/ lies on another file system.
        in_assets_only: whether only what it changes in assets and promotions counts: a run writes its history all the
            time, and what becomes of that is tested with the runs.
        stride: at least every n-th moment is tried.
    """

    arguments: tuple[str, ...]
    check: Callable[[Home], None]
    template: str = "read"
    elsewhere: bool = False
    in_assets_only: bool = False
    stride: int = sys.maxsize

    def roots(self, home: Home) -> list[Path]:
        """Below these, changes count."""
        return [home.assets, home.promotions] if self.in_assets_only else [home.path, home.landing.resolve()]


class Killer:
    """Ends this process before its `at`-th change below one of some folders, of databases only where they count."""

    def __init__(self, at: int, roots: list[Path], *, databases: bool) -> None:
        self.passed, self._at, self._roots, self._databases = 0, at, tuple(map(str, roots)), databases

    def install(self) -> None:
        """From now on."""
        sys.addaudithook(self._audit)
        for owner, name in (
            (pl.LazyFrame, "sink_parquet"),
            (pl.LazyFrame, "sink_csv"),
            (pl.DataFrame, "write_parquet"),
        ):
            setattr(owner, name, self._wrapped(getattr(owner, name)))
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.set_trace_callback(self._statement)
            return connection

        sqlite3.connect = sqlite3.dbapi2.connect = traced  # type: ignore[assignment]

    def _moment(self) -> bool:
        self.passed += 1
        return self.passed == self._at

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & _WRITING and self._is_inside(arguments[0]):
            if self._moment():
                _die()
            if self._moment():
                # When the call that opens it has returned.
                sys.setprofile(_die_on_return)
        elif event in _CHANGES and self._is_inside(arguments[0]) and self._moment():
            _die()

    def _statement(self, text: str) -> None:
        is_change = self._databases and not text.lstrip().upper().startswith(_READING)
        if is_change and self._moment():
            _die()

    def _is_inside(self, path: object) -> bool:
        if isinstance(path, int):
            return False
        name = os.fsdecode(path)  # type: ignore[arg-type]
        # Whole trees are deleted by names relative to an open folder, which may be any.
        return name.startswith(self._roots) if name.startswith("/") else self._databases

    def _wrapped(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(frame: Any, path: Path, *arguments: Any, **options: Any) -> Any:
            is_inside = isinstance(path, (str, Path)) and self._is_inside(path)
            if is_inside and self._moment():
                _die()
            if is_inside and self._moment():
                Path(path).write_bytes(b"PAR1")
                _die()
            return write(frame, path, *arguments, **options)

        return writing


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_on_return(frame: object, event: str, argument: object) -> None:
    del frame, argument
    if event == "c_return":
        _die()


# The home that the commands work on


def prepare(home: Home) -> None:
    """Batches that were read, of several kinds; the forgotten users are in all that has no other purpose."""
    home.prepare()
    named = [user for user in FORGOTTEN if not user.isdigit()]
    for name, users in OTHERS.items():
        if name == "numbers.csv":
            write_ratings(home.landing / name, *users, *(user for user in FORGOTTEN if user.isdigit()))
        else:
            write_ratings(home.landing / name / "ratings.csv" if name == "b" else home.landing / name, *users, *named)
    for name in OTHERS:
        read(home, name)
    (home.landing / "gone.csv").unlink()
    materialize(home, 'key:"users" or key:"items" or key:"ratings"')
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        instance.add_dynamic_partitions("batches", sorted(OTHERS))
    write_ratings(home.path / "sent" / ADDED, "frida")


def forget(home: Home) -> None:
    """Take the forgotten users out of what is computed, and leave them everywhere else."""
    for user in FORGOTTEN:
        assert command(home, "forget", user, "--no-run") == 0
    materialize(home, 'key:"users" or key:"items" or key:"ratings"')
    write_ratings(home.landing / ".abcd_123" / "a.csv", *FORGOTTEN)
    (home.landing / ".abcd_123").chmod(0o700)
    write_ratings(home.landing / ".landing-changes" / "unfinished" / "a.csv", *FORGOTTEN)
    write_ratings(home.scratch / "tmpabc" / "a.csv", *FORGOTTEN)
    write_ratings(home.removed / "old.csv", *FORGOTTEN)
    write_ratings(home.rejected / "old.csv.csv", *FORGOTTEN)
    home.logs.mkdir(exist_ok=True)
    for log in (home.failures, home.logs / "old.log"):
        log.write_text(f"line 2: {FORGOTTEN[0]},m,9,1\n")
    trial = home.study / "trials" / "top_n" / "0123456789abcdef.json"
    trial.parent.mkdir(parents=True)
    trial.write_text(json.dumps({"refusal": f"no rating of {FORGOTTEN[0]}"}))
    home.promotions.mkdir()
    (home.promotions / "000001.json").write_text(json.dumps({"number": 1, "reason": f"as {FORGOTTEN[0]} said"}))
    _say_in_runs(home, f"line 2: {FORGOTTEN[0]},m,9,1")


def _say_in_runs(home: Home, text: str) -> None:
    """Leave a failed and a killed run whose events hold a text."""

    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED):
            instance.report_engine_event(text, instance.create_run_for_job(nothing, status=status))


def promote(home: Home) -> None:
    """Two more promotions, so that there is one to go back to."""
    parameters = Settings.load(home).model_dump()
    for model in ("ease", "blend"):
        configuration = Configuration.of(parameters, rating_model="stack", ranking_model=model)
        Promotions(home.promotions).add(configuration, Decision("promoted", "as it was"))


def write_ratings(path: Path, *users: str) -> None:
    """A file of ratings, one per user."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(f"{user},7,3,{978300760 + place}\n" for place, user in enumerate(users)))


def read(home: Home, name: str) -> None:
    """Store the raw tables of a landed batch."""
    store = AssetStore(home.assets)
    with tempfile.TemporaryDirectory() as scratch:
        batch = Batch.open(home, name, DataSettings(), Path(scratch))
        for asset in RAW_TABLES:
            version = store.new_version([asset], name, "prepared")
            batch.table(asset).sink_parquet(version / TABLE_FILE)
            store.switch(version)


def command(home: Home, *arguments: str) -> int:
    """A command of the command line; its exit status."""
    try:
        app([*arguments, "--home", str(home.path)], standalone_mode=False)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        return int(code)
    return 0


# What has to hold in the end


def check_added(home: Home) -> None:
    """The batch has landed whole, and nothing else has."""
    assert (home.landing / ADDED).read_bytes() == (home.path / "sent" / ADDED).read_bytes()
    _check_landing(home, {*OTHERS, ADDED} - {"gone.csv"})
    check_others(home, OTHERS)


def check_removed(home: Home) -> None:
    """The batch lies in removed/, and nothing that was read from it is left."""
    assert (home.removed / REMOVED / "ratings.csv").read_text().startswith(f"{HEADER}ben")
    _check_landing(home, {*OTHERS} - {"gone.csv", REMOVED})
    store = AssetStore(home.assets)
    assert not [asset for asset in RAW_TABLES if store.folder([asset], REMOVED).exists()]
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert REMOVED not in instance.get_dynamic_partitions("batches")
    check_others(home, {name: users for name, users in OTHERS.items() if name != REMOVED})


def check_forgotten(home: Home) -> None:
    """The user is on the list, beside those that were on it."""
    assert forgotten_users(home) == {"eve"}
    check_others(home, OTHERS)


def check_erased(home: Home) -> None:
    """No forgotten user is anywhere but on the list, and everybody else is where they were."""
    assert forgotten_users(home) == {*FORGOTTEN}
    left = [path for path in _files(home) if path != home.forgotten and any(_names(path, user) for user in FORGOTTEN)]
    assert not left, f"{FORGOTTEN} in {left}"
    _check_landing(home, {*OTHERS} - {"gone.csv"})
    check_others(home, OTHERS)
    for name in {*OTHERS} - {"gone.csv"}:
        found = pl.concat([_ids(pl.read_parquet(path)) for path in (home.landing / name).glob("ratings.parquet")])
        assert found.to_list() == OTHERS[name], f"{found} landed in {name}"
    assert sorted(table(home, "users")["user_id"]) == sorted(user for users in OTHERS.values() for user in users)


def check_rolled_back(home: Home) -> None:
    """The earlier configuration is served, and the lists are made with it."""
    record, store = Promotions(home.promotions), AssetStore(home.assets)
    current = record.current()
    assert current is not None and current.configuration.ranking.model == "ease"
    assert record.broken_off(store) is None
    assert len(table(home, "recommendations")) and len(record.all()) == 4, [each.verdict for each in record.all()]


def check_upgraded(version: str, home: Home) -> None:
    """The home of an earlier version is what an upgrade without a kill makes of it."""
    found, expected = content(home), content(Home(home.path.parent / f"{version}, upgraded"))
    assert found == expected, found.keys() ^ expected.keys()


def check_others(home: Home, others: dict[str, list[str]]) -> None:
    """What was read of everybody else is all there."""
    store = AssetStore(home.assets)
    for name, users in others.items():
        stored = _ids(scan(store.current(["raw_ratings"], name)).to_native().collect())
        assert [user for user in stored if user not in FORGOTTEN] == users, f"{stored} in {name}"
    assert {*store.batches(["raw_ratings"])} == {*others}


def _check_landing(home: Home, names: set[str]) -> None:
    assert {path.name for path in home.landing.iterdir()} == names


def _ids(rows: pl.DataFrame) -> pl.Series:
    return rows["user_id"].cast(pl.String)


def _files(home: Home) -> list[Path]:
    """Every file, also those behind the link that landing/ may be."""
    roots = {home.path, home.landing.resolve()}
    return [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def _names(path: Path, user: str) -> bool:
    content = path.read_bytes()
    if content.startswith(b"PAR1"):
        content = pl.read_parquet(path).write_json().encode()
    return user.encode() in content


SCENARIOS = {
    "add": Scenario(("add", ADDED), check_added, stride=15),
    "remove": Scenario(("remove", REMOVED, "--no-run"), check_removed, stride=30),
    "remove from another disk": Scenario(("remove", REMOVED, "--no-run"), check_removed, elsewhere=True, stride=40),
    "forget": Scenario(("forget", "eve", "--no-run"), check_forgotten, stride=9),
    "compact": Scenario(("compact",), check_erased, "to-erase", stride=160),
    "compact on another disk": Scenario(("compact",), check_erased, "to-erase", elsewhere=True, stride=160),
    "rollback": Scenario(("rollback",), check_rolled_back, "promoted", in_assets_only=True),
    **{
        f"upgrade from {version}": Scenario(_FIRST, partial(check_upgraded, version), version, stride=50)
        for version in OLD
    },
}


# How it is done


class Bench:
    """A folder with homes, of which each trial gets a copy.

    Args:
        folder: which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the homes."""
        homes = {name: Home(self._folder / name) for name in ("read", "to-erase", "everything", "promoted")}
        self._do(partial(prepare, homes["read"]))
        copied(homes["read"], homes["to-erase"].path)
        self._do(partial(forget, homes["to-erase"]))
        for version, make in OLD.items():
            self._do(partial(make, self._folder / version))
            whole = copied(Home(self._folder / version), self._folder / f"{version}, upgraded")
            self._do(partial(command, whole, *_FIRST))
        if homes["everything"].path.exists():
            copied(homes["everything"], homes["promoted"].path)
            self._do(partial(promote, homes["promoted"]))

    def _do(self, work: Callable[[], None]) -> None:
        assert _forked(work, self._log) == 0, self.told()

    def can(self, name: str) -> bool:
        """Whether there is what a scenario needs."""
        scenario = SCENARIOS[name]
        is_second = MEMORY.is_dir() and MEMORY.stat().st_dev != self._folder.stat().st_dev
        return (self._folder / scenario.template).exists() and (is_second or not scenario.elsewhere)

    def kill(self, name: str, every: int) -> int:
        """Kill a command at every n-th moment; how many it has.

        Raises:
            AssertionError: it could not be given again, or something is lost or left.
        """
        scenario, at, counted = SCENARIOS[name], 1, self._folder / "moments"
        while True:
            with tempfile.TemporaryDirectory(dir=MEMORY if scenario.elsewhere else self._folder) as folder:
                home = self._copy(name, Path(folder))
                status = _forked(partial(_killed, home, scenario, at, counted), self._log)
                if status == 0:
                    self._do(partial(scenario.check, home))
                    return int(counted.read_text())
                assert status == -signal.SIGKILL, f"{name}, moment {at}: status {status}: {self.told()}"
                again = _forked(partial(_again, home, scenario), self._log)
                assert again == 0, f"{name}, killed at moment {at}, then again: {self.told()}"
            at += min(every, scenario.stride)

    def told(self) -> str:
        """The end of what the last process printed."""
        return self._log.read_text(errors="replace")[-3000:]

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _copy(self, name: str, elsewhere: Path) -> Home:
        """A home to work on; it replaces the one before."""
        home = Home(self._folder / "home")
        shutil.rmtree(home.path, ignore_errors=True)
        copied(Home(self._folder / SCENARIOS[name].template), home.path)
        if SCENARIOS[name].elsewhere:
            shutil.copytree(home.landing, elsewhere / "landing")
            shutil.rmtree(home.landing)
            home.landing.symlink_to(elsewhere / "landing")
        return home


def _killed(home: Home, scenario: Scenario, at: int, counted: Path) -> None:
    killer = Killer(at, scenario.roots(home), databases=not scenario.in_assets_only)
    killer.install()
    status = _given(home, scenario)
    counted.write_text(str(killer.passed))
    assert status == 0, f"exit status {status}"


def _again(home: Home, scenario: Scenario) -> None:
    if not (scenario.in_assets_only and _is_done(home, scenario)):
        status = _given(home, scenario)
        assert status == 0, f"exit status {status}"
    scenario.check(home)


def _is_done(home: Home, scenario: Scenario) -> bool:
    """Whether all was done before the kill: a rollback given again would then have nothing to go back to."""
    try:
        scenario.check(home)
    except AssertionError:
        return False
    return True


def _given(home: Home, scenario: Scenario) -> int:
    sent = str(home.path / "sent" / ADDED)
    return command(home, *(sent if argument == ADDED else argument for argument in scenario.arguments))


def _forked(work: Callable[[], None], log: Path) -> int | None:
    """The exit status of a process that does some work; what it prints goes to the log."""

    def logged() -> None:
        with log.open("wb") as sink:
            for descriptor in (1, 2):
                os.dup2(sink.fileno(), descriptor)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=logged)
    process.start()
    process.join()
    return process.exitcode


def main() -> None:
    """Kill the commands, and print the number of moments of each."""
    folder, every, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or [*SCENARIOS]
    bench = Bench(folder)
    bench.prepare()
    for name in names:
        print(json.dumps({name: bench.kill(name, every) if bench.can(name) else None}), flush=True)


if __name__ == "__main__":
    main()
