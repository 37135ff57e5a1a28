"""Homes on object stores: two machines (two cache directories) and one store in memory, which needs no server."""

import os
import shutil
import uuid
from pathlib import Path

import fsspec
import polars as pl
import pytest
from filelock import FileLock

from recsys_assets.home import remote, working_copy
from recsys_assets.home.landing import exchange, move_out
from recsys_assets.home.layout import Home
from recsys_assets.home.object_store import Commit, Store, commit_key
from recsys_assets.home.versions import AssetStore
from recsys_assets.home.working_copy import WorkingCopy
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.kill_points import read, write_ratings


def naming(url: str, person: str) -> list[str]:
    """Keys of the objects that contain an id. Parquet is read, because it is compressed."""
    store = Store(url)
    contents = {key: store.read(key) for key in store.objects("")}
    tables = {key: pl.read_parquet(content) for key, content in contents.items() if key.endswith(".parquet")}
    contents |= {key: str(rows.to_dicts()).encode() for key, rows in tables.items()}
    return [key for key, content in contents.items() if person.encode() in content]


class Machine:
    """A machine with its own cache directory, and so its own working copy of the home."""

    def __init__(self, cache: Path, url: str) -> None:
        self.cache, self.url = cache, url

    def command(self, *arguments: object):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("RECSYS_CACHE", str(self.cache))
            return invoke(*arguments, "--home", self.url)

    @property
    def home(self) -> Home:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("RECSYS_CACHE", str(self.cache))
            return Home.resolve(self.url)

    @property
    def store(self) -> AssetStore:
        return AssetStore(self.home.assets)

    def pull(self) -> None:
        remote.pull(self.home.path, landing=True)

    def write(self, asset: str, text: str) -> None:
        version = self.store.new_version([asset], None, "run")
        (version / "model.txt").write_text(text)
        self.store.switch(version)

    def read(self, asset: str) -> str:
        return (self.store.current([asset]) / "model.txt").read_text()


@pytest.fixture
def url() -> str:
    """The URL of a home that does not exist yet, in an empty bucket."""
    bucket = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").mkdir(bucket)
    return f"{bucket}/films"


@pytest.fixture
def machines(tmp_path, url) -> tuple[Machine, Machine]:
    """Two machines that use the same home."""
    return Machine(tmp_path / "a", url), Machine(tmp_path / "b", url)


def ratings(path: Path, user: str = "ana") -> Path:
    """A file with five ratings of one user."""
    path.write_text("user,item,rating\n" + "".join(f"{user},{item},4\n" for item in range(1, 6)))
    return path


def keys(url: str) -> list[str]:
    """The keys of all objects of a home."""
    return [*Store(url).objects("")]


def test_add(machines, url, tmp_path):
    """Data that one machine lands would be unknown to the others."""
    here, there = machines
    added = here.command("add", ratings(tmp_path / "may.csv"))
    assert added.exit_code == 0, added.output
    assert f"run --home {url}" in added.output
    listed = there.command("batches")
    assert "may.csv" in listed.output, listed.output
    again = there.command("add", ratings(tmp_path / "may.csv", user="bo"))
    assert again.exit_code == 1
    assert "exists with other content" in again.output
    assert "landing/may.csv" in keys(url)


def test_switch(machines):
    """The second machine would read the old version, or half of the new one."""
    here, there = machines
    here.write("ease", "first")
    there.pull()
    assert there.read("ease") == "first"
    for text in ("second", "third", "fourth", "fifth"):
        here.write("ease", text)
    assert there.read("ease") == "first"
    there.pull()
    assert there.read("ease") == "fifth"
    assert here.read("ease") == "fifth"


def test_fetched_when_read(machines):
    """A machine that only shows lists would download all models."""
    here, there = machines
    here.write("ease", "first")
    here.write("als", "other")
    there.pull()
    there.read("als")
    assert not (there.home.assets / "ease" / "current" / "model.txt").exists()
    assert there.store.has(["ease"])


@pytest.mark.parametrize("nth", range(1, 4))
def test_failed_write(machines, monkeypatch, nth):
    """A store that answers 503 would leave a home with half of an asset."""
    here, there = machines
    here.write("ease", "first")
    system = type(fsspec.filesystem("memory"))
    count = iter(range(1, 100))

    def failing(method):
        def put(self, path, *arguments, **options):
            if next(count) == nth:
                raise OSError(503, "Slow Down")
            return method(self, path, *arguments, **options)

        return put

    version = here.store.new_version(["ease"], None, "run")
    for name in ("a.parquet", "model.txt"):
        (version / name).write_text("second")
    with monkeypatch.context() as patched:
        patched.setattr(system, "put_file", failing(system.put_file))
        patched.setattr(system, "pipe_file", failing(system.pipe_file))
        with pytest.raises(remote.StoreError, match="last complete state is in place"):
            here.store.switch(version)
    there.pull()
    assert (here.read("ease"), there.read("ease")) == ("first", "first")
    here.store.switch(version)
    there.pull()
    assert (here.read("ease"), there.read("ease")) == ("second", "second")


def test_small_files(machines):
    """A blocked item would stay in the lists that another machine makes."""
    here, there = machines
    here.pull()
    here.home.prepare()
    here.home.blocked.write_text('"7"\n')
    remote.push(here.home.path)
    there.pull()
    assert there.home.blocked.read_text() == '"7"\n'
    there.home.blocked.write_text('"7"\n"8"\n')
    remote.push(there.home.path)
    here.home.blocked.write_text('"9"\n')
    with pytest.raises(remote.StoreConflictError, match="blocked was changed in memory://"):
        remote.push(here.home.path)


def test_settings(machines, url):
    """A settings file that a person puts into the bucket, or edits in the working copy, would have no effect."""
    here, there = machines
    here.pull()
    system = fsspec.filesystem("memory")
    system.pipe_file(f"{url}/settings.toml", b"[als]\nrank = 3\n")
    here.pull()
    assert here.home.settings_file.read_text() == "[als]\nrank = 3\n"
    here.home.settings_file.write_text("[als]\nrank = 44\n")
    remote.push(here.home.path)
    there.pull()
    assert there.home.settings_file.read_text() == "[als]\nrank = 44\n"


def test_one_run_at_a_time(machines, url):
    """Two machines would compute at once, and the models of both would be mixed."""
    here, there = machines
    with remote.holding(here.home.path):
        here.write("ease", "first")
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv("RECSYS_STORE_LOCK")
            told = rf"Another run works on this home \({url}\): process"
            with pytest.raises(remote.StoreConflictError, match=told), remote.holding(there.home.path):
                pass
    with remote.holding(there.home.path):
        assert there.read("ease") == "first"


def test_killed_run(machines, monkeypatch):
    """A machine would wait for its own killed run; or another one would take a home from a run that works."""
    here, there = machines
    here.write("ease", "first")
    copy = remote.copy_of(here.home.path)
    assert copy is not None
    copy.take_lock()
    unfinished = here.store.new_version(["ease"], None, "killed")
    monkeypatch.delenv("RECSYS_STORE_LOCK")
    with pytest.raises(remote.StoreConflictError, match="Another run works"), remote.holding(there.home.path):
        pass
    with remote.holding(here.home.path):
        assert not unfinished.exists()
        here.write("ease", "second")
    there.pull()
    assert there.read("ease") == "second"


def test_lost_lock(machines, monkeypatch):
    """A run that slept while another machine took over would mix its models with those of the other."""
    here, there = machines
    monkeypatch.setattr(working_copy, "_EXPIRES_AFTER", -working_copy._EXPIRES_AFTER)
    told = "another machine has taken over this home"
    with pytest.raises(remote.StoreConflictError, match=told), remote.holding(here.home.path):
        mine = os.environ.pop("RECSYS_STORE_LOCK")
        with remote.holding(there.home.path):
            there.write("ease", "theirs")
            theirs = os.environ["RECSYS_STORE_LOCK"]
            os.environ["RECSYS_STORE_LOCK"] = mine
            with pytest.raises(remote.StoreConflictError, match=told):
                here.write("ease", "mine")
            os.environ["RECSYS_STORE_LOCK"] = theirs
        os.environ["RECSYS_STORE_LOCK"] = mine
    there.pull()
    assert there.read("ease") == "theirs"


def test_lost_lock_after_a_whole_run(machines, monkeypatch):
    """A run that slept for long would write a commit whose number is free again, and report what nobody ever sees."""
    here, there = machines
    monkeypatch.setattr(working_copy, "_EXPIRES_AFTER", -working_copy._EXPIRES_AFTER)
    monkeypatch.setattr(working_copy, "_COMMITS_KEPT", 3)
    told = "another machine has taken over this home"
    with pytest.raises(remote.StoreConflictError, match=told), remote.holding(here.home.path):
        mine = os.environ.pop("RECSYS_STORE_LOCK")
        with remote.holding(there.home.path):
            for _ in range(5):
                there.write("ease", "theirs")
        os.environ["RECSYS_STORE_LOCK"] = mine
        with pytest.raises(remote.StoreConflictError, match=told):
            here.write("ease", "mine")
    there.pull()
    assert there.read("ease") == "theirs"


def test_downloads_of_killed_processes_go(machines):
    """A user who was erased on another machine would stay in a half-downloaded file of this one."""
    here, _ = machines
    own = here.home.path / ".store"
    (own / "abc-999999999").mkdir()
    (own / ".base.json-999999999").touch()
    here.pull()
    assert not [path for path in own.iterdir() if path.name.endswith("-999999999")]


@pytest.mark.parametrize("name", ["incoming-from-mail", f"incoming-{10**12}"])
def test_a_folder_of_somebody_else_in_a_working_copy_stays(machines, name):
    """Every command for the home would end with a traceback, because the name holds no process id."""
    here, _ = machines
    folder = here.home.path / ".store" / name
    folder.mkdir()
    here.pull()
    assert folder.exists()


def test_a_working_copy_that_two_commands_begin_has_one_name(machines, url):
    """The lock that the first command took would look like that of another machine, and the home be locked."""
    here, _ = machines
    copy = WorkingCopy(here.home.path)
    name = copy.name
    copy.begin(url)
    assert copy.name == name


def test_deleted_with_the_lock_alone(machines, url):
    """A cleaned cache directory would delete the home in the store."""
    here, _ = machines
    here.write("ease", "first")
    version = here.store.current(["ease"])
    with FileLock(here.home.lock):
        remote.push(here.home.path)
    shutil.rmtree(here.home.assets)
    remote.push(here.home.path)
    here.pull()
    assert here.read("ease") == "first"
    with remote.holding(here.home.path):
        shutil.rmtree(here.home.assets / "ease")
    assert not [key for key in keys(url) if version.name in key]


def test_removed_batch(machines, url, tmp_path):
    """A removed batch would come back from the store, or its source would be lost with this machine."""
    here, there = machines
    for name in ("may.csv", "june.csv"):
        assert here.command("add", ratings(tmp_path / name)).exit_code == 0
    with remote.holding(there.home.path):
        move_out(there.home, "may.csv")
    here.pull()
    assert here.home.landed_batches() == ["june.csv"]
    assert [path.name for path in here.home.removed.iterdir()] == ["may.csv"]
    assert "landing/may.csv" not in keys(url)


def test_replaced_batch(machines, url, tmp_path):
    """After `compact` the landed file with the forgotten user would still be in the store."""
    here, there = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0
    there.pull()

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "ratings.parquet").write_text("everybody else")

    with remote.holding(here.home.path):
        exchange(here.home, "may.csv", write)
    there.pull()
    assert (there.home.landing / "may.csv" / "ratings.parquet").read_text() == "everybody else"
    assert [key for key in keys(url) if key.startswith("landing/")] == ["landing/may.csv/ratings.parquet"]


FILE = {"": "with ana"}
FOLDER = {"ratings.csv": "with ana", "users.csv": "ana"}
REWRITTEN = {"ratings.parquet": "everybody else", "users.parquet": "ben"}


def written(path: Path, files: dict[str, str]) -> None:
    """Write a batch: a file, if it has one without a name, or a folder."""
    if "" not in files:
        path.mkdir()
    for name, content in files.items():
        (path / name).write_text(content)


def landed(machine: Machine, name: str) -> dict[str, str]:
    """The files of a batch, as `written` takes them."""
    path = machine.home.landing / name
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {"" if each == path else each.relative_to(path).as_posix(): each.read_text() for each in files}


def failing_from(patched: pytest.MonkeyPatch, nth: int) -> None:
    """Let the store in memory refuse every change from the nth one on."""
    system, count = type(fsspec.filesystem("memory")), iter(range(1, 1_000))

    def failing(method):
        def change(self, *arguments, **options):
            if next(count) >= nth:
                raise OSError(503, "Slow Down")
            return method(self, *arguments, **options)

        return change

    for name in ("put_file", "pipe_file", "rm_file"):
        patched.setattr(system, name, failing(getattr(system, name)))


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("before", [FILE, FOLDER], ids=["file", "folder"])
@pytest.mark.parametrize("nth", range(1, 7))
def test_a_failure_while_a_batch_is_replaced(machines, url, monkeypatch, nth, before, is_lost):
    """A batch that `compact` has rewritten would be lost with the machine, or be left half old and half new."""
    here, there = machines
    here.pull()
    here.home.prepare()
    written(here.home.landing / "may", before)
    remote.push(here.home.path)
    there.pull()
    with monkeypatch.context() as patched:
        patched.setattr(working_copy, "_EXPIRES_AFTER", -working_copy._EXPIRES_AFTER)
        with pytest.raises(remote.StoreError, match="Slow Down"), remote.holding(here.home.path):
            exchange(here.home, "may", lambda folder: written(folder, REWRITTEN))
            failing_from(patched, nth)
    is_stored = any("exchanging" in key for key in keys(url)) or "landing/may/users.parquet" in keys(url)
    repeating = there if is_lost else here
    repeating.pull()
    with remote.holding(repeating.home.path):
        pass
    there.pull()
    assert landed(there, "may") == (REWRITTEN if is_stored or not is_lost else before)
    assert not [key for key in keys(url) if "exchanging" in key]


def test_a_failure_while_a_batch_is_removed(machines, monkeypatch, tmp_path):
    """The object of a removed batch would be deleted before the store knows the copy in `removed`."""
    here, there = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0

    def refused(*_):
        raise remote.StoreError("503: Slow Down")

    with monkeypatch.context() as patched, pytest.raises(remote.StoreError), remote.holding(here.home.path):
        move_out(here.home, "may.csv")
        patched.setattr(Store, "add", refused)
    there.pull()
    assert there.home.landed_batches() == ["may.csv"]
    with remote.holding(here.home.path):
        move_out(here.home, "may.csv")
    there.pull()
    assert there.home.landed_batches() == []
    assert "may.csv" in [path.name for path in there.home.removed.iterdir()]


def test_a_replaced_batch_that_another_machine_changed(machines, url, tmp_path):
    """`compact` would put its old rows in the place of the file that a person has just corrected."""
    here, _ = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0
    told = r"landing/may\.csv was changed in memory://"
    with pytest.raises(remote.StoreConflictError, match=told), remote.holding(here.home.path):
        exchange(here.home, "may.csv", lambda folder: written(folder, REWRITTEN))
        fsspec.filesystem("memory").pipe_file(f"{url}/landing/may.csv", b"corrected")


def test_a_batch_with_one_file_less_is_restored(machines):
    """A working copy in which one file of a batch was deleted would delete it in the store, for all machines."""
    here, _ = machines
    here.pull()
    here.home.prepare()
    written(here.home.landing / "may", FOLDER)
    remote.push(here.home.path)
    (here.home.landing / "may" / "users.csv").unlink()
    (here.home.landing / "may" / "items.csv").write_text("more")
    with remote.holding(here.home.path):
        pass
    assert landed(here, "may") == {**FOLDER, "items.csv": "more"}


def test_erased(machines, url):
    """What a killed run has uploaded would name a forgotten user for ever."""
    here, _ = machines
    here.write("ease", "first")
    fsspec.filesystem("memory").pipe_file(f"{url}/assets/ease/versions/killed/model.txt", b"ana")
    with remote.holding(here.home.path):
        stored = remote.begin_erasing(here.home.path)
        here.write("ease", "second")
        here.store.keep_only_current()
        remote.end_erasing(here.home.path, stored)
    versions = [key for key in keys(url) if key.startswith("assets/")]
    assert versions == [f"assets/ease/versions/{here.store.current(['ease']).name}/model.txt"]


def test_what_belongs_to_others_stays(machines, url, tmp_path):
    """`compact` would delete another home below the same URL, or somebody's invoices."""
    here, _ = machines
    here.write("ease", "first")
    below = Machine(tmp_path / "c", f"{url}/more")
    below.write("ease", "another")
    fsspec.filesystem("memory").pipe_file(f"{url}/invoices/2024.pdf", b"ana")
    others = [key for key in keys(url) if key.startswith(("more/", "invoices/"))]
    with remote.holding(here.home.path):
        remote.end_erasing(here.home.path, remote.begin_erasing(here.home.path))
    assert len(others) == 3 and [key for key in keys(url) if key in others] == others


def test_a_reader_beside_a_removal(machines, url, tmp_path):
    """`status` would bring back the file that `remove` or `compact` on the same machine has just taken away."""
    here, _ = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0
    with FileLock(here.home.lock):
        move_out(here.home, "may.csv")
        remote.push(here.home.path)
        assert here.home.landed_batches() == []
    assert "landing/may.csv" in keys(url), "only the holder of the lock deletes in the store"


def test_a_pull_that_waited_while_a_run_began(machines, monkeypatch):
    """The version that the run is writing would be deleted, and an empty one become the present one."""
    here, _ = machines
    here.write("ease", "first")
    unfinished = here.store.new_version(["ease"], None, "run")
    found = iter([False, True])
    monkeypatch.setattr(working_copy.WorkingCopy, "_is_at_work", property(lambda _: next(found)))
    here.pull()
    assert unfinished.is_dir() and next(found, None) is None


def test_lost_commits(machines, url):
    """A wrong lifecycle rule in the bucket would empty the working copies, too, which hold the only copies then."""
    here, _ = machines
    here.write("ease", "first")
    store = fsspec.filesystem("memory")
    store.pipe_file(f"{url}/commits/README.txt", b"not a commit")
    here.pull()
    for key in keys(url):
        if key.startswith("commits/0"):
            store.rm_file(f"{url}/{key}")
    with pytest.raises(remote.StoreConflictError, match="has lost commits: the newest is 0"):
        here.pull()
    assert here.read("ease") == "first"


def test_a_batch_that_another_machine_landed_can_be_removed(machines, tmp_path):
    """`remove` would know no such batch until another command has fetched it."""
    here, there = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0
    removed = there.command("remove", "may.csv", "--no-run", "--yes")
    assert removed.exit_code == 0, removed.output


def test_an_erased_batch_goes_from_other_machines(machines, tmp_path):
    """The file with an erased user would stay on each machine that only shows lists."""
    here, there = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0
    there.pull()
    assert there.home.landed_batches() == ["may.csv"]
    with remote.holding(here.home.path):
        move_out(here.home, "may.csv")
    remote.pull(there.home.path)
    assert there.home.landed_batches() == []


def test_objects_that_no_command_reads_are_named(machines, url, tmp_path):
    """`compact` would say that a person is erased whom an object beside the batches still names."""
    here, _ = machines
    assert here.command("add", ratings(tmp_path / "may.csv")).exit_code == 0
    store = fsspec.filesystem("memory")
    store.pipe_file(f"{url}/landing/.old/june.csv", b"ana")
    assert remote.never_read(here.home.path) == ["landing/.old/june.csv"]


def test_an_object_with_the_name_of_the_landing_folder_is_named(machines, url):
    """`compact` would say that a person is erased whom this object still names."""
    here, _ = machines
    fsspec.filesystem("memory").pipe_file(f"{url}/landing", b"ana")
    assert remote.never_read(here.home.path) == ["landing"]


def test_urls():
    """A home would lie in a folder named S3: or file: below the current one."""
    assert remote.url_of("S3://films/home/") == "s3://films/home"
    assert remote.url_of("/data/home") is None
    with pytest.raises(remote.StoreError, match="without file://"):
        remote.url_of("file:///data/home")


def test_two_machines_land_one_name(machines, monkeypatch):
    """One of two batches of the same name would be lost without a word."""
    here, there = machines
    for machine in machines:
        machine.pull()
        machine.home.prepare()
    ratings(here.home.landing / "may.csv")
    ratings(there.home.landing / "may.csv", user="bo")
    with monkeypatch.context() as patched:
        # The listing comes before the upload of the other machine.
        patched.setattr(Store, "objects", lambda *_: {})
        remote.push(here.home.path)
        with pytest.raises(remote.StoreConflictError, match=r"another machine has just stored landing/may\.csv"):
            remote.push(there.home.path)
    with pytest.raises(remote.StoreConflictError, match=r"landing/may\.csv was changed in memory://"):
        remote.push(there.home.path)


def test_erased_user(machines, url, tmp_path):
    """Somebody who asked to be forgotten stays in the store."""
    here, there = machines
    person = "ana-4711"
    for name, users in {"may.csv": (person, "ben"), "june.csv": ("cleo",)}.items():
        write_ratings(tmp_path / name, *users)
        assert here.command("add", tmp_path / name).exit_code == 0
        with remote.holding(here.home.path):
            read(here.home, name)
    there.pull()
    assert len(naming(url, person)) == 2
    for command in (("forget", person, "--no-run", "--yes"), ("compact", "--yes")):
        ran = here.command(*command)
        assert ran.exit_code == 0, ran.output
    assert "none names the forgotten user" in ran.output
    assert [key.partition("@")[0] for key in naming(url, person)] == ["forgotten"]
    there.pull()
    files = [path for path in there.home.path.rglob("*") if path.is_file()]
    assert [path for path in files if person.encode() in path.read_bytes()] == [there.home.forgotten]
    assert there.home.landed_batches() == ["june.csv", "may.csv"]


def test_hostile_key(machines, url):
    """Whoever may land data could write files outside of the home."""
    here, _ = machines
    system = fsspec.filesystem("memory")
    for name in ("../../../out.csv", "ok.csv", "long" * 100):
        system.pipe_file(f"{url}/landing/{name}", b"user,item,rating")
    here.pull()
    assert here.home.landed_batches() == ["ok.csv"]
    assert not [*here.cache.rglob("out.csv")] and not [*here.cache.parent.glob("out.csv")]


def test_object_named_like_the_landing_folder(machines, url):
    """Such an object would replace the folder, with files that were not uploaded yet."""
    here, _ = machines
    fsspec.filesystem("memory").pipe_file(f"{url}/landing", b"user,item,rating")
    here.home.landing.mkdir(parents=True)
    ratings(here.home.landing / "may.csv")
    # The store in memory cannot have both, others can.
    with pytest.raises(remote.StoreConflictError):
        here.pull()
    assert here.home.landed_batches() == ["may.csv"]


def test_a_lock_whose_number_is_free_again(machines, monkeypatch):
    """A run would work for hours without the lock, and lose what it made when it stores its first asset."""
    here, there = machines
    here.write("ease", "first")
    monkeypatch.setattr(working_copy, "_COMMITS_KEPT", 1)
    copies = {machine: remote.copy_of(machine.home.path) for machine in machines}
    exchanged, meanwhile = working_copy.WorkingCopy._exchanged, iter([there])

    def slow(copy, *arguments, **options):
        if copy is copies[here] and next(meanwhile, None):
            with remote.holding(there.home.path):
                there.write("ease", "second")
            copies[there].take_lock()
            del os.environ["RECSYS_STORE_LOCK"]
        return exchanged(copy, *arguments, **options)

    monkeypatch.setattr(working_copy.WorkingCopy, "_exchanged", slow)
    with pytest.raises(remote.StoreLockedError, match="Another run works on this home"):
        copies[here].take_lock()


def test_a_store_that_fails_after_the_last_commit(machines, monkeypatch):
    """A run that has stored everything would count as failed, and be done again."""
    here, there = machines
    commits = Store.commits

    def failing(store):
        numbers = commits(store)
        if Commit.read(store.read(commit_key(numbers[-1]))).lock is None:
            raise remote.StoreError("503: Slow Down")
        return numbers

    with monkeypatch.context() as patched, remote.holding(here.home.path):
        here.write("ease", "first")
        patched.setattr(Store, "commits", failing)
    there.pull()
    assert there.read("ease") == "first"
