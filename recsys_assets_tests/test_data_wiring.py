import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomlkit

from recsys_assets.home.layout import Home
from recsys_assets.recommender.ingest.describe import describe_source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.running import copied, materialize
from recsys_assets_tests.test_ingest_bad_input import (
    GOOD,
    HEADER,
    ML_1M,
    ML_100K,
    ML_CSV,
    REFUSED,
    REJECTED,
    zipped,
)

DOCS = Path(__file__).parent.parent / "docs"
HOW_TO = DOCS / "how-to" / "bring-your-data.md"
REFUSED_INPUT = DOCS / "reference" / "refused-input.md"
# What the settings refuse before any file is looked at, in their own words.
REFUSED_BY_SETTINGS = {"scale the wrong way": ["data.rating_scale", "lowest"]}


@pytest.fixture
def home(tmp_path) -> Home:
    """A home in which one batch has landed."""
    home = Home(tmp_path / "home")
    home.prepare()
    (home.landing / "good.csv").write_bytes(GOOD)
    return home


def lay(folder: Path, files: Mapping[str, Any]) -> Path:
    """The files in a folder; the path to add: the folder, or the only file."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content.write_parquet(path) if isinstance(content, pl.DataFrame) else path.write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


def contents(home: Home) -> dict[str, bytes | None]:
    """Everything below a home, to the letter, but for the lock that `add` takes."""
    found = (path for path in home.path.rglob("*") if path != home.landing_lock)
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_the_home_as_it_was(case, home, tmp_path):
    """Bad input lands, half lands, or ends in a traceback; the same rules hold as when it is read."""
    files, rules, words = REFUSED[case]
    path = lay(tmp_path / "source", files)
    home.settings_file.write_text(tomlkit.dumps({"data": {name: _plain(value) for name, value in rules.items()}}))
    before = contents(home)
    refused = invoke("add", path, "--batch", "bad", "--home", home.path)
    assert refused.exit_code == 1, refused.output
    assert "Traceback" not in refused.output
    expected = REFUSED_BY_SETTINGS.get(case, words)
    assert [word for word in expected if word not in refused.stderr] == [], refused.stderr
    assert contents(home) == before


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("here", "coming", "is_refused"),
    [
        (ML_100K, ML_1M, True),
        (ML_1M, ML_100K, True),
        (ML_1M, ML_CSV, True),
        ({"ml-20m.zip": zipped({f"ml-20m/{n}": c for n, c in ML_CSV.items()})},) * 2 + (False,),
        (
            {"one.zip": zipped({f"ml-20m/{n}": c for n, c in ML_CSV.items()})},
            {"two.zip": zipped({f"ml-latest/{n}": c for n, c in ML_CSV.items()})},
            True,
        ),
        (ML_1M, {"mine.csv": GOOD}, False),
        ({"mine.csv": GOOD}, ML_1M, False),
        (ML_CSV, {"mine.csv": GOOD}, False),
    ],
)
def test_a_named_release_does_not_land_beside_another_one(here, coming, is_refused, home, tmp_path):
    """Users of two releases, who have the same numbers, become one person; or own files are kept out."""
    (home.landing / "good.csv").unlink()
    assert invoke("add", lay(tmp_path / "a", here), "--batch", "a", "--home", home.path).exit_code == 0
    second = invoke("add", lay(tmp_path / "b", coming), "--batch", "b", "--home", home.path)
    assert second.exit_code == int(is_refused), second.output
    assert home.landed_batches() == (["a"] if is_refused else ["a", "b"])
    assert ("--home" in second.stderr and "(batch a)" in second.stderr) == is_refused


def test_fetch_does_not_bring_a_second_release(home, tmp_path):
    """A download of gigabytes ends in a refusal, or in two releases in one catalogue."""
    assert invoke("add", lay(tmp_path / "a", ML_1M), "--home", home.path).exit_code == 0
    refused = invoke("fetch", "ml-20m", "--home", home.path)
    assert refused.exit_code == 1 and "holds ml-1m" in refused.stderr


def test_the_same_content_under_another_name_is_told(tmp_path):
    """Events that are sent twice would count twice, unseen."""
    home = Home(tmp_path / "home")
    path, again, other = (tmp_path / name for name in ("mine.csv", "again.csv", "other.csv"))
    for each in (path, again):
        each.write_text("user_id,item_id,timestamp\nu,m,978300760\n")
    other.write_text("user_id,item_id,timestamp\nu,n,978300760\n")
    told = "has the same content as mine.csv"
    assert "same content" not in invoke("add", path, "--home", home.path).output
    assert told in invoke("add", "--check", again, "--home", home.path).output
    assert "same content" not in invoke("add", other, "--home", home.path).output
    landed = invoke("add", again, "--home", home.path)
    assert landed.exit_code == 0 and f"again.csv {told}" in landed.output and "remove again.csv" in landed.output


def test_check_says_what_would_happen_and_lands_nothing(home, tmp_path):
    """Who wants to look first changes the home by looking, or does not see what is wrong."""
    rows = b"".join(b"u%d,m,%d,978300760\n" % (number, 1 + number % 5) for number in range(300))
    path = tmp_path / "mine.csv"
    path.write_bytes(b"user_id,item_id,rating,timestamp\n" + rows + b"u,m,many,1\n")
    before = contents(home)
    shown = invoke("add", "--check", path, "--home", home.path)
    assert shown.exit_code == 0, shown.output
    for told in (
        "csv",
        "300",
        "1 to 5",
        "2000-12-31 22:12",
        "rating is not a number",
        "u,m,many,1",
        "would be accepted",
    ):
        assert told in shown.stdout
    path.write_bytes(GOOD + b"u,m,many,1\n")
    refused = invoke("add", "--check", path, "--home", home.path)
    assert refused.exit_code == 1 and "would be refused: 1 of 2 rows" in refused.stderr
    assert contents(home) == before
    nowhere = tmp_path / "nowhere"
    assert invoke("add", "--check", path, "--home", nowhere).exit_code == 1
    assert not nowhere.exists()


def test_check_says_where_the_rating_scale_comes_from(home, tmp_path):
    """The scale of 1 to 5 that decides which ratings are bad is shown as the range of the ratings."""
    for name, content, told in (
        ("ratings.dat", ML_1M["ratings.dat"], "0.5 to 5 (of the release)"),
        ("mine.csv", GOOD, "3 to 3 (range of the ratings)"),
    ):
        shown = invoke("add", "--check", lay(tmp_path / name, {name: content}), "--home", home.path)
        assert told in shown.stdout, shown.output


def test_add_lands_a_source_whose_first_rows_are_bad(home, tmp_path):
    """The page on refused input would promise a refusal that nobody gets, or `add` would read a whole large file."""
    path = lay(tmp_path / "mine", {"mine.csv": HEADER + b"u,m,many,1\n" + GOOD.removeprefix(HEADER)})
    assert invoke("add", path, "--home", home.path).exit_code == 0
    assert "mine.csv" in home.landed_batches()
    checked = invoke("add", "--check", path, "--home", home.path)
    assert checked.exit_code == 1
    assert f"raise max_rejected_share under [data] in {home.settings_file}" in checked.stderr


# The page


def _fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", HOW_TO.read_text(), re.DOTALL)


FAST = {
    "RECSYS_ALS__MAX_ITER": "3",
    "RECSYS_CLUSTERS__K_MAX": "4",
    "RECSYS_EVALUATION__N_RESAMPLES": "100",
    "RECSYS_EVALUATION__SELECTED_RANKING_MODEL": "blend",
    "RECSYS_IMPLICIT_ALS__MAX_ITER": "3",
    "RECSYS_NEXT_IMPLICIT_ALS__MAX_ITER": "3",
    "RECSYS_SEGMENTS__N_SEGMENTS": "2",
}


def _given(command: str, folder: Path) -> str:
    """What a command prints that is given in a folder, and succeeds."""
    program, *arguments = shlex.split(command)
    assert program == "recsys-assets"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable, value in FAST.items():
            patch.setenv(variable, value)
        done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder in which the page's commands were given, as they stand there, and what each printed."""
    folder = tmp_path_factory.mktemp("page")
    header = next(block for block in _fenced("csv") if ";" in block).splitlines()[0]
    named = made_up().ratings.select(
        pl.when(user_id=1).then(pl.lit("ana")).otherwise(pl.format("member-{}", "user_id")),
        pl.format("film-{}", "item_id"),
        pl.col("rating") * 2,
        pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    (folder / "watched.csv").write_text(header + "\n" + named.write_csv(separator=";", include_header=False))
    (folder / "films").mkdir()
    (folder / "films" / "settings.toml").write_text(_fenced("toml")[0])
    return folder, [_given(command, folder) for command in _fenced("bash")[0].strip().splitlines()]


def test_the_page_leads_from_a_foreign_csv_to_recommendations_in_three_commands(walked):
    """The first thing that somebody with own data tries does not work as it is written."""
    _, printed = walked
    assert len(printed) == 3
    assert len(re.findall(r"^ *\d+ +film-\d+ ", printed[-1], re.MULTILINE)) == 10


def test_scores_of_a_sample_say_so_wherever_they_are_shown(walked, materialized_home, tmp_path):
    """Somebody takes the scores of a tenth of the users for those of all, or scores of all are marked."""
    folder, printed = walked
    unmarked = printed[1] + Home(folder / "films").report.read_text()
    home = copied(materialized_home, tmp_path / "home")
    home.settings_file.write_text(home.settings_file.read_text() + "\n[data.sample]\nshare = 0.5\n")
    materialize(home, "key:evaluation_scores or key:evaluation_report")
    for shown in (invoke("scores", "--home", home.path).stdout, home.report.read_text()):
        assert "A sample for development: 50 % of the users" in shown
    rows = json.loads(invoke("scores", "--json", "--home", home.path).stdout)
    assert {row["sample_share"] for row in rows} == {0.5}
    assert "sample for development" not in unmarked


def _said(case: str, folder: Path) -> str:
    """The message for a bad input, places on this machine left out."""
    files, rules, _ = REFUSED[case]
    path = lay(folder / "source", files)
    with pytest.raises(SourceError) as refusal:
        describe_source(path, scratch=folder / "scratch", **rules)
    return str(refusal.value).replace(str(folder / "source"), "…")


def _cell(text: str) -> str:
    escaped = text.replace("|", r"\|").replace("<", "&lt;").replace("`", "'")
    return " ".join("".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in escaped).split())


def test_the_page_lists_what_is_said_to_bad_input(tmp_path):
    """The page promises messages that nobody gets."""
    refused = [
        f"| {case} | {_cell(_said(case, tmp_path / str(n)))} |"
        for n, case in enumerate(REFUSED)
        if case not in REFUSED_BY_SETTINGS
    ]
    rejected = [f"| {case} | `{_cell(bad.decode())}` | {reason} |" for case, (_, bad, reason) in REJECTED.items()]
    page = REFUSED_INPUT.read_text()
    for name, rows in {"refused": refused, "rejected": rejected}.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        table, _, after = rest.partition(end)
        head = "".join(table.splitlines(keepends=True)[:2])
        page = before + begin + head + "".join(f"{row}\n" for row in rows) + end + after
    if os.environ.get("UPDATE_SNAPSHOTS"):
        REFUSED_INPUT.write_text(page)
    assert REFUSED_INPUT.read_text() == page, "after an intended change: UPDATE_SNAPSHOTS=1, then read the diff"
    assert len(refused) + len(rejected) >= 25
