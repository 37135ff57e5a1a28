from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock

from recsys_assets.home.data_kind import keep_kind, known_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import STATE_FOLDER, AssetStore, write_table
from recsys_assets.orchestration import planning
from recsys_assets.recommender.data.frames import empty, lazy
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.promotion.gate import Configuration, Decision
from recsys_assets.recommender.serving.recommendations import MadeWith
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.kill_points import read
from recsys_assets_tests.running import copied, materialize


def _status(home, *arguments: str) -> tuple[int, dict[str, str], str]:
    """Exit status, the named lines, and the last line."""
    told = invoke("status", *arguments, "--home", home.path)
    *lines, last = told.stdout.splitlines()
    return told.exit_code, {line[:8].strip(): line[9:].strip() for line in lines}, last


def test_status_of_an_empty_home_says_how_to_begin(tmp_path):
    """A person who opens somebody else's home would not know that nothing has landed."""
    home = Home(tmp_path)
    home.prepare()
    code, lines, last = _status(home, "--check")
    assert code == 1
    assert lines["batches"] == "none" and lines["lists"] == "none yet"
    assert last.startswith("Next: recsys-assets add PATH")


def test_status_tells_what_is_served_and_that_nothing_is_to_do(materialized_home):
    """A monitor would start runs for ever, or nobody would see which model made the lists."""
    code, lines, last = _status(materialized_home, "--check")
    assert code == 0
    assert "(promotion 1)" in lines["lists"]
    assert lines["scores"].startswith("NDCG at 10 of the selected model") and "over popularity" in lines["scores"]
    assert lines["report"] == str(materialized_home.report)
    assert lines["at work"] == "nothing"
    assert last.startswith(
        "Nothing to do: lists and scores are up to date with the ratings. After a change of settings"
    )


def test_status_sees_landed_files_and_a_run_at_work(materialized_home, tmp_path):
    """New ratings would wait without anybody noticing, or a second run would be started beside the first."""
    home = copied(materialized_home, tmp_path / "home")
    (home.landing / "new.csv").write_text("user_id,item_id,rating,timestamp\n1,1,4,978300760\n")
    code, lines, last = _status(home, "--check")
    assert code == 1 and last.startswith("Next: recsys-assets run")
    assert "1 not read yet" in lines["batches"]
    with FileLock(home.lock):
        code, lines, last = _status(home, "--check")
    assert (code, lines["at work"], last) == (0, "a run", "Wait until the run has ended.")


def test_status_asks_for_a_run_after_ratings_that_nothing_was_made_from(materialized_home, tmp_path):
    """Lists of the ratings before would pass for lists of the present ones."""
    home = copied(materialized_home, tmp_path / "home")
    _as_if_made_in(2098, home, "ratings")
    code, _, last = _status(home, "--check")
    assert code == 1 and last.startswith("Next: recsys-assets run")


def test_fresh_lists_are_fresh_whatever_the_age_of_the_scores(materialized_home, tmp_path):
    """Beside `serve`, an export that waits for fresh lists would wait for the scores of the weekly schedule."""
    home = copied(materialized_home, tmp_path / "home")
    _as_if_made_in(2098, home, "ratings")
    _as_if_made_in(2099, home, "recommendations")
    code, _, last = _status(home, "--check")
    assert code == 0 and last.startswith("Nothing to do: lists are up to date. Scores are older")


@pytest.fixture(scope="module")
def merged(tmp_path_factory) -> Home:
    """A home with two merged batches, and lists and scores that hold nothing. Read only."""
    return _merged(tmp_path_factory.mktemp("merged") / "home", "user_id,item_id,rating,timestamp")


def _merged(folder: Path, header: str) -> Home:
    home = Home(folder)
    home.prepare()
    for user in ("ana", "ben"):
        rows = [f"{user},{item},3,{978300760 + item}\n" for item in range(3)]
        (home.landing / f"{user}.csv").write_text("".join([f"{header}\n", *rows]))
        keep_kind(home, known_kind(home, DataSettings()))
        read(home, f"{user}.csv")
    _merge(home)
    return home


def _merge(home: Home) -> None:
    """Merge the batches, and store lists and scores that hold nothing."""
    materialize(home, 'key:"users" or key:"items" or key:"ratings"')
    store = AssetStore(home.assets)
    for name in ("recommendations", "evaluation_scores"):
        version = store.new_version([name], None, "by-hand")
        write_table(lazy(empty(TABLES[name])), TABLES[name], version)
        (version / STATE_FOLDER).mkdir()
        MadeWith("", frozenset()).save(version / STATE_FOLDER)
        store.switch(version)


@pytest.mark.parametrize(
    ("words", "following"),
    [
        (("forget", "ana", "--no-run"), "run"),
        (("remove", "ben.csv", "--no-run"), "run"),
        (("remove", "ana.csv", "--no-run"), "run"),
        (("block", "2"), "recommend --everybody"),
    ],
)
def test_status_asks_for_what_a_command_has_left_to_do(merged, tmp_path, words, following):
    """A forgotten user, a removed batch or a blocked item stays in all lists, and a monitor sees nothing to do."""
    home = copied(merged, tmp_path / "home")
    assert _status(home, "--check")[0] == 0
    assert invoke(*words, "--home", home.path).exit_code == 0
    code, _, last = _status(home, "--check")
    assert code == 1 and last.startswith(f"Next: recsys-assets {following}")


@pytest.mark.parametrize(
    ("header", "setting"),
    [
        ("user_id,item_id,rating,timestamp", "[data.sample]\nshare = 0.5\n"),
        ("user_id,item_id,weight,timestamp", '[data]\nevent_damping = "none"\n'),
    ],
)
def test_status_asks_for_a_merge_with_changed_settings(tmp_path, header, setting):
    """Lists of the users and weights of the old settings would pass for those of the new ones, though `run` merges."""
    home = _merged(tmp_path / "home", header)
    assert _status(home, "--check")[0] == 0
    home.settings_file.write_text(setting)
    code, _, last = _status(home, "--check")
    assert code == 1 and last.startswith("Next: recsys-assets run")
    with dg.DagsterInstance.ephemeral() as instance:
        assert planning._rests_on_others(home, instance), "a new run history does not know the merge"
    _merge(home)
    assert _status(home, "--check")[0] == 0


def test_status_asks_for_the_rest_of_a_rollback(merged, tmp_path):
    """Users see the configuration that somebody left, because the command was killed, and a monitor sees no fault."""
    home = copied(merged, tmp_path / "home")
    version = AssetStore(home.assets).current(["recommendations"])
    MadeWith("another", frozenset()).save(version / STATE_FOLDER)
    configuration = Configuration.of(Settings().model_dump(), rating_model="stack", ranking_model="ease")
    Promotions(home.promotions).add(configuration, Decision("rolled back", "to promotion 1"))
    code, _, last = _status(home, "--check")
    assert code == 1 and last.startswith("Next: recsys-assets rollback")


def _as_if_made_in(year: int, home: Home, asset: str) -> None:
    folder = home.assets / asset
    version = (folder / "current").resolve()
    later = version.rename(version.with_name(f"{year}{version.name[4:]}"))
    (folder / "current").unlink()
    (folder / "current").symlink_to(later.relative_to(folder.resolve()))
