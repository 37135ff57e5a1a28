import os
import shutil
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from recsys_assets.cli import app
from recsys_assets.cli.reader import Reader
from recsys_assets.home.batches import Batch, record_refusal, why_refused
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration import launch as launching
from recsys_assets.orchestration import planning
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.jobs import ingest
from recsys_assets.orchestration.landing_watch import range_tags
from recsys_assets.orchestration.taking_out import take_out
from recsys_assets_tests.conftest import invoke

HEADER = "user_id,item_id,rating,timestamp\n"
BAD = "nobody,nothing,many,978300760\n"
ACCEPTED = dg.AssetCheckKey(dg.AssetKey("rejected_rows"), "batches_are_accepted")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    """A home in which `run` ends with the merge: what follows takes longer and is tested elsewhere."""
    pipeline, plan = launching.pipeline_assets, launching.plan
    monkeypatch.setattr(planning, "everything", ingest)
    monkeypatch.setattr(
        launching,
        "pipeline_assets",
        lambda defs: [asset for asset in pipeline(defs) if "ingest" in asset.group_names_by_key.values()],
    )
    monkeypatch.setattr(
        launching, "plan", lambda *parts, **how: [item for item in plan(*parts, **how) if item.job == ingest.name]
    )
    for module in ("run", "batches"):
        monkeypatch.setattr(f"recsys_assets.cli.{module}.show_results", lambda *_: None)
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def land(home: Home, name: str, *users: str, item: str = "m", rating: float = 3, bad: int = 0) -> None:
    """A batch with one good row per user, and bad rows."""
    rows = "".join(f"{user},{item},{rating:g},{978300760 + number}\n" for number, user in enumerate(users))
    (home.landing / name).write_text(HEADER + rows + BAD * bad)


def users_of(home: Home, asset: str = "ratings") -> list[str]:
    """The original ids of those who rated, as merged."""
    reader = Reader(home)
    named = reader.table(asset).join(reader.table("users").select("user", "user_id"), on="user")
    return sorted(named.collect()["user_id"])


def run(home: Home):
    """The command."""
    return invoke("run", "--home", home.path)


def raw(home: Home, batch: str) -> dict[str, bytes]:
    """All stored files of a batch, to the letter."""
    store = AssetStore(home.assets)
    folders = [store.folder([name], batch) for name in ("rejected_rows", "raw_ratings", "raw_users", "raw_items")]
    return {str(file): file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def judgement(home: Home) -> dg.AssetCheckEvaluation:
    """The newest result of the check that no landed batch is refused."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        [newest] = instance.event_log_storage.get_asset_check_execution_history(ACCEPTED, limit=1)
    return newest.event.dagster_event.asset_check_evaluation_data


# Batches that are refused


def test_run_goes_on_without_the_batches_that_are_refused(home):
    """One bad file of many keeps all the others out, nobody is told which one it was, or steps seem to be left."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben", bad=3)
    land(home, "c.csv", "cleo")
    (home.landing / "d.csv").write_text("what,is,this\n1,2,3\n")
    (home.landing / "e.csv").symlink_to("/nowhere")
    land(home, "f...csv", "fay")
    ran = run(home)
    assert ran.exit_code == 1
    assert users_of(home) == ["ana", "cleo"]
    assert "'f...csv' is not allowed as the name of a batch" in ran.stderr
    assert "e.csv is a link to /nowhere, which does not exist" in ran.stderr
    assert "Batch b.csv: 3 of 4 rows are bad (75.0%)" in ran.stderr
    assert "Batch d.csv: " in ran.stderr and "what, is, this" in ran.stderr
    assert "Batch a.csv" not in ran.stderr and "Traceback" not in ran.output
    # The step that refused, and the six of the run after it.
    assert "1/6 raw_tables" in ran.stdout and "2/7 raw_tables" in ran.stdout and "7/7 ratings_checks" in ran.stdout
    assert not raw(home, "b.csv") and not raw(home, "d.csv")


def test_a_refused_batch_comes_in_once_it_is_mended(home):
    """A batch that was bad once is never looked at again, or the UI says for ever that it is refused."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben", bad=3)
    assert run(home).exit_code == 1
    assert (home.rejected / "b.csv.csv").exists()
    refused = judgement(home)
    assert (refused.passed, refused.description) == (False, "not read: b.csv; `recsys-assets batches` says why")
    land(home, "b.csv", "ben")
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["ana", "ben"]
    assert not (home.rejected / "b.csv.csv").exists()
    assert judgement(home).passed


def test_the_check_of_refused_batches_can_be_executed_alone(home):
    """After a refused file is deleted, the UI names it until another batch lands; or the button ends in an error."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben", bad=3)
    assert run(home).exit_code == 1 and not judgement(home).passed
    (home.landing / "b.csv").unlink()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        everything = build_defs(home=home).resolve_implicit_global_asset_job_def()
        alone = everything.get_subset(asset_selection=set(), asset_check_selection={ACCEPTED})
        assert alone.execute_in_process(instance=instance).success
    assert judgement(home).passed


def test_a_run_may_make_some_of_the_raw_tables(home):
    """Whoever makes one raw table of a batch again in the UI gets an error, or has to make all of them."""
    land(home, "a.csv", "ana")
    assert (done := run(home)).exit_code == 0, done.output
    before = {*raw(home, "a.csv")}
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        job, wanted = build_defs(home=home).resolve_job_def(ingest.name), map(dg.AssetKey, ("raw_users", "raw_items"))
        ran = job.execute_in_process(instance=instance, tags=range_tags(["a.csv"]), asset_selection=list(wanted))
    made = [event.asset_key.to_user_string() for event in ran.get_asset_materialization_events()]
    assert made == ["raw_users", "raw_items"]
    assert len({*raw(home, "a.csv")} - before) == 2


def test_the_message_shows_the_first_twenty_and_the_list_has_all(home):
    """The owner of a bad file mends one row after the other, a run each."""
    land(home, "a.csv", *(f"u{number}" for number in range(9)), bad=30)
    ran = run(home)
    assert ran.exit_code == 1
    assert "line 30: rating is not a number" in ran.stderr and "line 31:" not in ran.stderr
    listed = pl.read_csv(home.rejected / "a.csv.csv")
    assert listed.columns == ["file", "line", "reason", "text"]
    assert listed["line"].to_list() == list(range(11, 41))
    assert str(home.rejected / "a.csv.csv") in ran.stderr


def test_a_refused_new_content_leaves_what_was_read_before(home):
    """A batch that is sent again, damaged, takes its good version with it."""
    land(home, "a.csv", "ana")
    assert (done := run(home)).exit_code == 0, done.output
    before, ratings = raw(home, "a.csv"), users_of(home)
    land(home, "a.csv", "ana", "ben", bad=3)
    again = invoke("backfill", "a.csv", "--home", home.path)
    assert again.exit_code == 1 and "Batch a.csv: 3 of 5 rows are bad" in again.stderr
    assert raw(home, "a.csv") == before and users_of(home) == ratings
    told = invoke("batches", "--home", home.path).stdout
    assert "read; refused since" in told and "3 of 5 rows are bad" in told


def test_a_reason_does_not_outlive_the_file_in_a_folder_that_was_mended(home):
    """`batches` would call a mended batch refused, and nobody would run it."""
    file = home.landing / "b" / "ratings.csv"
    file.parent.mkdir()
    file.write_text("bad")
    record_refusal(home, "b", "the file is bad")
    assert why_refused(home, "b") == "the file is bad"
    # The clock of a file system can stand still for some milliseconds.
    time.sleep(0.05)
    file.write_text("mended")
    assert why_refused(home, "b") == ""


def test_the_allowed_share_is_a_setting(home):
    """Who knows that data are bad cannot use them."""
    home.settings_file.write_text("[data]\nmax_rejected_share = 0.9\n")
    land(home, "b.csv", "ben", bad=3)
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["ben"]
    assert Reader(home).table("rejected_rows", "b.csv").collect()["line"].to_list() == [3, 4, 5]


def test_good_batches_are_not_read_again_for_rejected_rows(home, monkeypatch):
    """A large Parquet file without a bad row is read twice more than needed, which doubles the time of its ingest."""
    land(home, "a.csv", "ana", "ben")
    wanted, table = [], Batch.table
    monkeypatch.setattr(Batch, "table", lambda batch, name: wanted.append(name) or table(batch, name))
    assert (done := run(home)).exit_code == 0, done.output
    assert sorted(wanted) == ["raw_items", "raw_ratings", "raw_users"]
    stored = Reader(home).table("rejected_rows", "a.csv").collect()
    assert (stored.height, stored.columns) == (0, ["file", "line", "reason", "text"])


def test_a_named_release_is_not_merged_with_another_one_in_ingest(home):
    """Users of two releases, who have the same numbers, become one person."""
    ml_1m = {
        "ratings.dat": "1::2::3::978300760\n",
        "movies.dat": "2::A (1971)::Drama\n",
        "users.dat": "1::F::1::10::1\n",
    }
    ml_100k = {
        "u.data": "196\t242\t3\t881250949\n",
        "u.user": "196|49|M|writer|55105\n",
        "u.item": "242|Kolya (1996)|24-Jan-1997||http://x|0|1\n",
        "u.genre": "unknown|0\nComedy|1\n",
    }
    for name, files in {"a": ml_1m, "b": ml_100k}.items():
        (home.landing / name).mkdir()
        for file, text in files.items():
            (home.landing / name / file).write_text(text)
    land(home, "c.csv", "ana")
    ran = run(home)
    assert ran.exit_code == 1
    assert "Batch b: it is the MovieLens release ml-100k, and this home holds ml-1m (batch a)" in ran.stderr
    assert users_of(home) == ["1", "ana"]


def test_what_failed_its_check_is_checked_again_until_it_passes(home, monkeypatch):
    """The second `run` would train on what the first has refused, or a change that is meant be refused for ever."""
    land(home, "a.csv", *(f"user {number}" for number in range(10)))
    assert (done := run(home)).exit_code == 0, done.output
    land(home, "a.csv", "user 1")
    assert invoke("backfill", "a.csv", "--home", home.path).exit_code == 1
    for _ in range(2):
        assert "no sudden drop in rows" in run(home).stderr
    monkeypatch.setenv("RECSYS_CHECKS__MAX_ROW_DROP", "1")
    assert (done := run(home)).exit_code == 0, done.output
    monkeypatch.delenv("RECSYS_CHECKS__MAX_ROW_DROP")
    assert (done := run(home)).exit_code == 0, done.output


# Commands on batches


def test_batches_are_listed_with_their_state(home):
    """Nobody can tell what a home was made from."""
    land(home, "a.csv", "ana", "ben")
    land(home, "b.csv", "ben", bad=3)
    assert run(home).exit_code == 1
    land(home, "c.csv", "cleo")
    (home.landing / "a.csv").unlink()
    lines = invoke("batches", "--home", home.path).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["a.csv", "b.csv", "c.csv"]
    assert lines[1].split()[3:5] == ["2", "0"] and "gone" in lines[1]
    assert "refused" in lines[2] and "not read yet" in lines[3]
    assert "Batch b.csv: 3 of 4 rows are bad" in lines[5]
    land(home, "b.csv", "ben")
    lines = invoke("batches", "--home", home.path).stdout.splitlines()
    assert "not read yet" in lines[2] and len(lines) == 4


def test_a_removed_batch_is_out_of_the_merge_and_may_come_again(home):
    """Ratings that should not be there stay in the models, or their batch can never be added again."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben")
    assert (done := run(home)).exit_code == 0, done.output
    removed = invoke("remove", "b.csv", "--home", home.path)
    assert removed.exit_code == 0, removed.output
    assert users_of(home) == ["ana"] and not raw(home, "b.csv")
    assert home.landed_batches() == ["a.csv"]
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert list(instance.get_dynamic_partitions("batches")) == ["a.csv"]
    (home.removed / "b.csv").rename(home.landing / "b.csv")
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["ana", "ben"]


def test_remove_refuses_what_is_not_there_and_what_is_all_there_is(home):
    """A typing error removes nothing without saying so, or a home is left with models of no data."""
    land(home, "a.csv", "ana")
    assert (done := run(home)).exit_code == 0, done.output
    wrong = invoke("remove", "b.csv", "--home", home.path)
    assert wrong.exit_code == 1 and "Nearest: a.csv" in wrong.stderr
    only = invoke("remove", "a.csv", "--home", home.path)
    assert only.exit_code == 1 and "only batch" in only.stderr
    assert home.landed_batches() == ["a.csv"]


def test_two_who_remove_at_once_leave_a_batch(home, monkeypatch):
    """Of two people who remove one of two batches each, the second empties the home under models that stay."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben")
    assert (done := run(home)).exit_code == 0, done.output
    monkeypatch.setattr("recsys_assets.cli.batches._is_asked", lambda: bool(take_out(home, "b.csv")) and False)
    only = invoke("remove", "a.csv", "--home", home.path)
    assert only.exit_code == 1 and "only batch" in only.stderr
    assert home.landed_batches() == ["a.csv"] and raw(home, "a.csv")


def test_a_removal_that_was_broken_off_is_made_up_for(home, monkeypatch):
    """The ratings still hold a batch that is gone."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben")
    assert (done := run(home)).exit_code == 0, done.output
    monkeypatch.setattr("recsys_assets.cli.batches.launch", lambda *_: os.devnull)
    assert invoke("remove", "b.csv", "--home", home.path).exit_code == 0
    assert users_of(home) == ["ana", "ben"]
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["ana"]


def named_in(folder: Path, word: str) -> list[str]:
    """Files below a folder in which a word can be read, Parquet files unpacked."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file():
            text = (
                pl.read_parquet(file).write_json() if file.suffix == ".parquet" else file.read_bytes().decode("latin-1")
            )
            if word in text:
                found.append(str(file.relative_to(folder)))
    return found


def test_a_forgotten_user_is_left_out_at_once_and_erased_by_compact(home):
    """Somebody who asked to be forgotten is still in the models, comes back with the next batch, or stays in files."""
    land(home, "a.csv", "ana", "Zebulon")
    land(home, "b.csv", "ben")
    (home.landing / "c").mkdir()
    (home.landing / "c" / "ratings.csv").write_text(HEADER + "cleo,m,4,978300760\n")
    (home.landing / "c" / "users.csv").write_text("user_id,town\nZebulon,Ulm\ncleo,Ulm\n")
    assert (done := run(home)).exit_code == 0, done.output
    forgotten = invoke("forget", "Zebulon", "--home", home.path)
    assert forgotten.exit_code == 0, forgotten.output
    assert users_of(home) == ["ana", "ben", "cleo"]
    assert "Zebulon" not in Reader(home).table("users").collect()["user_id"]
    land(home, "d.csv", "Zebulon", "dora")
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["ana", "ben", "cleo", "dora"]
    untouched = (home.landing / "b.csv").read_bytes()
    compacted = invoke("compact", "--home", home.path)
    assert compacted.exit_code == 0, compacted.output
    assert named_in(home.path, "Zebulon") == ["forgotten"]
    assert users_of(home) == ["ana", "ben", "cleo", "dora"]
    assert (home.landing / "b.csv").read_bytes() == untouched
    assert Reader(home).table("users").filter(user_id="cleo").collect()["town"].to_list() == ["Ulm"]
    assert invoke("run", "--home", home.path).exit_code == 0


def test_a_refused_batch_keeps_nobody_from_being_erased(home):
    """Somebody who asked to be forgotten stays in old versions, because some other file cannot be read."""
    land(home, "a.csv", "ana", "Zebulon")
    assert (done := run(home)).exit_code == 0, done.output
    land(home, "b.csv", "ben", bad=3)
    assert invoke("forget", "Zebulon", "--home", home.path).exit_code == 1
    compacted = invoke("compact", "--home", home.path)
    assert compacted.exit_code == 0, compacted.output
    assert named_in(home.path, "Zebulon") == ["forgotten"]
    assert users_of(home) == ["ana"]


def test_a_forgotten_user_is_erased_from_what_was_read_of_a_source_that_is_gone(home):
    """Somebody who asked to be forgotten stays in a raw table, because an attribute is called as a column of ours."""
    (home.landing / "a").mkdir()
    (home.landing / "a" / "ratings.csv").write_text(HEADER + "ana,m,4,978300760\nZebulon,m,3,978300761\n")
    (home.landing / "a" / "users.csv").write_text("user_id,text\nZebulon,hello\nana,hello\n")
    assert (done := run(home)).exit_code == 0, done.output
    shutil.rmtree(home.landing / "a")
    assert invoke("forget", "Zebulon", "--home", home.path).exit_code == 0
    assert invoke("compact", "--home", home.path).exit_code == 0
    assert named_in(home.path, "Zebulon") == ["forgotten"]
    assert users_of(home) == ["ana"]


def test_a_forgotten_user_whose_id_is_a_number_is_erased_too(home):
    """Ids that are stored as numbers are not recognized as the one that is to be forgotten."""
    land(home, "a.csv", "1", "86420975", item="7")
    land(home, "b.csv", "86420975", "2", item="x")
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["1", "2", "86420975", "86420975"]
    forgotten = invoke("forget", "86420975", "--home", home.path)
    assert forgotten.exit_code == 0, forgotten.output
    assert users_of(home) == ["1", "2"]
    compacted = invoke("compact", "--home", home.path)
    assert compacted.exit_code == 0, compacted.output
    assert named_in(home.path, "86420975") == ["forgotten"]
    assert (done := run(home)).exit_code == 0, done.output
    assert users_of(home) == ["1", "2"]


def test_forgetting_nobody_is_refused(home):
    """A mistyped id is taken for forgotten, and the user stays."""
    land(home, "a.csv", "ana")
    assert (done := run(home)).exit_code == 0, done.output
    wrong = invoke("forget", "anna", "--home", home.path)
    assert wrong.exit_code == 1 and "Nearest: ana" in wrong.stderr
    assert not home.forgotten.exists()


# Samples for development


def test_a_sample_keeps_a_share_of_the_users_and_the_same_ones_when_more_come(home):
    """A sample is no sample, leaves gaps in the numbering, or is another one after each batch."""
    land(home, "a.csv", *(f"u{number:03}" for number in range(200)))
    home.settings_file.write_text("[data.sample]\nshare = 0.3\n")
    assert (done := run(home)).exit_code == 0, done.output
    kept = users_of(home)
    assert 30 < len(kept) < 90
    assert Reader(home).table("users").collect()["user"].to_list() == list(range(len(kept)))
    land(home, "b.csv", *(f"v{number:03}" for number in range(200)))
    assert (done := run(home)).exit_code == 0, done.output
    assert [user for user in users_of(home) if user.startswith("u")] == kept
    home.settings_file.write_text("")
    assert (done := run(home)).exit_code == 0, done.output
    assert len(users_of(home)) == 400


# Before anything is changed


def _stored(home: Home) -> dict[Path, int]:
    """The files that hold data, with their times; the run history may be opened by looking."""
    found = (path for path in home.path.rglob("*") if path.is_file() and home.dagster not in path.parents)
    return {path: path.stat().st_mtime_ns for path in found if not path.name.endswith("lock")}


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(home):
    """Whoever only wants to look removes a batch, or erases a user for good."""
    land(home, "a.csv", "ana")
    land(home, "b.csv", "ben")
    assert (done := run(home)).exit_code == 0, done.output
    before = _stored(home)
    for command, words in {
        ("remove", "b.csv"): "b.csv with 1 rating is removed",
        ("forget", "ben"): "User ben (1 rating) is left out",
        ("compact",): "Erased for good: 0 removed batches",
    }.items():
        told = invoke(*command, "--dry-run", "--home", home.path)
        assert told.exit_code == 0 and words in told.stdout and "Nothing was changed" in told.stdout, told.output
    assert _stored(home) == before


def test_a_person_at_a_terminal_is_asked(home, monkeypatch):
    """A mistyped command at a terminal erases at once what nobody can bring back."""
    monkeypatch.setattr("recsys_assets.cli.batches._is_asked", lambda: True)
    land(home, "a.csv", "ana")
    home.assets.mkdir(parents=True, exist_ok=True)
    said_no = CliRunner().invoke(app, ["compact", "--home", str(home.path)], input="n\n")
    assert said_no.exit_code == 1 and "Go on? [y/N]" in said_no.stdout and "deleted" not in said_no.stdout
    said_yes = CliRunner().invoke(app, ["compact", "--yes", "--home", str(home.path)])
    assert said_yes.exit_code == 0 and "old versions deleted" in said_yes.stdout
