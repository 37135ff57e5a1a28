"""What lies in landing/ comes from anywhere: it leads nowhere else, and nothing waits for it."""

import os
import socket
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from recsys_assets.home.batches import Batch
from recsys_assets.home.landed import fingerprint, landed
from recsys_assets.home.layout import Home, is_batch_name
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.landing_watch import Cursor, look
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets_tests.conftest import invoke

RATINGS = "user_id,item_id,rating,timestamp\nana,heat,5,978300760\nben,up,3,978300761\n"


def _socket(path: Path) -> None:
    # Bound by its short name: addresses of sockets have 107 bytes.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "FIFO": (os.mkfifo, "a FIFO; expected a file or a folder"),
    "socket": (_socket, "a socket; expected a file or a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "leads out|a device"),
}
PLACES = ("x.csv", "x/inside.csv")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home in which one good batch has landed."""
    made = Home(tmp_path / "home")
    made.prepare()
    (made.landing / "good.csv").write_text(RATINGS)
    return made


def _put(home: Home, place: str, make: Callable[[Path], None]) -> Path:
    path = home.landing / place
    path.parent.mkdir(exist_ok=True)
    if path.parent != home.landing:
        (path.parent / "ratings.csv").write_text(RATINGS)
    make(path)
    return home.landing / Path(place).parts[0]


def _assert_refused(home: Home, batch: Path, message: str) -> None:
    """Neither the sensor nor a run reads it, and both say why; the others are read."""
    with pytest.raises(SourceError, match=message):
        Batch.open(home, batch.name, DataSettings(), home.scratch)
    seen = look(home, Cursor(), quiet_seconds=0, now=1.0)
    assert [entry.name for entry in landed(home) if not entry.fault] == ["good.csv"]
    assert set(seen.cursor.batches) == {"good.csv"}
    assert any(told.startswith(f"{batch.name} is not read: ") for told in seen.waiting)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_neither_file_nor_folder_is_told_and_not_waited_for(kind: str, place: str, home: Home) -> None:
    """A FIFO that somebody put into landing/ would hang the sensor and every run, which wait for its writer."""
    make, message = SPECIAL[kind]
    batch = _put(home, place, make)
    _assert_refused(home, batch, message)
    if not batch.is_symlink():
        with pytest.raises(SourceError, match=message):
            fingerprint(batch)
        for command in (("add", batch, "--batch", "y"), ("add", "--check", batch, "--batch", "y")):
            ran = invoke(*command, "--home", home.path)
            assert ran.exit_code == 1 and "Error: " in ran.stderr, ran.output
    assert not (home.landing / "y").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", ["file", "folder", "parent"])
def test_a_link_that_leads_out_is_not_followed(target: str, place: str, home: Home, tmp_path: Path) -> None:
    """A link in a batch would bring any file of the user's into a catalogue that others are shown."""
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "ratings.csv").write_text(RATINGS)
    targets = {"file": outside / "ratings.csv", "folder": outside, "parent": Path("../../..")}
    _assert_refused(home, _put(home, place, lambda path: path.symlink_to(targets[target])), "leads out")


def test_links_inside_and_a_linked_landing_folder_are_fine(tmp_path: Path) -> None:
    """Who keeps landing/ on another disk, or names one file of a batch twice, could read nothing any more."""
    home, elsewhere = Home(tmp_path / "home"), tmp_path / "elsewhere"
    (elsewhere / "b").mkdir(parents=True)
    (elsewhere / "b" / "data.csv").write_text(RATINGS)
    (elsewhere / "b" / "ratings.csv").symlink_to("data.csv")
    (elsewhere / "a").symlink_to("b/data.csv")
    home.path.mkdir()
    home.landing.symlink_to(elsewhere)
    assert [entry.fault for entry in landed(home)] == ["", ""]
    assert home.batch("a").read_text() == RATINGS


def test_a_folder_with_a_link_out_of_it_is_not_added(home: Home, tmp_path: Path) -> None:
    """`add` would copy what a link in somebody's folder points to: a key, say."""
    source, secret = tmp_path / "theirs", tmp_path / "key"
    source.mkdir()
    secret.write_text("secret")
    (source / "ratings.csv").write_text(RATINGS)
    (source / ".hidden").symlink_to(secret)
    ran = invoke("add", source, "--home", home.path)
    assert ran.exit_code == 1 and "leads out of its folder" in ran.stderr
    assert not (home.landing / "theirs").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    """Who unpacks such an archive by hand gets a link to a file of their own."""
    link = zipfile.ZipInfo("ratings.csv")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    ran = invoke("add", "--check", tmp_path / "a.zip", "--home", tmp_path / "home")
    assert ran.exit_code == 1 and "a link inside the zip (ratings.csv)" in ran.stderr


NO_NAMES = (
    "",
    ".",
    "..",
    "../secret",
    "/etc/passwd",
    "a/b",
    "a\nb",
    "a\x1b[2J",
    "a...b",
    "日" * 26,
    "x" * 231,
    ".a",
    "_a",
)


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_a_name_leads_nowhere_else(name: str, home: Home) -> None:
    """A partition `..`, added in the UI's dialog, would read, and `remove` delete, what lies beside the batches."""
    (home.path / "secret").write_text(RATINGS)
    assert not is_batch_name(name)
    with pytest.raises(SourceError, match="not allowed as the name of a batch"):
        Batch.open(home, name, DataSettings(), home.scratch)
    store = AssetStore(home.assets)
    assert store.folder(["raw_ratings"], name).resolve().parent == store.folder(["raw_ratings"]) / "batches" or not name


@pytest.mark.parametrize("name", ["日" * 25, "x" * 230, "a b", "ratings (1).csv", "día.csv"], ids=ascii)
def test_usual_names_are_names(name: str) -> None:
    """A file could not land for its name."""
    assert is_batch_name(name)


def test_a_partition_that_is_no_name_fails_its_run_and_goes(home: Home) -> None:
    """A partition `..`, added through GraphQL, would read what lies beside landing/, or stay for ever."""
    from recsys_assets.orchestration.build import build_defs
    from recsys_assets.orchestration.planning import plan

    (home.path / "ratings.csv").write_text(RATINGS)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        instance.add_dynamic_partitions(str(BATCHES.name), ["..", "good.csv"])
        defs = build_defs(home=home)
        ran = defs.resolve_job_def("ingest").execute_in_process(
            instance=instance,
            tags={"dagster/asset_partition_range_start": "..", "dagster/asset_partition_range_end": ".."},
            asset_selection=[dg.AssetKey("rejected_rows")],
            raise_on_error=False,
        )
        assert not ran.success
        error = ran.get_step_failure_events()[0].step_failure_data.error
        assert "'..' is not allowed as the name of a batch" in str(error)
        plan(home, instance, [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)])
        assert instance.get_dynamic_partitions(str(BATCHES.name)) == ["good.csv"]
    assert not any(home.assets.rglob("table.parquet"))
