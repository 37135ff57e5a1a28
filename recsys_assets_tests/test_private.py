"""Who can read what a home holds, and what data can do to those who look at it."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import narwhals as nw
import polars as pl
import pytest

from recsys_assets.cli.terminal import _VisibleConsole
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore, write_table
from recsys_assets.recommender.data.characters import visible
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets_tests.conftest import invoke

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x1b[31m"
RIGHT_TO_LEFT = "\u202egnp.exe\u2069"
USUAL_UMASK = 0o022
OTHERS = stat.S_IRWXG | stat.S_IRWXO
RATINGS = "user_id,item_id,rating,timestamp\nana,heat,5,978300760\nben,up,3,978300761\n"


def _open_to_others(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.rglob("*")) if not path.is_symlink() and path.stat().st_mode & OTHERS]


def _command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process with the umask that most people have."""
    return subprocess.run(
        [sys.executable, "-m", "recsys_assets.cli", *map(str, arguments)]
        if arguments[0] != "-c"
        else [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        umask=USUAL_UMASK,
        check=False,
    )


def test_what_lands_is_the_owners_alone(tmp_path: Path) -> None:
    """Every user of the machine could read who has rated what."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "ratings.csv").write_text(RATINGS)
    (source / "ratings.csv").chmod(0o644)
    home = tmp_path / "home"
    for command in (("init",), ("add", source)):
        ran = _command("-c", "from recsys_assets.cli import app; app()", *command, "--home", home)
        assert ran.returncode == 0, ran.stderr
    assert (home / "landing" / "source" / "ratings.csv").read_text() == RATINGS
    assert _open_to_others(home) == []


def test_what_a_run_makes_is_the_owners_alone(materialized_home: Home) -> None:
    """Models, run history, logs and the report quote users, and every user of the machine could read them."""
    # The folder of all assets is the fixture's, which has the umask of the tests.
    made = (*materialized_home.assets.iterdir(), materialized_home.report.parent, materialized_home.promotions)
    assert [path for folder in made for path in _open_to_others(folder)] == []
    history = [path for path in materialized_home.dagster.rglob("*") if path.suffix in (".db", ".log")]
    assert history
    assert [path for path in history if path.stat().st_mode & OTHERS] == []


@pytest.mark.parametrize(("mode", "expected"), [(0o755, 0o700), (0o777, 0o700), (0o750, 0o750), (0o700, 0o700)])
def test_a_home_that_everybody_may_enter_is_closed(mode: int, expected: int, tmp_path: Path) -> None:
    """A home of an earlier version would stay open, or one that was opened to a group be closed to it."""
    home = Home(tmp_path / "home")
    home.path.mkdir()
    home.path.chmod(mode)
    home.prepare()
    assert stat.S_IMODE(home.path.stat().st_mode) == expected


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A home whose code location a process has loaded; the umask and the loaded modules of that process."""
    home = tmp_path_factory.mktemp("loaded") / "home"
    home.mkdir(mode=0o755)
    script = "import json, os, sys, recsys_assets.definitions; print(json.dumps([os.umask(0), list(sys.modules)]))"
    told = _command("-c", script, RECSYS_HOME=str(home))
    assert told.returncode == 0, told.stderr
    umask, modules = json.loads(told.stdout.splitlines()[-1])
    return home, {"umask": umask, "modules": modules}


def test_the_code_location_keeps_its_files_private(loaded: tuple[Path, dict]) -> None:
    """Runs of plain `dg dev` would write what everybody can read."""
    home, process = loaded
    assert process["umask"] == OTHERS
    assert _open_to_others(home) == []


def test_the_code_location_loads_no_library_that_only_a_fit_needs(loaded: tuple[Path, dict]) -> None:
    """Every command and every process of a run would start later."""
    assert not {"numba", "pandas", "scipy.stats", "sklearn"} & {*loaded[1]["modules"]}


def _home_of(tmp_path: Path, titles: list[str | None], **more: list[str]) -> Home:
    """A home with users, items and ratings that came in before texts were cleaned."""
    home = Home(tmp_path / "home")
    home.prepare()
    n = len(titles)
    ids = more.get("ids", [f"m{number}" for number in range(n)])
    genres = pl.Series([[title or ""] for title in titles], dtype=pl.List(pl.String))
    items = pl.DataFrame({"item": range(n), "item_id": ids, "title": titles, "year": [None] * n, "genres": genres})
    users = pl.DataFrame({"user": range(n), "user_id": ids, "town": titles})
    when = [datetime(2020, 1, 1, tzinfo=UTC)] * n
    numbers = pl.DataFrame({"user": range(n), "item": range(n), "rating": [-1.5] * n, "timestamp": when})
    ratings = numbers.with_columns(batch=pl.lit(0), row=pl.int_range(pl.len()))
    store = AssetStore(home.assets)
    for name, table in (("users", users), ("items", items), ("ratings", ratings)):
        version = store.new_version([name], None, "of-a-test")
        write_table(nw.from_native(table.lazy()), TABLES[name], version)
        store.switch(version)
    return home


def _obeyed(printed: str) -> set[str]:
    """The characters that a terminal would obey."""
    return {character for character in printed if character != visible(character)}


def _commands(home: Home, tmp_path: Path) -> Iterator[tuple[object, ...]]:
    yield "items", ".", "--home", home.path
    yield "items", "no such title", "--home", home.path
    yield "recommend", f"m0{ESCAPE}", "--home", home.path
    yield "export", f"{ESCAPE}", tmp_path / "a.csv", "--home", home.path
    bad = tmp_path / f"bad{ESCAPE}.csv"
    bad.write_text(RATINGS + f"{ESCAPE},{RIGHT_TO_LEFT},x,1\n" * 9)
    yield "add", "--check", bad, "--home", home.path
    yield "add", bad, "--home", home.path
    odd = tmp_path / "odd.csv"
    odd.write_text(f"who{ESCAPE},{RIGHT_TO_LEFT},rating,timestamp\n1,2,3,4\n")
    yield "add", odd, "--home", home.path
    yield "add", tmp_path / f"missing{ESCAPE}", "--home", home.path
    no_utf8 = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv"))
    no_utf8.write_text("nothing\n")
    yield "add", "--check", no_utf8, "--home", home.path


def test_no_text_from_data_reaches_the_terminal_raw(tmp_path: Path) -> None:
    """A title, an id, a column or the name of a file could retitle, clear or reprogram the terminal of who looks."""
    home = _home_of(tmp_path, [f"Up{ESCAPE}", RIGHT_TO_LEFT, "C1 \x9b31m"], ids=[f"m0{ESCAPE}", "m1\x07", "m2\u202e"])
    outputs = [invoke(*command) for command in _commands(home, tmp_path)]
    assert [_obeyed(ran.output) for ran in outputs] == [set()] * len(outputs)
    assert not any(ran.exception and not isinstance(ran.exception, SystemExit) for ran in outputs)
    assert "Up␛]0;owned␇␛[2J␛[31m" in outputs[0].output


def test_a_terminal_gets_no_code_but_the_consoles_own() -> None:
    """Colours would go, or those of the data stay, on a real terminal."""
    out = io.StringIO()
    console = _VisibleConsole(file=out, force_terminal=True, color_system="standard", highlight=False, width=80)
    console.print(f"title {ESCAPE}", style="red")
    assert out.getvalue() == "\x1b[31mtitle ␛]0;owned␇␛[2J␛[31m\x1b[0m\n"


def test_an_export_for_spreadsheets_computes_nothing(tmp_path: Path) -> None:
    """A title such as =HYPERLINK(…) would send what stands beside it to a stranger when the file is opened."""
    formulas = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\t=1", "＝1+1"]
    plain = ["-1.5", "+49", "Up", "a=b", None]
    home = _home_of(tmp_path, [*formulas, *plain])
    for table in ("items", "ratings"):
        assert invoke("export", table, tmp_path / f"{table}.csv", "--home", home.path).exit_code == 0
        assert invoke("export", table, tmp_path / f"{table}.parquet", "--home", home.path).exit_code == 0
    with (tmp_path / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["title"] for row in rows] == [*(f"'{text}" for text in formulas), *(text or "" for text in plain)]
    assert [row["genres"] for row in rows][: len(formulas)] == [f"'{text}" for text in formulas]
    assert pl.read_parquet(tmp_path / "items.parquet")["title"].to_list() == [*formulas, *plain]
    assert pl.read_csv(tmp_path / "ratings.csv")["rating"].to_list() == [-1.5] * len(rows)
    assert not any((tmp_path / name).stat().st_mode & OTHERS for name in ("items.csv", "ratings.parquet"))
