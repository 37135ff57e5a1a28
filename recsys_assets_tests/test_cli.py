import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from filelock import FileLock, Timeout

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import follow_up, nearest, seconds
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetStore, write_table
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.failures import asset_name, reason
from recsys_assets.orchestration.launch import Ended, carry_out
from recsys_assets.orchestration.planning import Launch, pipeline_assets, plan
from recsys_assets.recommender.data.frames import empty, lazy
from recsys_assets.recommender.data.index import IndexMismatchError
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.running import copied, materialize
from recsys_assets_tests.test_sensors import _as_anybody

RAW = ("raw_ratings", "raw_users", "raw_items", "rejected_rows")
MERGED = ("users", "items", "ratings")


@pytest.fixture
def home(tmp_path) -> Home:
    """A home in which nothing has happened."""
    return Home(tmp_path / "home")


def table(home: Home, asset: str) -> pl.DataFrame:
    """A stored table."""
    return Reader(home).table(asset).collect()


# The run


def test_run_names_every_asset_and_ends_with_scores_and_report(first_run, assets):
    """A user of `run` cannot see what it does, how far it is, or where the results are."""
    home, ran = first_run
    lines = ran.stdout.splitlines()
    begun = [line.split()[1] for line in lines if "✓" in line]
    # Backtests and studies are for who asks.
    asked_for = {spec.key for asset in assets for spec in asset.specs if spec.group_name in ("backtest", "study")}
    assert {asset_name(asset.op.name) for asset in assets if not asset.keys <= asked_for} <= set(begun)
    assert f"{len(begun)}/{len(begun)} " in ran.stdout
    assert any(line.startswith("Time by stage: ") and "models " in line for line in lines)
    assert any(line.startswith("Peak memory: ") for line in lines)
    assert "Rating of the top 5 %" in ran.stdout
    assert lines[-1] == f"Report: {home.report}"
    assert home.report.exists()


def test_a_run_of_the_command_line_can_be_run_again_from_the_ui(first_run):
    """The button of the UI would be refused, because the run's configuration names what only the command line has."""
    home, _ = first_run
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        (run, *_) = instance.get_runs()
    job = build_defs(home=home).resolve_job_def(run.job_name)
    assert run.run_config
    dg.validate_run_config(job, run.run_config)


def test_run_keeps_debug_logs_off_the_terminal_and_in_the_file(first_run):
    """The terminal is flooded by Dagster's and Spark's logs, or they are lost."""
    home, ran = first_run
    (log,) = home.logs.glob("*.log")
    assert "STEP_START" in log.read_text()
    assert "STEP_START" not in ran.output and "WARN" not in ran.output


def test_failing_batch_is_named_with_its_reason_and_the_log(home):
    """A run that fails ends with a traceback, or with success, or hides which file is to blame."""
    home.prepare()
    (home.landing / "bad").mkdir()
    (home.landing / "bad" / "ratings.dat").write_text("what is this?\n")
    ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 1
    assert "Batch bad: ratings.dat, line 1" in ran.stderr
    assert "Traceback" not in ran.output
    log = Path(ran.stderr.strip().rpartition("The whole log: ")[2])
    assert "Batch bad: ratings.dat, line 1" in log.read_text()
    assert "not started because of it" in ran.stdout


def test_a_rating_per_user_is_enough_for_recommendations(home):
    """Ratings that case study B cannot use would give nobody a recommendation, and say why in three ways."""
    home.prepare()
    home.settings_file.write_text(FAST_SETTINGS)
    rows = [f"u{n},m{n % 7},{1 + n * n % 5},{1_600_000_000 + n}" for n in range(60)]
    (home.landing / "ratings.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]))
    ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 1
    told = ran.stderr.splitlines()
    assert told[0].startswith(
        "Error: check enough_to_learn_from of train_histories failed: ratings before the latest ones"
    )
    assert told[1].startswith("The whole log:") and len(told) == 2
    shown = invoke("recommend", "u3", "--home", home.path)
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) == 1 + 6
    assert "No segment" in invoke("user", "u3", "--home", home.path).stdout
    assert "no mean by segment" in invoke("item", "m3", "--home", home.path).stdout
    for words in (("scores",), ("segment", "0"), ("export", "user_segments", home.path / "out.csv")):
        empty = invoke(*words, "--home", home.path)
        assert empty.exit_code == 1 and "no user of this home has two ratings" in empty.stderr


def test_second_run_of_one_home_is_refused(home):
    """Two runs write the same assets at the same time."""
    home.prepare()
    with FileLock(home.path / ".lock"):
        ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 1
    assert "Another run works on this home" in ran.stderr


def test_lock_of_a_dead_process_does_not_hold(home):
    """A run that was killed keeps its home locked for ever."""
    home.prepare()
    holds = f"from filelock import FileLock; import os; FileLock({str(home.path / '.lock')!r}).acquire(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", holds], check=False).returncode == 9
    with FileLock(home.path / ".lock", timeout=0):
        pass


def test_missing_java_is_told_before_anything_starts(home, monkeypatch, tmp_path):
    """Without Java a user of the engine Spark waits for minutes and is then shown Spark's traceback."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    home.prepare()
    home.settings_file.write_text('engine = "spark"\n')
    ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 1
    assert "Install it" in ran.stderr
    assert not home.landed_batches()


def test_run_fetches_only_into_an_empty_home(home, monkeypatch):
    """`run` puts MovieLens into a home that holds somebody's own ratings, or a fetch that fails goes unnoticed."""
    from recsys_assets.recommender.ingest import fetch
    from recsys_assets.recommender.ingest.errors import SourceError

    def unreachable(name: str, _: Path, **__: object) -> None:
        raise SourceError(f"{name} is out of reach; try again later.")

    monkeypatch.setattr(fetch, "fetch", unreachable)
    monkeypatch.setattr("recsys_assets.cli.run.launch", lambda *_: None)
    monkeypatch.setattr("recsys_assets.cli.run.show_results", lambda *_: None)
    assert "ml-100k is out of reach" in invoke("run", "--home", home.path).stderr
    (home.landing / "mine.csv").write_text("")
    assert invoke("run", "--home", home.path).exit_code == 0
    assert "ml-1m is not fetched" in invoke("run", "--dataset", "ml-1m", "--home", home.path).stdout


# What a run consists of


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """The assets of the pipeline."""
    return pipeline_assets(build_defs(home=Home(tmp_path_factory.mktemp("none"))))


@pytest.fixture
def launches(home, assets, monkeypatch):
    """What would be launched after some batches have been materialized; landed batches are given by name."""
    home.prepare()
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    with dg.DagsterInstance.get() as instance:

        def materialize(keys, batch=None, tags=None):
            for key in keys:
                instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=batch, tags=tags))
                version = AssetStore(home.assets).folder([key], batch) / "current"
                version.mkdir(parents=True, exist_ok=True)
                if key == "ratings":
                    write_table(lazy(empty(TABLES[key])), TABLES[key], version)

        def launched(*landed):
            for batch in landed:
                (home.landing / batch).touch()
            found = plan(home, instance, assets)
            return [
                (item.job, list(item.batches), sorted(key.to_user_string() for key in item.assets)) for item in found
            ]

        yield materialize, launched


def test_new_batches_are_one_range_in_the_order_of_their_names(launches):
    """Several batches cost several processes, or their order depends on the file system."""
    _, launched = launches
    assert launched("b", "a", "c") == [("everything", ["a", "b", "c"], [])]


def test_only_new_batches_are_ingested(launches):
    """Every run reads everything again, however much there is."""
    materialize, launched = launches
    launched("a", "b")
    for batch in ("a", "b"):
        materialize(RAW, batch)
    materialize(MERGED)
    assert launched("c") == [("everything", ["c"], [])]


def test_a_new_run_history_knows_the_batches_whose_source_is_gone(launches, home):
    """Whoever moves a damaged run history away loses all ratings of which the source was deleted."""
    _, launched = launches
    for asset in RAW:
        (AssetStore(home.assets).folder([asset], "a") / "current").mkdir(parents=True)
    launched("b")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("batches") == ["a", "b"]


def test_nothing_new_is_a_refresh(launches):
    """A run without new data does nothing, or fails for want of a batch."""
    materialize, launched = launches
    launched("a")
    materialize(RAW, "a")
    materialize(MERGED)
    assert launched() == [("refresh", [], [])]


def test_a_half_read_batch_is_read_again(launches):
    """A batch whose ingest broke off is taken for ingested and its items are missing for good."""
    materialize, launched = launches
    launched("a")
    materialize(RAW[:2], "a")
    materialize(MERGED)
    assert launched() == [("everything", ["a"], [])]


def test_an_interrupted_merge_is_made_up_for(launches):
    """A batch was read, the merge after it failed, and the next run trains on the ratings without it."""
    materialize, launched = launches
    launched("a")
    materialize(MERGED)
    materialize(RAW, "a")
    ((job, batches, assets),) = launched()
    assert (job, batches) == ("everything", [])
    assert {"ratings", "evaluation_scores"} <= set(assets) and not set(RAW) & set(assets)


def test_users_do_not_wait_for_scores(launches):
    """With `run`, new users would have no list of their own until two dozen models are scored."""
    materialize, launched = launches
    first = ("recommend", [], []), ("refresh", [], [])
    launched("a")
    materialize(RAW, "a")
    materialize(MERGED, tags={"dagster/data_version": "new"})
    materialize(["promoted_configuration", "recommendations"])
    assert launched() == [*first]
    assert launched("b") == [("ingest", ["b"], []), *first]
    materialize(RAW, "b")
    assert launched() == [("ingest", [], sorted(MERGED)), *first]
    materialize(MERGED, tags={"dagster/data_version": "newer"})
    materialize(["recommendations"], tags={f"dagster/input_data_version/{name}": "newer" for name in MERGED})
    assert launched() == [first[1]]


def test_a_refresh_does_not_need_the_configuration_in_use():
    """After an update of the package `run` would fail, because the model in use cannot be fitted any more."""
    done = []

    def attempt(launch: Launch) -> Ended:
        done.append(launch.job)
        return Ended(launch.job != "recommend", failures=["cannot be fitted"])

    launches = [Launch("ingest", ""), Launch("recommend", "", is_extra=True), Launch("refresh", "")]
    assert carry_out(launches, lambda *_: [], attempt) == ({}, [])
    assert done == ["ingest", "recommend", "refresh"]


def test_a_gap_between_new_batches_is_kept(launches):
    """A range over a gap reads an ingested batch again, or the merge fails on a batch that is not read yet."""
    materialize, launched = launches
    launched("a", "b", "c")
    materialize(RAW, "b")
    materialize(MERGED)
    assert launched() == [("everything", ["a"], sorted(RAW)), ("everything", ["c"], [])]


def test_a_batch_that_was_taken_back_is_forgotten(launches, home):
    """A bad file that the user has deleted from the landing folder stops every later run."""
    _, launched = launches
    launched("a", "bad")
    (home.landing / "bad").unlink()
    assert launched() == [("everything", ["a"], [])]


def test_reason_is_the_assets_own_error():
    """The terminal shows Dagster's wrapping instead of what went wrong."""

    @dg.op
    def fails():
        raise ValueError("line 3: no rating")

    @dg.job
    def failing():
        fails()

    result = failing.execute_in_process(raise_on_error=False)
    (failure,) = (event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert reason(failure.error) == "ValueError: line 3: no rating"


# Landing


def test_add_lands_a_copy_and_the_same_again_changes_nothing(home, tmp_path):
    """`add` moves a user's file, leaves temporary files, or lands one thing twice."""
    source = made_up(n_users=6, n_items=6).write(tmp_path / "mine")
    assert invoke("add", source, "--home", home.path).exit_code == 0
    assert home.landed_batches() == ["mine"]
    assert (home.landing / "mine" / "u.data").read_bytes() == (source / "u.data").read_bytes()
    again = invoke("add", source, "--home", home.path)
    assert again.exit_code == 0 and "already" in again.stdout
    assert [entry.name for entry in home.landing.iterdir()] == ["mine"]


def test_add_never_overwrites_a_batch(home, tmp_path):
    """A second file of the same name replaces the ratings of the first."""
    first = made_up(n_users=6, n_items=6).write(tmp_path / "one" / "mine")
    second = made_up(n_users=6, n_items=6, seed=1).write(tmp_path / "two" / "mine")
    assert invoke("add", first, "--home", home.path).exit_code == 0
    refused = invoke("add", second, "--home", home.path)
    assert refused.exit_code == 1 and "--batch" in refused.stderr
    assert (home.landing / "mine" / "u.data").read_bytes() == (first / "u.data").read_bytes()
    assert invoke("add", second, "--batch", "second", "--home", home.path).exit_code == 0
    assert home.landed_batches() == ["mine", "second"]


def test_add_refuses_the_folder_that_the_home_is_in(tmp_path):
    """The copy would hold a copy of itself, level below level, until the disk is full."""
    source = made_up(n_users=6, n_items=6).write(tmp_path / "films")
    for check in ([], ["--check"]):
        refused = invoke("add", source, *check, "--home", source / ".recsys")
        assert refused.exit_code == 1 and "choose a home elsewhere" in refused.stderr
    assert not (source / ".recsys").exists()


def test_add_refuses_what_is_no_ratings(home, tmp_path):
    """A file that cannot be read lands and makes every later run fail."""
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear all,\nplease find attached\n")
    refused = invoke("add", letter, "--home", home.path)
    assert refused.exit_code == 1 and "Traceback" not in refused.output
    assert list(home.landing.iterdir()) == []


@pytest.mark.parametrize("name", [".hidden", "_begun", "a...b", "a/b", "a\tb", "a.tmp", "a.csv.part", "a.csv~"])
def test_add_refuses_names_that_dagster_or_the_landing_folder_cannot_hold(home, tmp_path, name):
    """A batch lands under a name that no run ever picks up."""
    source = made_up(n_users=6, n_items=6).write(tmp_path / "mine")
    for check in ([], ["--check"]):
        refused = invoke("add", source, *check, "--batch", name, "--home", home.path)
        assert refused.exit_code == 1 and "--batch" in refused.stderr
    assert list(home.landing.glob("*")) == []


def test_fetch_keeps_others_from_fetching_and_from_nothing_else(home, monkeypatch):
    """`add` hangs as long as a download takes, or two who fetch a release write one file."""
    from recsys_assets.recommender.ingest import fetch

    def fetched(_: str, target: Path, **__: object) -> fetch.FetchResult:
        with FileLock(home.landing_lock, timeout=0), pytest.raises(Timeout):
            FileLock(home.download_lock).acquire(timeout=0)
        target.write_bytes(b"zip")
        return fetch.FetchResult(target, "", "")

    monkeypatch.setattr(fetch, "fetch", fetched)
    assert invoke("fetch", "ml-100k", "--home", home.path).exit_code == 0
    assert [path.name for path in home.landing.iterdir()] == ["ml-100k.zip"]


def test_what_is_added_during_a_download_is_kept(home, monkeypatch):
    """The file of somebody else is overwritten by a release of the same name, and both are told that theirs landed."""
    from recsys_assets.recommender.ingest import fetch

    def fetched(_: str, target: Path, **__: object) -> fetch.FetchResult:
        target.write_bytes(b"zip")
        (home.landing / "ml-100k.zip").write_text("mine")
        return fetch.FetchResult(target, "", "")

    monkeypatch.setattr(fetch, "fetch", fetched)
    assert "landed already" in invoke("fetch", "ml-100k", "--home", home.path).stdout
    assert (home.landing / "ml-100k.zip").read_text() == "mine"
    assert [path.name for path in home.landing.iterdir()] == ["ml-100k.zip"]


def test_a_download_that_breaks_off_is_resumed_and_survives_compact(home, monkeypatch):
    """Who fetches the largest release over a bad line begins anew each time."""
    from recsys_assets.home.erase import erase_sources
    from recsys_assets.recommender.ingest import fetch
    from recsys_assets.recommender.ingest.errors import SourceError
    from recsys_assets.recommender.ingest.settings import DataSettings

    def broken_off(_: str, target: Path, **__: object) -> fetch.FetchResult:
        with target.open("ab") as part:
            part.write(b"half")
        raise SourceError("try again")

    monkeypatch.setattr(fetch, "fetch", broken_off)
    for _ in range(2):
        assert invoke("fetch", "ml-100k", "--home", home.path).exit_code == 1
        erase_sources(home, [], DataSettings())
    assert [path.read_bytes() for path in home.landing.rglob("ml-100k.zip")] == [b"halfhalf"]
    assert home.landed_batches() == []


def test_fetch_says_source_and_terms(home, monkeypatch):
    """A user does not learn where the data are from and under which terms."""
    from recsys_assets.recommender.ingest import fetch

    def fetched(_: str, target: Path, **__: object) -> fetch.FetchResult:
        target.write_bytes(b"zip")
        return fetch.FetchResult(target, "https://example.org/ml.zip", "for research")

    monkeypatch.setattr(fetch, "fetch", fetched)
    told = invoke("fetch", "ml-100k", "--home", home.path)
    assert told.exit_code == 0
    assert "https://example.org/ml.zip" in told.stdout and "for research" in told.stdout
    assert home.landed_batches() == ["ml-100k.zip"]
    assert "already" in invoke("fetch", "ml-100k", "--home", home.path).stdout


def test_init_writes_settings_once(home):
    """`init` writes nothing, or overwrites what the user has set."""
    assert str(home.settings_file) in invoke("init", "--home", home.path).stdout
    assert "[als]" in home.settings_file.read_text()
    home.settings_file.write_text("[als]\nrank = 3\n")
    assert invoke("init", "--home", home.path).exit_code == 0
    assert home.settings_file.read_text() == "[als]\nrank = 3\n"


# Results


def test_report_prints_the_path_of_the_report_or_says_how_to_make_one(materialized_home, home):
    """Somebody would search the home for a file, or open one that is not there."""
    told = invoke("report", "--home", materialized_home.path)
    assert told.exit_code == 0 and Path(told.stdout.strip()) == materialized_home.report
    home.path.mkdir(exist_ok=True)
    none = invoke("report", "--home", home.path)
    assert none.exit_code != 0 and "recsys-assets run" in none.output


def test_scores_as_json_are_the_whole_table(materialized_home):
    """A program that reads the scores gets rounded, missing or decorated ones."""
    rows = json.loads(invoke("scores", "--json", "--home", materialized_home.path).stdout)
    stored = table(materialized_home, "evaluation_scores")
    assert pl.DataFrame(rows[: len(stored)], schema=stored.schema).equals(stored)


def test_scores_as_json_have_the_metric_names_of_the_version_before(materialized_home):
    """A program that watches the rating of the top 5 % would find no row after an upgrade."""
    home = ("--home", materialized_home.path)
    rows = json.loads(invoke("scores", "--json", *home).stdout)
    for earlier in ("top5_rating", "top5_rating_published", "top5_rating_gain"):
        present = earlier.replace("top5_", "top5pct_")
        again = [row | {"metric": present} for row in rows if row["metric"] == earlier]
        assert again and again == [row for row in rows if row["metric"] == present]
        listed = json.loads(invoke("scores", "--json", "--metric", earlier, *home).stdout)
        assert {row["metric"] for row in listed} == {earlier, present}


def test_scores_summary_has_the_selected_model_between_its_bounds(materialized_home):
    """The selected model's score is shown without what it could be at worst and at best."""
    shown = invoke("scores", "--home", materialized_home.path).stdout
    scores = table(materialized_home, "evaluation_scores")
    of_all = scores.filter(protocol="time_cut", metric="top5pct_rating", population="all")
    values = {row["model"]: f"{row['value']:.3f}" for row in of_all.iter_rows(named=True)}
    lines = iter(shown.splitlines())
    next(line for line in lines if "Rating of the top 5 %" in line)
    line = next(line for line in lines if line.split()[0] == "all")
    assert line.split()[2::2] == [values[model] for model in ("random", "item_mean", "selected", "upper_bound")]


def test_scores_can_be_filtered_and_unknown_filters_say_what_there_is(materialized_home):
    """A typing error in a filter looks like a missing score."""
    home = ("--home", materialized_home.path)
    rows = json.loads(invoke("scores", "--json", "--metric", "rmse", "--model", "item_mean", *home).stdout)
    assert {(row["metric"], row["model"]) for row in rows} == {("rmse", "item_mean")}
    listed = invoke("scores", "--metric", "rmse", *home).stdout.splitlines()
    assert all("rmse" in line for line in listed[1:])
    unknown = invoke("scores", "--metric", "rsme", *home)
    assert unknown.exit_code == 1 and "rmse" in unknown.stderr


def test_recommend_shows_unrated_items_of_the_users_taste(materialized_home, small_data):
    """A user is recommended what it has rated, or what its like does not watch."""
    shown = invoke("recommend", "1", "-n", "3", "--home", materialized_home.path).stdout.splitlines()[1:]
    ids = {int(line.split()[1]) for line in shown}
    rated = set(small_data.ratings.filter(user_id=1)["item_id"])
    assert len(shown) == 3 and not ids & rated
    assert sum("Action Story" in line for line in shown) >= 2


def test_recommend_agrees_with_the_recommendations(materialized_home):
    """The command line and the table that the product serves say different things."""
    stored = table(materialized_home, "recommendations").filter(user_id="17").sort("rank")
    shown = invoke("recommend", "17", "--home", materialized_home.path).stdout.splitlines()[1:]
    assert [line.split()[1] for line in shown] == stored["item_id"].to_list()


def test_recommend_as_json_is_the_list_with_its_reasons(materialized_home):
    """A program would have to take the table apart, and would break at the first title with a comma."""
    stored = table(materialized_home, "recommendations").filter(user_id="17").sort("rank")
    told = json.loads(invoke("recommend", "17", "--json", "--home", materialized_home.path).stdout)
    assert told["user_id"] == "17" and told["notes"] == []
    assert [row["item_id"] for row in told["items"]] == stored["item_id"].to_list()
    assert [row["because"] for row in told["items"]] == stored["because"].to_list()
    assert [row["score"] for row in told["items"]] == pytest.approx(stored["score"].to_list())
    newcomer = json.loads(invoke("recommend", "--newcomer", "--json", "--home", materialized_home.path).stdout)
    assert newcomer["user_id"] is None and len(newcomer["items"]) == 10


def test_recommend_and_export_say_why(materialized_home, small_data, tmp_path):
    """People would have to believe a list without a reason, or be given a reason that they never rated."""
    stored = table(materialized_home, "recommendations")
    titles = {title: item for item, title in small_data.items.select("item_id", "title").iter_rows()}
    rated = set(small_data.ratings.select("user_id", "item_id").iter_rows())
    told = stored.explode("because").drop_nulls("because")
    assert told["user_id"].n_unique() == stored["user_id"].n_unique()
    assert all((int(row["user_id"]), titles[row["because"]]) in rated for row in told.iter_rows(named=True))
    first = stored.filter(user_id="17", rank=1).row(0, named=True)
    shown = invoke("recommend", "17", "-n", "1", "--home", materialized_home.path).stdout.splitlines()[1]
    assert shown.rstrip().endswith(" · ".join(first["because"]))
    out = tmp_path / "lists.csv"
    assert invoke("export", "recommendations", out, "--home", materialized_home.path).exit_code == 0
    written = pl.read_csv(out).filter(user_id=17, rank=1)
    assert written["because"].to_list() == ["|".join(first["because"])]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_exported_ratings_are_the_users_own(materialized_home, small_data, tmp_path, suffix):
    """Exported tables hold inner numbers that mean nothing outside, or lose rows."""
    out = tmp_path / f"ratings.{suffix}"
    assert invoke("export", "ratings", out, "--home", materialized_home.path).exit_code == 0
    read = pl.read_csv(out) if suffix == "csv" else pl.read_parquet(out)
    assert {"user", "item"}.isdisjoint(read.columns)
    exported = read.select(pl.col("user_id", "item_id", "rating").cast(pl.Int64)).sort("user_id", "item_id")
    assert exported.equals(small_data.ratings.select(exported.columns).sort("user_id", "item_id"))
    assert read.filter(pl.col("item_id").cast(pl.String) == "7")["title"].unique().to_list() == ["Action Story 7"]
    assert [entry.name for entry in tmp_path.iterdir()] == [out.name]


def test_exported_lists_are_text_in_csv_and_lists_in_parquet(materialized_home, tmp_path):
    """Genres and affinities break the CSV, or are lost."""
    for suffix in ("csv", "parquet"):
        invoke("export", "user_segments", tmp_path / f"segments.{suffix}", "--home", materialized_home.path)
    texts = pl.read_csv(tmp_path / "segments.csv")["affinity"].str.split("|").cast(pl.List(pl.Float32))
    lists = pl.read_parquet(tmp_path / "segments.parquet")["affinity"]
    assert texts.to_list() == lists.to_list()
    assert "user_id" in pl.read_csv(tmp_path / "segments.csv").columns


def test_exported_raw_tables_name_their_batch(materialized_home, tmp_path):
    """Rows of several batches cannot be told apart."""
    invoke("export", "raw_ratings", tmp_path / "raw.csv", "--home", materialized_home.path)
    assert pl.read_csv(tmp_path / "raw.csv")["batch"].unique().to_list() == ["small"]


def test_predictions_can_be_exported(materialized_home, tmp_path):
    """What the models predicted cannot be had outside."""
    out = tmp_path / "item_mean.parquet"
    assert invoke("export", "predictions/time_cut/item_mean", out, "--home", materialized_home.path).exit_code == 0
    assert pl.read_parquet(out).columns == ["user_id", "item_id", "title", "prediction"]


@pytest.mark.parametrize("command", [("export", "user_clusters"), ("user", "2")])
def test_numbers_are_never_shown_with_the_ids_of_others(materialized_home, tmp_path, command):
    """After a user was forgotten, what a study says of each user would be exported as that of the next one."""
    home = copied(materialized_home, tmp_path / "home")
    arguments = (*command, *((tmp_path / "out.csv",) if command[0] == "export" else ()), "--home", home.path)
    users = table(home, "users")
    renumbered = users.filter(pl.col("user_id") != "1").with_columns(user=pl.col("user") - 1)
    renumbered.write_parquet(AssetStore(home.assets).current(["users"]) / TABLE_FILE)
    refused = invoke(*arguments)
    assert (
        refused.exit_code == 1
        and "was built with an earlier id map: its dense ids now stand for other users" in refused.stderr
    )
    assert not (tmp_path / "out.csv").exists()


def test_no_step_reads_the_numbers_of_others(materialized_home, tmp_path):
    """Models would be fitted on the ratings of other users, after a run that broke off between users and ratings."""
    home = copied(materialized_home, tmp_path / "home")
    users = table(home, "users")
    users.with_columns(user_id=pl.col("user_id").reverse()).write_parquet(
        AssetStore(home.assets).current(["users"]) / TABLE_FILE
    )
    with pytest.raises(
        IndexMismatchError, match="ratings was built with an earlier id map: its dense ids now stand for other users"
    ):
        materialize(home, "key:train_ratings")


def test_users_who_come_after_the_others_make_no_table_old(materialized_home, tmp_path):
    """Nothing could be exported between the arrival of new users and the next refresh."""
    home = copied(materialized_home, tmp_path / "home")
    users = table(home, "users")
    newest = users.tail(1).with_columns(user=pl.col("user") + 1, user_id=pl.lit("new"))
    pl.concat([users, newest]).write_parquet(AssetStore(home.assets).current(["users"]) / TABLE_FILE)
    exported = invoke("export", "user_clusters", tmp_path / "out.csv", "--home", home.path)
    assert exported.exit_code == 0, exported.output


@pytest.mark.parametrize(
    ("asset", "file", "told"),
    [
        ("serving_model", "out.csv", "is a model"),
        ("recomendations", "out.csv", "Did you mean recommendations"),
        ("ratings", "out.xlsx", ".parquet or .csv"),
        ("ratings", "nowhere/out.csv", "no such folder"),
    ],
)
def test_export_says_what_it_cannot_do(materialized_home, tmp_path, asset, file, told):
    """A mistyped export ends with a traceback or an empty file."""
    refused = invoke("export", asset, tmp_path / file, "--home", materialized_home.path)
    assert refused.exit_code == 1 and told in refused.stderr and "Traceback" not in refused.output
    assert list(tmp_path.iterdir()) == []


def test_export_replaces_a_file_only_by_a_whole_one(materialized_home, tmp_path, monkeypatch):
    """An export that breaks off leaves half a file in the place of the last good one."""
    out = tmp_path / "ratings.csv"
    out.write_text("the last good one")

    def breaks_off(_: pl.LazyFrame, path: Path) -> None:
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pl.LazyFrame, "sink_csv", breaks_off)
    refused = invoke("export", "ratings", out, "--home", materialized_home.path)
    assert refused.exit_code == 1 and "disk full" in refused.stderr
    assert out.read_text() == "the last good one"
    assert [entry.name for entry in tmp_path.iterdir()] == [out.name]


# Looks


def test_items_are_found_by_title_with_their_ratings(materialized_home, small_data):
    """An item cannot be found without knowing its id, or its numbers are wrong."""
    shown = invoke("items", "^action story 1$", "--home", materialized_home.path).stdout.splitlines()
    ratings = small_data.ratings.filter(item_id=1)["rating"]
    assert len(shown) == 2
    assert shown[1].split() == [
        "1",
        "Action",
        "Story",
        "1",
        "(1950)",
        "Action",
        str(len(ratings)),
        f"{ratings.mean():.2f}",
    ]


def test_items_lists_the_most_rated_and_says_how_many_are_left(materialized_home):
    """A broad search hides that there is more, or what matters."""
    shown = invoke("items", "story", "-n", "5", "--home", materialized_home.path).stdout.splitlines()
    counts = [int(line.split()[-2]) for line in shown[1:-1]]
    assert len(counts) == 5 and counts == sorted(counts, reverse=True)
    assert "35 more" in shown[-1]


@pytest.mark.parametrize(("regex", "told"), [("(", "no regular expression"), ("romance stori 2", "Romance Story 2")])
def test_items_says_why_nothing_was_found(materialized_home, regex, told):
    """A search that finds nothing ends without a hint."""
    refused = invoke("items", regex, "--home", materialized_home.path)
    assert refused.exit_code == 1 and told in refused.stderr


@pytest.mark.parametrize(
    ("stored", "typed"), [("Tom &amp; Jerry", "tom & jerry"), ("Ame\u0301lie", "am\u00e9lie"), ("He\u200bat", "^heat$")]
)
def test_items_are_found_as_people_type_them(materialized_home, tmp_path, stored, typed):
    """A title with an entity, a combining accent or a character without width would never be found."""
    home = copied(materialized_home, tmp_path / "home")
    items = table(home, "items")
    title = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(stored)).otherwise("title")
    items.with_columns(title=title).write_parquet(AssetStore(home.assets).current(["items"]) / TABLE_FILE)
    shown = invoke("items", typed, "--home", home.path)
    assert shown.exit_code == 0, shown.output
    assert items["item_id"][0] in shown.stdout


def test_items_without_titles_are_found_by_their_ids(materialized_home, tmp_path):
    """In a catalogue that has no titles, no item could be found, and none be suggested."""
    home = copied(materialized_home, tmp_path / "home")
    without = table(home, "items").with_columns(title=pl.lit(None, pl.String), item_id="story-" + pl.col("item_id"))
    store = AssetStore(home.assets)
    without.write_parquet(store.current(["items"]) / TABLE_FILE)
    # As if the ratings had been merged with these ids.
    (store.current(["ratings"]) / ".id_map.json").unlink()
    shown = invoke("items", "^STORY-1$", "--home", home.path).stdout.splitlines()
    assert len(shown) == 2 and shown[1].split()[0] == "story-1"
    for command in ("items", "item"):
        assert "story-12" in invoke(command, "storry-12", "--home", home.path).stderr


def test_item_shows_what_each_segment_thinks_of_it(materialized_home):
    """The chart of an item's mean by segment does not agree with the table behind it."""
    shown = invoke("item", "1", "--home", materialized_home.path).stdout
    item = table(materialized_home, "items").filter(item_id="1")["item"][0]
    rows = table(materialized_home, "segment_ratings").filter(item=item)
    assert "Action Story 1 (1950)" in shown
    for row in rows.iter_rows(named=True):
        (line,) = (line for line in shown.splitlines() if line.split()[:1] == [str(row["segment"])])
        assert {f"{row['mean']:.2f}", str(row["count"])} <= set(line.split())


def test_user_shows_attributes_ratings_cluster_and_affinity(materialized_home, small_data):
    """What the pipeline knows of a user cannot be seen."""
    shown = invoke("user", "3", "--home", materialized_home.path).stdout
    user = table(materialized_home, "users").filter(user_id="3")["user"][0]
    affinity = table(materialized_home, "user_segments").filter(user=user)["affinity"][0]
    assert "engineer" in shown
    assert f"{len(small_data.ratings.filter(user_id=3))}, mean" in shown
    assert f"{max(affinity):.0%}" in shown


def test_a_user_who_is_newer_than_clusters_and_segments_is_shown(materialized_home, tmp_path):
    """Looking at a user who has just been ingested would end in a traceback."""
    home = copied(materialized_home, tmp_path / "home")
    user = table(home, "users").filter(user_id="3")["user"][0]
    for asset in ("user_clusters", "user_segments"):
        rest = table(home, asset).filter(pl.col("user") != user)
        rest.write_parquet(AssetStore(home.assets).current([asset]) / TABLE_FILE)
    shown = invoke("user", "3", "--home", home.path)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["cluster", "–"] in lines and "No segment" in shown.stdout and "Latest ratings" in shown.stdout


def test_segment_shows_size_its_items_and_who_its_users_are(materialized_home):
    """A segment is a number without a face."""
    shown = invoke("segment", "0", "--home", materialized_home.path).stdout
    size = len(table(materialized_home, "user_segments").filter(segment=0))
    listed = table(materialized_home, "segment_items").filter(segment=0)
    assert f"{size} of 60" in shown
    share = table(materialized_home, "segment_shares").filter(segment=0)["share"][0]
    assert f"{share:.1%} of the users' affinity\n" in "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
    first_lines = [line for line in shown.splitlines() if line.split()[:1] == ["1"]]
    for line, rank in zip(first_lines, ("rank", "lift_rank"), strict=True):
        assert listed.filter(pl.col(rank) == 1)["title"][0] in line
    assert "occupation" in shown


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({"previous_segment": [1, 0], "previous_share": [0.25, 0.75], "similarity": [0.9, 0.8]}, ", 25.0% before"),
        ({"previous_segment": [None, 0], "previous_share": [None, 1.0], "similarity": [None, 0.8]}, ", new"),
    ],
)
def test_segment_tells_its_share_before(materialized_home, tmp_path, before, told):
    """Whether a segment grows could be read in the report only."""
    home = copied(materialized_home, tmp_path / "home")
    shares = table(home, "segment_shares").with_columns(**{name: pl.Series(values) for name, values in before.items()})
    shares.write_parquet(AssetStore(home.assets).current(["segment_shares"]) / TABLE_FILE)
    assert f"of the users' affinity{told}" in invoke("segment", "0", "--home", home.path).stdout


def test_the_version_is_told():
    """Whoever reports a fault cannot say of which version."""
    assert re.fullmatch(r"recsys_assets \d+\.\d+\.\d+\n", invoke("--version").stdout)


def test_user_and_segment_are_there_for_programs(materialized_home):
    """An application would have to take tables for people apart."""
    user = json.loads(invoke("user", "3", "--json", "--home", materialized_home.path).stdout)
    assert user["user_id"] == "3" and set(user["attributes"]) == {"age", "gender", "occupation", "zip_code"}
    index = table(materialized_home, "users").filter(user_id="3")["user"][0]
    assert len(user["ratings"]) == len(table(materialized_home, "ratings").filter(user=index))
    assert sum(user["affinity"]) == pytest.approx(1)
    times = [rating["timestamp"] for rating in user["ratings"]]
    assert times == sorted(times, reverse=True)
    segment = json.loads(invoke("segment", "0", "--json", "--home", materialized_home.path).stdout)
    assert sum(segment["users"].values()) == len(table(materialized_home, "user_segments").filter(segment=0))
    assert segment["items"][0]["rank"] == 1


def test_a_folder_that_is_no_home_is_named_with_a_way_out(materialized_home, tmp_path):
    """A mistyped --home would look like a home that has lost everything, and hints would lead to the default home."""
    nowhere = materialized_home.path.with_name("hom")
    for command in ("status", "batches", "scores", "report"):
        refused = invoke(command, "--home", nowhere)
        assert refused.exit_code == 1 and f"There is no home at {nowhere}" in refused.stderr
        assert f"Did you mean {materialized_home.path}?" in refused.stderr
        assert f"run --home {nowhere}" in refused.stderr
    assert not nowhere.exists()
    prepared = Home(tmp_path / "home")
    prepared.prepare()
    assert f"`recsys-assets run --home {prepared.path}`" in invoke("report", "--home", prepared.path).stderr


def test_a_mistyped_home_beside_a_closed_folder_is_named():
    """Somebody would change the rights of a folder that has nothing to do with the mistake, such as lost+found."""
    with tempfile.TemporaryDirectory() as folder:
        there, closed = Home(Path(folder, "films")), Path(folder, "lost+found")
        there.prepare()
        closed.mkdir(mode=0)
        Path(folder).chmod(0o755)
        with _as_anybody(there.path):
            refused = invoke("status", "--home", Path(folder, "flims"))
        closed.chmod(0o700)
    assert refused.exit_code == 1 and f"Did you mean {there.path}?" in refused.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("user", "99"), "Nearest: "),
        (("recommend", "99"), "Nearest: "),
        (("item", "100"), "10 Romance Story 10"),
        (("item", "action stori 3"), "3 Action Story 3"),
        (("segment", "7"), "numbered 0 to 1"),
    ],
)
def test_unknown_ids_get_the_nearest_ones(materialized_home, command, told):
    """A mistyped id ends without a hint."""
    refused = invoke(*command, "--home", materialized_home.path)
    assert refused.exit_code == 1 and told in refused.stderr and refused.stdout == ""


def test_nearest_ids_are_compared_as_a_whole():
    """For a long mistyped id the single digits in it are suggested."""
    assert nearest("1234", ["1", "2", "123", "1243"], whole=True)[0] in ("1243", "123")
    assert "1" not in nearest("1234", ["1", "2", "123", "1243"], whole=True)


# What holds for all commands

READING = [
    ("scores",),
    ("recommend", "1"),
    ("export", "ratings", "out.csv"),
    ("items", "a"),
    ("item", "1"),
    ("user", "1"),
    ("segment", "0"),
]


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_what_is_not_there_yet_is_said_with_what_to_run(home, command, monkeypatch, tmp_path):
    """On a new home every look ends with a traceback."""
    monkeypatch.chdir(tmp_path)
    refused = invoke(*command, "--home", home.path)
    assert refused.exit_code == 1
    assert "recsys-assets run" in refused.stderr and "Traceback" not in refused.output


def test_unusable_settings_are_one_message(home):
    """A typing error in settings.toml ends with a traceback."""
    home.prepare()
    home.settings_file.write_text("[als]\nranks = 3\n")
    (home.landing / "mine").mkdir()
    refused = invoke("run", "--home", home.path)
    assert refused.exit_code == 1
    assert "als.ranks" in refused.stderr and "Traceback" not in refused.output


@pytest.mark.parametrize("command", ["run", "fetch", "add", "init", *(words[0] for words in READING)])
def test_every_command_explains_itself_with_an_example(command):
    """The help of a command does not say how to use it."""
    told = invoke(command, "--help")
    assert told.exit_code == 0
    assert "Example" in told.stdout and f"recsys-assets {command}" in told.stdout and "--home" in told.stdout


@pytest.mark.parametrize("command", [("--help",), ("scores",), ("user", "1"), ("recommend", "1")])
def test_looks_load_no_more_than_they_use(materialized_home, command):
    """A look into the results takes seconds for code that it does not use."""
    at_home = command if command[0] == "--help" else (*command, "--home", str(materialized_home.path))
    script = (
        "import sys\n"
        "from recsys_assets.cli import app\n"
        f"app({list(at_home)!r}, standalone_mode=False)\n"
        "sys.exit(','.join({'dagster', 'pyspark', 'sklearn'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("duration", "text"), [(0.04, "0.0 s"), (12.4, "12 s"), (185, "3 min 05 s")])
def test_durations_are_for_people(duration, text):
    """Times are shown in a unit that nobody can compare."""
    assert seconds(duration) == text


def test_the_command_to_give_next_is_for_the_same_home(tmp_path, monkeypatch):
    """Somebody who follows it would work on another home, or fetch MovieLens into an empty one."""
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "usual"))
    assert follow_up("run", Home.resolve()) == "recsys-assets run"
    source = tmp_path / "watched.csv"
    source.write_text("user_id,item_id,rating,timestamp\n1,1,4,100\n2,1,3,200\n")
    shown = invoke("add", source, "--home", tmp_path / "my films").stdout
    assert f"Next: recsys-assets run --home '{tmp_path / 'my films'}'" in shown
