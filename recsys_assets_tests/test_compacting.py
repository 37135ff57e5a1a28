import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from recsys_assets.home.batches import Batch
from recsys_assets.home.erase import Erased, erase_sources, erase_traces, made_before_forgetting, survey
from recsys_assets.home.exclusions import forget, forgotten_users
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.kill_points import FORGOTTEN, read, write_ratings
from recsys_assets_tests.running import copied, materialize, table

NAME = FORGOTTEN[0]
MERGED = 'key:"users" or key:"items" or key:"ratings"'
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def read_home(tmp_path_factory) -> Home:
    """A home with two batches that were read, one of which names somebody who will be forgotten. Read only."""
    home = Home(tmp_path_factory.mktemp("read") / "home")
    home.prepare()
    write_ratings(home.landing / "a.csv", "ana", NAME)
    write_ratings(home.landing / "b.csv", "ben")
    for name in ("a.csv", "b.csv"):
        read(home, name)
    materialize(home, MERGED)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        instance.add_dynamic_partitions("batches", ["a.csv", "b.csv"])
    return home


@pytest.fixture
def home(read_home, tmp_path) -> Home:
    """The same after somebody was forgotten, and everything but what was sent made again."""
    home = copied(read_home, tmp_path / "home")
    assert invoke("forget", NAME, "--no-run", "--home", home.path).exit_code == 0
    materialize(home, MERGED)
    return home


def compact(home: Home):
    """The command."""
    return invoke("compact", "--home", home.path)


def stored_users(home: Home, batch: str) -> list[str]:
    """Who is in the raw ratings of a batch."""
    return pl.read_parquet(AssetStore(home.assets).current(["raw_ratings"], batch) / TABLE_FILE)["user_id"].to_list()


def test_a_source_that_cannot_be_read_any_more_keeps_nobody_in_raw_tables(home):
    """Somebody stays in raw tables, because the file that was read has become unreadable since; and nobody is told."""
    (home.landing / "a.csv").write_text(f"what,is,this\n{NAME},2,3\n")
    compacted = compact(home)
    assert compacted.exit_code == 1
    assert f"{home.landing / 'a.csv'} names a forgotten user; it cannot be read as ratings" in compacted.stderr
    assert stored_users(home, "a.csv") == ["ana"]
    assert invoke("remove", "a.csv", "--no-run", "--home", home.path).exit_code == 0
    compacted = compact(home)
    assert compacted.exit_code == 0, compacted.output
    assert "none names the forgotten user" in compacted.stdout


def test_a_link_in_landing_does_not_end_compact_and_where_it_leads_is_told(home, tmp_path):
    """`compact` ends in the middle at a link, and whoever runs it takes that for done."""
    outside = tmp_path / "mine.csv"
    (home.landing / "a.csv").rename(outside)
    (home.landing / "a.csv").symlink_to(outside)
    (home.landing / "nothing.csv").symlink_to("/nowhere")
    compacted = compact(home)
    assert compacted.exit_code == 0, compacted.output
    assert f"Not searched, because it is outside of the home: {outside}" in compacted.stdout
    assert stored_users(home, "a.csv") == ["ana"] and NAME in outside.read_text()


def test_what_compact_may_not_delete_is_named(home):
    """An export that somebody keeps in the home still holds the user, and `compact` says that nobody is there."""
    pl.DataFrame({"user_id": ["ana", NAME]}).write_parquet(home.path / "top.parquet")
    (home.landing / ".sent.rar").write_bytes(b"Rar!\x1a\x07\x01\x00")
    compacted = compact(home)
    assert compacted.exit_code == 1
    assert f"{home.path / 'top.parquet'} names a forgotten user" in compacted.stderr
    assert f"{home.landing / '.sent.rar'} cannot be searched (it is packed with RAR" in compacted.stderr
    (home.path / "top.parquet").unlink()
    (home.landing / ".sent.rar").unlink()
    assert compact(home).exit_code == 0


def test_a_run_that_fails_inside_does_not_pass_for_erased(read_home, tmp_path):
    """`compact` says that somebody is erased, whose rows are in tables that could not be made again."""
    home = copied(read_home, tmp_path / "home")
    assert invoke("forget", NAME, "--no-run", "--home", home.path).exit_code == 0
    (home.landing / "b.csv").unlink()
    damaged = AssetStore(home.assets).current(["raw_ratings"], "b.csv") / TABLE_FILE
    damaged.write_bytes(damaged.read_bytes()[:-40])
    ran = subprocess.run(
        [sys.executable, "-c", "from recsys_assets.cli import app; app()", "compact", "--home", str(home.path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 1, ran.stdout
    assert "none names" not in ran.stdout
    for asset in ("users", "ratings"):
        assert f"{home.assets / asset} was made before the last `forget`" in ran.stderr
    assert f"{damaged.resolve()} cannot be searched" in ran.stderr
    assert stored_users(home, "a.csv") == ["ana"]


def test_what_a_study_knows_of_users_goes_with_them(home):
    """Scores of somebody who asked to be forgotten stay in a study, under a number."""
    kept = home.study / "scores" / "top_n" / "0123456789abcdef"
    kept.mkdir(parents=True)
    (kept.parent / "newest").write_text(kept.name)
    pl.DataFrame({"user": [1]}).write_parquet(kept / "user_scores.parquet")
    (home.study / "trials").mkdir()
    (home.study / "trials" / "a.json").write_text("{}")
    old = AssetStore(home.assets)
    for name in ("user_scores", "study_scores"):
        version = old.new_version([name], "top_n", "test")
        pl.DataFrame({"user" if name == "user_scores" else "model": [1]}).write_parquet(version / TABLE_FILE)
        old.switch(version)
    # The clock of the file system lags some milliseconds behind that of versions.
    time.sleep(0.1)
    os.utime(home.forgotten)
    materialize(home, MERGED)
    assert compact(home).exit_code == 0
    assert not list(home.study.rglob("*.parquet")) and not (kept.parent / "newest").exists()
    assert (home.study / "trials" / "a.json").exists()
    assert old.batches(["user_scores"]) == [] and old.batches(["study_scores"]) == ["top_n"]


def test_what_was_made_before_forgetting_is_known_whatever_the_clock_says(read_home, tmp_path):
    """After the clock was set back, tables with a forgotten user look newer than the request, or all tables older."""
    home = copied(read_home, tmp_path / "home")
    store, tomorrow = AssetStore(home.assets), datetime.now(UTC) + timedelta(days=1)
    ahead = store.new_version(["users"], None, "ahead", tomorrow)
    shutil.copytree(store.current(["users"]), ahead, dirs_exist_ok=True)
    store.switch(ahead)
    assert forget(home, NAME)
    assert {found.path.name for found in made_before_forgetting(home)} == {"ratings", "users"}
    materialize(home, MERGED)
    assert not made_before_forgetting(home)


def test_a_short_id_is_erased_from_all_columns_of_ids(read_home, tmp_path):
    """User 42 is not erased; or `compact` never ends well, because every log has a 42."""
    home = copied(read_home, tmp_path / "home")
    write_ratings(home.landing / "c.csv", "42", "43")
    read(home, "c.csv")
    materialize(home, MERGED)
    assert invoke("forget", "42", "--no-run", "--home", home.path).exit_code == 0
    materialize(home, MERGED)
    home.failures.write_text("42 is no rating\n")
    compacted = compact(home)
    assert compacted.exit_code == 0, compacted.output
    assert "searched in columns of user ids only: 42" in compacted.stdout
    assert stored_users(home, "c.csv") == [43]
    assert pl.read_parquet(home.landing / "c.csv" / "ratings.parquet")["user_id"].to_list() == [43]
    assert "42" not in table(home, "users")["user_id"].to_list() and not home.failures.exists()


def landed_home(folder: Path, files: dict[str, str], settings: str = "", forgotten: str = "42") -> Home:
    """A home with landed files, from which nothing was read, after somebody was forgotten."""
    home = Home(folder / "home")
    home.prepare()
    home.settings_file.write_text(settings)
    for name, text in files.items():
        (home.landing / name).parent.mkdir(parents=True, exist_ok=True)
        (home.landing / name).write_text(text)
    assert forget(home, forgotten)
    return home


def tables_of(home: Home, batch: str, folder: Path) -> SourceTables:
    """The tables of a landed batch."""
    return Batch.open(home, batch, Settings.load(home).data, folder).tables


def erased(home: Home) -> Erased:
    """The first step of `compact`."""
    return erase_sources(home, forgotten_users(home), Settings.load(home).data)


def test_a_catalogue_outlives_its_bad_row(tmp_path):
    """`compact` deletes 300 items for good, because the text of one bad row has the word 42."""
    items = "".join(f"{number},Film {number},1990\n" for number in range(100, 400))
    files = {
        "catalogue.csv": f"item_id,title,year\n{items},Room 42,1990\n",
        "alone/ratings.csv": "user_id,item_id,rating\n42,100,4\n",
        "alone/items.csv": f"item_id,title,year\n{items}",
        "only.csv": "user_id,item_id,rating\n42,100,4\n",
    }
    home = landed_home(tmp_path, files)
    done = erased(home)
    assert done.emptied == ["only.csv"] and done.trouble == []
    for batch in ("catalogue.csv", "alone"):
        tables = tables_of(home, batch, tmp_path / "scratch")
        assert tables.items.collect().height == 300 and tables.rejected.collect().is_empty()


MOVIELENS = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.0,1445714994\n2,11,5.0,1445714994\n",
    "movies.csv": "movieId,title,genres\n10,A (1990),Drama\n11,B (1991),Drama\n",
    "links.csv": "movieId,imdbId,tmdbId\n3,3,3\n",
    "README.txt": "3 files",
}
_TAGS = "userId,movieId,tag,timestamp\n1,10,3,1445714994\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tags.csv", f"{_TAGS}3,10,funny,1445714994\n"),
        ("tags.csv", f"{_TAGS}3.0,10,funny,1445714994\n"),
        ("tags.csv", f"{_TAGS}3,10,funny, sad,1445714994\n"),
        ("_old.csv", "3,10,5\n"),
    ],
    ids=["tags", "tags of pandas", "bad line of tags", "hidden file"],
)
def test_a_user_in_a_file_that_no_table_comes_from_is_erased(name, text, tmp_path):
    """User 3 of MovieLens stays in the tags, and `compact` says that no file names the user."""
    files = {f"june/{each}": content for each, content in {**MOVIELENS, name: text}.items()}
    files |= {f"may/{each}": content for each, content in {**MOVIELENS, "tags.csv": _TAGS}.items()}
    home = landed_home(tmp_path, files, forgotten="3")
    assert erased(home).rewritten == ["june"]
    assert sorted(each.name for each in (home.landing / "june").iterdir()) == ["items.parquet", "ratings.parquet"]
    assert not survey(home, {"3"}, Settings.load(home).data).found


def test_a_user_in_a_file_that_is_named_like_one_of_the_release_is_erased(tmp_path):
    """A user stays in the file `u.user` of another folder, and `compact` says that no file names the user."""
    files = {
        "june/u.data": "1\t10\t3\t881250949\n",
        "june/u.user": "1|24|M|writer|85711\n",
        "june/u.item": "10|Kolya (1996)|24-Jan-1997||http://x|0|1\n",
        "june/u.genre": "unknown|0\nComedy|1\n",
        "june/old/u.user": "3|30|F|artist|85712\n",
    }
    home = landed_home(tmp_path, files, forgotten="3")
    assert erased(home).rewritten == ["june"]


def test_a_batch_that_is_refused_for_its_bad_rows_stays_as_it_is(tmp_path):
    """`compact` destroys the rows that a wrong setting misreads, and the next `run` accepts the rest without a word."""
    text = "user_id,item_id,rating\n42,1,4\n43,1,3/5\n44,1,5\n"
    home = landed_home(tmp_path, {"a.csv": text, "b.csv": "user_id,item_id,rating\n42,1,4/5\n"})
    done = erased(home)
    assert done.rewritten == done.emptied == []
    assert [told.split(":")[0] for told in done.trouble] == ["Batch a.csv", "Batch b.csv"]
    assert "1 of its 3 rows are bad" in done.trouble[0]
    assert all(f"max_rejected_share under [data] in {home.settings_file}" in told for told in done.trouble)
    assert (home.landing / "a.csv").read_text() == text and (home.landing / "b.csv").is_file()
    found = survey(home, {"42"}, Settings.load(home).data).found
    assert [each.path.name for each in found] == ["a.csv", "b.csv"]


def test_compact_says_how_many_bad_rows_are_lost(read_home, tmp_path, monkeypatch):
    """Bad rows of other users are gone for good after `compact`, and nobody learns it."""
    monkeypatch.setenv("RECSYS_DATA__MAX_REJECTED_SHARE", "0.5")
    home = copied(read_home, tmp_path / "home")
    with (home.landing / "a.csv").open("a") as batch:
        batch.write("ben,7,bad,978300760\n")
    assert invoke("forget", NAME, "--no-run", "--home", home.path).exit_code == 0
    materialize(home, MERGED)
    compacted = compact(home)
    assert compacted.exit_code == 0, compacted.output
    assert "Rewritten without forgotten users: a.csv (bad rows lost: 1)" in compacted.stdout


def test_a_user_whose_rows_are_no_ratings_is_erased(tmp_path):
    """A user stays in a landed file, because the settings declare the user's ratings as not rated."""
    settings = "[data]\nnot_rated = [0.0]\n"
    home = landed_home(tmp_path, {"a.csv": "user_id,item_id,rating\n3,1,0\n4,1,5\n"}, settings, forgotten="3")
    assert erased(home).rewritten == ["a.csv"]


def test_a_short_id_in_a_file_that_is_no_batch_is_named(tmp_path):
    """User 3 stays in a file of landing/ that nothing reads, and `compact` says that no file names the user."""
    files = {"_april.csv": "user_id,item_id,rating\n3,10,5\n", "_may.csv": "user_id,item_id,rating\n4,10,5\n"}
    home = landed_home(tmp_path, files, forgotten="3")
    found = survey(home, {"3"}, Settings.load(home).data).found
    assert [each.path.name for each in found] == ["_april.csv"]


def test_unfinished_files_of_killed_commands_go_and_those_of_living_ones_stay(tmp_path):
    """A home fills with files that nobody knows, or `block` beside `compact` fails."""
    home = landed_home(tmp_path, {})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [
        ".blocked",
        ".settings.toml",
        "dagster/.served_at",
        "dagster/.identity",
        "dagster/.dagster.yaml",
        ".kind.json",
    ]
    for name in names:
        (home.path / f"{name}-{ended.pid}").touch()
    at_work = home.path / f".blocked-{os.getpid()}"
    at_work.touch()
    assert not erased(home).trouble
    assert [name for name in names if (home.path / f"{name}-{ended.pid}").exists()] == []
    assert at_work.exists()


def test_who_is_forgotten_during_the_question_is_not_passed_over(tmp_path, monkeypatch):
    """`compact` says that no file names a forgotten user, and one who was forgotten while it asked is in all files."""
    home = landed_home(tmp_path, {"a.csv": "user_id,item_id,rating\n42,1,3\n43,1,4\n44,1,5\n"})
    # `forget` returns True, so that nothing is asked.
    monkeypatch.setattr("recsys_assets.cli.batches._is_asked", lambda: not forget(home, "43"))
    compacted = compact(home)
    assert compacted.exit_code == 1 and "has changed meanwhile" in compacted.stderr
    assert "42,1,3" in (home.landing / "a.csv").read_text()


def test_attributes_of_others_are_kept_without_ratings(tmp_path):
    """`compact` deletes the attributes of other users for good, because all ratings of the batch were of user 42."""
    files = {"a/ratings.csv": "user_id,item_id,rating\n42,1,4\n", "a/users.csv": "user_id,age\n42,30\n43,31\n"}
    home = landed_home(tmp_path, files)
    done = erased(home)
    assert done.emptied == [] and "cannot be read without ratings" in done.trouble[0]
    assert pl.read_parquet(home.landing / "a" / "users.parquet")["user_id"].to_list() == ["43"]


_EVENTS = (
    "user_id,item_id,event,timestamp\n42,1,view,1445714994\n43,1,buy,1445714995\n43,1,view,1445714996\n44,2,view,5\n"
)
_WEIGHTS = "[data.event_weights]\nview = 1\nbuy = 5\n"
KINDS = {
    "ratings": ("", {"a.csv": "user_id,item_id,rating,timestamp\n42,1,4,1445714994\n43,1,3.5,1445714995\n"}),
    "ratings without times": ("", {"a.csv": "user_id,item_id,rating\n42,1,4\n43,1,3.5\n"}),
    "times of a declared form": (
        "[data]\ntime_format = '%d/%m/%Y %H:%M'\ndecimal = ','\nnot_rated = [0.0]\n",
        {"a.csv": "user_id;item_id;rating;timestamp\n42;1;4,5;03/04/2020 10:00\n43;1;5,0;03/04/2020 11:00\n"},
    ),
    "events without times": ("", {"a.csv": "user_id,item_id\n42,1\n43,1\n43,1\n"}),
    "types of events": (_WEIGHTS, {"a.csv": _EVENTS}),
    "types of events, by setting": (f"[data]\nfeedback = 'events'\n{_WEIGHTS}", {"a.csv": _EVENTS}),
    "weights": ("", {"a.csv": "user_id,item_id,weight\n42,1,2\n43,1,0.7\n43,1,-3\n"}),
    "weights of another name": (
        "[data]\nfeedback = 'events'\n[data.columns]\nweight = 'plays'\n",
        {"a.csv": "user_id,item_id,plays\n42,1,2\n43,1,7\n"},
    ),
    "types and weights in different files": (
        _WEIGHTS,
        {
            "a/typed.csv": "user_id,item_id,event\n42,1,view\n43,1,buy\n",
            "a/weighed.csv": "user_id,item_id,weight\n43,2,0.25\n",
        },
    ),
    "ratings as events": (
        "[data]\nignore = ['rating']\n",
        {"a.csv": "user_id,item_id,rating,timestamp\n42,1,4,1445714994\n43,1,3,1445714995\n"},
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_rewritten_batch_is_read_as_before(case, tmp_path):
    """After `compact` a batch is refused as one of another kind, or every purchase counts as a click."""
    settings, files = KINDS[case]
    home = landed_home(tmp_path, files, settings)
    (batch,) = home.landed_batches()
    before = tables_of(home, batch, tmp_path / "before")
    kind, rows = before.kind, before.ratings.drop("row").collect().cast({"user_id": str, "item_id": str})
    assert "42" in rows["user_id"]
    done = erased(home)
    assert done.rewritten == [batch] and done.trouble == []
    after = tables_of(home, batch, tmp_path / "after")
    assert after.kind == kind
    found = after.ratings.drop("row").collect().cast({"user_id": str, "item_id": str})
    assert found.equals(rows.filter(pl.col("user_id") != "42"))


def test_a_rewritten_batch_keeps_the_types_of_its_events(tmp_path):
    """After `compact` a new weight of purchases is not applied to the purchases of a rewritten batch."""
    home = landed_home(tmp_path, {"a.csv": _EVENTS}, _WEIGHTS)
    assert erased(home).rewritten == ["a.csv"]
    home.settings_file.write_text(_WEIGHTS.replace("5", "9"))
    assert tables_of(home, "a.csv", tmp_path / "after").ratings.collect()["rating"].to_list() == [9, 1, 1]


def test_a_damaged_record_of_a_promotion_is_named_and_the_rest_is_erased(tmp_path):
    """`compact` ends with a traceback before the run history is erased, as often as it is given."""
    home = Home(tmp_path)
    home.prepare()
    home.promotions.mkdir()
    home.failures.write_text(f"{NAME} is no rating\n")
    for number, content in enumerate((b"{", b"\xff", json.dumps({"reason": f"as {NAME}"}).encode())):
        (home.promotions / f"{number:06}.json").write_bytes(content)
    done = Erased()
    assert forget(home, NAME)
    erase_traces(home, {NAME}, done)
    assert [f"{home.promotions / f'{number:06}.json'}: " in told for number, told in enumerate(done.trouble)] == [
        True
    ] * 2
    assert all("put it back from a copy, or move it out of the home" in told for told in done.trouble)
    assert NAME not in (home.promotions / "000002.json").read_text() and not home.failures.exists()


# Kills


@pytest.mark.parametrize("every", [500, pytest.param(1, marks=pytest.mark.slow)])
def test_a_command_that_is_killed_at_any_moment_can_be_given_again(every, tmp_path, request):
    """A kill loses the only copy of a source, leaves somebody who was erased, or makes the command impossible.

    Of `make test` it is every n-th moment, of `make test-slow` all of them.
    """
    if every == 1:
        copied(request.getfixturevalue("materialized_home"), tmp_path / "everything")
    words = [sys.executable, "-m", "recsys_assets_tests.kill_points", str(tmp_path), str(every)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr[-5000:]
    moments = {name: count for line in ran.stdout.splitlines() for name, count in json.loads(line).items()}
    tried = {"add", "remove", "forget", "compact", "upgrade from 0.6", "upgrade from 0.9"}
    assert tried <= {name for name, count in moments.items() if count}, moments
