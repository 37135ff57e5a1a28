"""Full disks and damaged files of a home: one line with the file and the way out, never a traceback."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from recsys_assets.cli.faults import damaged_databases
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.running import copied, table

RATINGS = "user_id,item_id,rating,timestamp\nana,heat,5,978300760\nben,up,3,978300761\n"
_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["recsys-assets", *sys.argv[2:]]
from recsys_assets.cli import app
app()
"""


def _limited(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line where no file can grow beyond `size` bytes, as on a full disk."""
    command = [sys.executable, "-c", _LIMITED, str(size), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _assert_told(output: str, exit_code: int, *parts: str) -> None:
    assert exit_code == 1, output
    assert "Traceback" not in output
    assert output.startswith("Error: ") and len(output.strip().splitlines()) <= 2, output
    assert [part for part in parts if part not in output] == []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a landed batch and a run history."""
    made = Home(tmp_path / "home")
    made.prepare()
    (made.landing / "good.csv").write_text(RATINGS)
    with dg.DagsterInstance.from_config(str(made.dagster)) as instance:
        instance.add_dynamic_partitions(str(BATCHES.name), ["good.csv"])
        instance.get_runs()
        instance.all_instigator_state()
    return made


def test_init_on_a_full_disk_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """An empty settings.toml would be left, which the next `init` respects."""
    home = Home(tmp_path / "home")
    home.prepare()
    ran = _limited(1_000, "init", "--home", home.path)
    _assert_told(ran.stderr, ran.returncode, "disk is full", "Free some space, then repeat the command")
    assert [path.name for path in home.path.iterdir() if "settings" in path.name] == []
    home.settings_file.touch()
    assert invoke("init", "--home", home.path).exit_code == 0
    assert "[data]" in home.settings_file.read_text()


def test_a_full_disk_is_told_by_whatever_meets_it_first(home: Home, tmp_path: Path) -> None:
    """Copies of data and the run history meet a full disk in ways of their own, each a page of traceback."""
    (tmp_path / "more.csv").write_text(RATINGS + "ana,up,3,978300761\n" * 10_000)
    added = _limited(50_000, "add", tmp_path / "more.csv", "--home", home.path)
    _assert_told(added.stderr, added.returncode, "disk is full")
    assert [path.name for path in home.landing.iterdir()] == ["good.csv"]


@pytest.mark.slow
def test_a_full_disk_damages_no_database(home: Home) -> None:
    """Somebody would move a good run history away, because SQLite cannot open it while there is no room."""
    ran = _limited(20_000, "backfill", "good.csv", "--home", home.path)
    _assert_told(ran.stderr, ran.returncode, "free space on the disk")
    assert "damaged" not in ran.stderr


@pytest.mark.parametrize("name", ["index.db", "runs.db", "schedules.db"])
@pytest.mark.parametrize("damage", ["garbage", "cut off", "a folder"])
def test_a_damaged_database_is_named_with_the_way_out(name: str, damage: str, home: Home) -> None:
    """Whoever has a damaged run history would see pages of SQLAlchemy, and not which file to move away."""
    (path,) = home.dagster.rglob(name)
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"garbage" * 3_000 if damage == "garbage" else content[: len(content) // 2])
    assert damaged_databases(home) == [path]
    for command in (("backfill", "good.csv"), ("run",), ("serve", "--port", "1")):
        ran = invoke(*command, "--home", home.path)
        _assert_told(ran.stderr, ran.exit_code, str(path), "move the file away")
    path.rename(path.with_suffix(".damaged"))
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        instance.add_dynamic_partitions(str(BATCHES.name), ["good.csv"])
        assert instance.get_runs() == [] and instance.all_instigator_state() == []


def test_a_sound_history_is_not_called_damaged(home: Home) -> None:
    """Every command would refuse to work."""
    assert damaged_databases(home) == damaged_databases(home, thorough=True) == []


def test_a_database_damaged_inside_is_named_when_it_is_met(home: Home) -> None:
    """Damage that the beginning of a file does not show would end in a page of traceback."""
    (path,) = home.dagster.rglob("index.db")
    content = bytearray(path.read_bytes())
    content[100:-1] = b"\xff" * (len(content) - 101)
    path.write_bytes(content)
    ran = invoke("backfill", "good.csv", "--home", home.path)
    _assert_told(ran.stderr, ran.exit_code, str(path), "move the file away")


def _damaged(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 300)


@pytest.mark.parametrize("damage", ["cut off", "garbage", "deleted"])
def test_a_damaged_model_is_named_with_the_way_out(damage: str, materialized_home: Home, tmp_path: Path) -> None:
    """Who asks for a list would get a page of traceback from JSON, NumPy or Polars."""
    home = copied(materialized_home, tmp_path / "home")
    version = AssetStore(home.assets).current(["serving_model"])
    # Models of early homes have no made_with.json, so that nothing is wrong without one.
    files = [path for path in version.rglob("*") if path.is_file() and path.name != "made_with.json"]
    assert len({path.suffix for path in files}) > 1
    for path in files:
        content = path.read_bytes()
        _damaged(path, damage)
        ran = invoke("recommend", "1", "--home", home.path)
        _assert_told(ran.stderr, ran.exit_code, str(version), "recsys-assets run")
        path.write_bytes(content)
    assert invoke("recommend", "1", "--home", home.path).exit_code == 0


def test_damaged_ratings_can_be_made_again(tmp_path: Path) -> None:
    """The way out that the message names would end with the same message, for ever."""
    home = Home(tmp_path / "home")
    home.prepare()
    (home.landing / "good.csv").write_text(RATINGS)
    assert invoke("backfill", "good.csv", "--home", home.path).exit_code == 0
    # At another path, because this process remembers how many rows a version has.
    home = copied(home, tmp_path / "copy")
    _damaged(AssetStore(home.assets).current(["ratings"]) / TABLE_FILE, "cut off")
    again = invoke("backfill", "good.csv", "--home", home.path)
    assert again.exit_code == 0, again.output
    assert len(table(home, "ratings")) == len(RATINGS.splitlines()) - 1


def test_a_table_damaged_inside_is_named_when_it_is_met(materialized_home: Home, tmp_path: Path) -> None:
    """Damage that the end of a Parquet file does not show would end in a page of traceback."""
    home = copied(materialized_home, tmp_path / "home")
    path = AssetStore(home.assets).current(["ratings"]) / TABLE_FILE
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 1_000 + content[1_004:])
    ran = invoke("recommend", "1", "--home", home.path)
    _assert_told(ran.stderr, ran.exit_code, str(path), "recsys-assets run")


DAMAGED = {
    "promotions/000001.json": (("promotions",), "000001.json is damaged"),
    "forgotten": (("backfill", "good.csv"), "forgotten, line 1: expected the id of a user in quotes"),
    "settings.toml": (("add", "x.csv"), "settings.toml"),
    "tuned.toml": (("add", "x.csv"), "tuned.toml"),
    "dagster/dagster.yaml": (("init",), "dagster.yaml"),
}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1, 2", None], ids=["cut off", "no text", "list", "folder"])
@pytest.mark.parametrize("name", [name for name in DAMAGED if name != "forgotten"])
def test_a_damaged_file_is_named_with_the_way_out(name: str, content: bytes | None, home: Home, tmp_path: Path) -> None:
    """A page of traceback would say which line of ours failed, not which file."""
    command, told = DAMAGED[name]
    path = home.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
        told = path.name
    else:
        path.write_bytes(content)
    (tmp_path / "x.csv").write_text(RATINGS)
    arguments = [tmp_path / part if part == "x.csv" else part for part in command]
    ran = invoke(*arguments, "--home", home.path)
    _assert_told(ran.stderr, ran.exit_code, told)


@pytest.mark.parametrize("content", [b'"ana"\n"be', b"\xff\n", b"42\n", b'"ana"\n\n'])
def test_a_damaged_list_of_exclusions_stops_everything(content: bytes, home: Home) -> None:
    """Whoever is on a line that cannot be read would come back."""
    from recsys_assets.home.exclusions import forgotten_users
    from recsys_assets.home.layout import HomeError

    home.forgotten.write_bytes(content)
    with pytest.raises(HomeError, match=r"forgotten, line [12]: expected the id of a user in quotes"):
        forgotten_users(home)
    ran = invoke("forget", "ben", "--home", home.path)
    _assert_told(ran.stderr, ran.exit_code, f"{home.forgotten}, line", "put the file back from a copy")
