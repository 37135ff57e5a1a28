import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from recsys_assets.home import landing
from recsys_assets.home.landing import changing, exchange, land, move_out
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore
from recsys_assets_tests.conftest import invoke

HEADER = "user_id,item_id,rating,timestamp\n"
N_AT_ONCE = 4
MEMORY = Path("/dev/shm")


@pytest.fixture
def home(tmp_path) -> Home:
    """An empty one."""
    home = Home(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def elsewhere(home) -> Iterator[Home]:
    """A home whose landing folder is a link to another file system."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == home.path.stat().st_dev:
        pytest.skip(f"there is no second file system at {MEMORY}")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        home.landing.rmdir()
        home.landing.symlink_to(folder)
        yield home


def written(path: Path, *users: str) -> Path:
    """A file of ratings, one per user."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(f"{user},m,3,978300760\n" for user in users))
    return path


def lying_in(folder: Path) -> list[str]:
    """Everything in a folder, hidden things too."""
    return sorted(entry.name for entry in folder.iterdir())


def test_what_add_unpacks_has_its_pid_in_the_name(home, tmp_path, monkeypatch):
    """Ratings that a killed `add` has unpacked stay in scratch/, because no run knows whose they are."""
    names = list[str]()

    def releases(*_: object) -> list[tuple[str, str | None]]:
        names.extend(lying_in(home.scratch))
        return []

    monkeypatch.setattr("recsys_assets.cli.landing.landed_releases", releases)
    added = invoke("add", written(tmp_path / "a.csv", "ana"), "--home", home.path)
    assert added.exit_code == 0, added.output
    assert [name.rpartition("-")[2] for name in names] == [str(os.getpid())]


def test_of_those_that_add_one_name_at_once_one_lands_and_the_others_are_told(home, tmp_path):
    """A file is lost, and both who added one are told that it landed."""
    sources = [written(tmp_path / str(number) / "a.csv", f"u{number}") for number in range(N_AT_ONCE)]
    words = [sys.executable, "-c", "from recsys_assets.cli import app; app()", "add", "--home", str(home.path)]
    adding = [
        subprocess.Popen([*words, str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for source in sources
    ]
    told = [process.communicate() for process in adding]
    [landed] = [number for number, process in enumerate(adding) if process.returncode == 0]
    assert "landed" in told[landed][0]
    assert (home.landing / "a.csv").read_bytes() == sources[landed].read_bytes()
    for number in {*range(N_AT_ONCE)} - {landed}:
        assert "exists with other content" in told[number][1] and "--batch NAME" in told[number][1]
    assert lying_in(home.landing) == ["a.csv"]


def test_batches_come_and_go_where_landing_lies_on_another_disk(elsewhere, tmp_path):
    """In a container, or behind a link to a drop folder, nothing can be removed: Invalid cross-device link."""
    home = elsewhere
    assert invoke("add", written(tmp_path / "a.csv", "ana"), "--home", home.path).exit_code == 0
    written(home.landing / "b" / "ratings.csv", "ben")
    with changing(home):
        exchange(home, "a.csv", lambda path: written(path / "ratings.csv", "cleo") and None)
    assert lying_in(home.landing / "a.csv") == ["ratings.csv"]
    for name in ("a.csv", "b"):
        removed = invoke("remove", name, "--home", home.path)
        assert removed.exit_code == 0, removed.output
    assert lying_in(home.landing) == []
    assert (home.removed / "a.csv" / "ratings.csv").read_text().startswith(f"{HEADER}cleo")
    assert (home.removed / "b" / "ratings.csv").read_text().startswith(f"{HEADER}ben")
    assert lying_in(home.removed) == ["a.csv", "b"]


def test_a_link_to_nothing_is_one_unreadable_batch_that_can_be_removed(home):
    """One link whose target was cleared away keeps `batches` and `remove` from all other batches."""
    written(home.landing / "a.csv", "ana")
    (home.landing / "b.csv").symlink_to("/nowhere/b.csv")
    listed = invoke("batches", "--home", home.path)
    assert listed.exit_code == 0, listed.output
    assert "a link to /nowhere/b.csv, which does not exist" in listed.stdout
    again = invoke("add", home.landing / "a.csv", "--batch", "b.csv", "--home", home.path)
    assert again.exit_code == 1 and "a link to /nowhere/b.csv" in again.stderr
    for name in ("a.csv", "b.csv"):
        assert invoke("remove", name, "--home", home.path).exit_code == 0
    assert lying_in(home.landing) == [] and lying_in(home.removed) == ["a.csv", "b.csv"]


def test_what_a_killed_command_has_left_in_landing_is_put_right_by_the_next(home, tmp_path):
    """The only copy of a source lies in a hidden folder for ever, or half a copy does."""
    work = home.landing / ".landing-changes"
    written(work / "new" / "a.csv" / "ratings.csv", "ana")
    written(work / "old" / "a.csv", "ana", "ben")
    written(work / "unfinished" / "c.csv", "cl")
    assert invoke("add", written(tmp_path / "b.csv", "ben"), "--home", home.path).exit_code == 0
    assert lying_in(home.landing) == ["a.csv", "b.csv"]
    assert lying_in(home.landing / "a.csv") == ["ratings.csv"]


def test_an_exchange_that_fails_leaves_the_batch_as_it_was(home):
    """A full disk takes a source with it."""
    source = written(home.landing / "a.csv", "ana")
    before = source.read_bytes()

    def fail(path: Path) -> None:
        path.mkdir()
        raise OSError("disk full")

    with changing(home), pytest.raises(OSError, match="disk full"):
        exchange(home, "a.csv", fail)
    assert source.read_bytes() == before and lying_in(home.landing) == ["a.csv"]


def test_what_lands_meanwhile_under_the_name_of_an_exchange_is_kept(home):
    """A file that somebody copies into landing/ in a moment between two steps is overwritten."""
    work = home.landing / ".landing-changes"
    written(work / "new" / "a.csv", "ana")
    written(work / "old" / "a.csv", "ana", "ben")
    written(home.landing / "a.csv", "cleo")
    with changing(home):
        pass
    assert lying_in(home.landing) == ["a.csv", "a.csv-2"]
    assert (home.landing / "a.csv").read_text() == f"{HEADER}cleo,m,3,978300760\n"


def test_a_batch_may_be_called_as_a_folder_of_the_store(tmp_path):
    """The tables of a batch called `versions` are deleted as old ones."""
    store = AssetStore(tmp_path)
    for batch in ("versions", "current", "batches", "a"):
        for number in range(2):
            version = store.new_version(["raw_ratings"], batch, f"run{number}")
            (version / "table.parquet").write_text(str(number))
            store.switch(version)
    store.folder(["raw_ratings"], "gone").joinpath("versions", "left").mkdir(parents=True)
    assert store.keep_only_current() == 5
    assert store.batches(["raw_ratings"]) == ["a", "batches", "current", "versions"]
    for batch in store.batches(["raw_ratings"]):
        assert (store.current(["raw_ratings"], batch) / "table.parquet").read_text() == "1"


@pytest.mark.parametrize("words", [("remove", "a.csv", "--no-run"), ("compact",)])
def test_who_waits_for_a_long_change_of_landing_is_told(home, monkeypatch, words):
    """`remove` and `compact` beside an `add` of a large file would seem to hang."""
    written(home.landing / "a.csv", "ana")
    lock, show = FileLock(home.landing_lock), Console.print

    def shown(out: Console, *texts: object, **how: Any) -> None:
        if "Waiting" in str(texts):
            lock.release()
        show(out, *texts, **how)

    monkeypatch.setattr(Console, "print", shown)
    # A command that says nothing fails, and does not wait for ever.
    monkeypatch.setattr(landing, "FileLock", partial(FileLock, timeout=1))
    with lock:
        told = invoke(*words, "--home", home.path)
    assert told.exit_code == 0 and "Waiting for another command" in told.stdout, told.output


def test_links_are_moved_out_as_links(home, tmp_path):
    """What a link in landing/ points to is moved or deleted with it."""
    target = written(tmp_path / "mine.csv", "ana")
    (home.landing / "a.csv").symlink_to(target)
    with changing(home):
        moved = move_out(home, "a.csv")
        land(home, target, "a.csv")
    assert moved.is_symlink() and target.exists() and moved.readlink() == target
