import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from recsys_assets.cli.reader import Reader
from recsys_assets.home.data_kind import keep_kind, kept_kind, known_kind
from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.build import build_defs
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.made_up import made_up

WITHOUT = DataKind(times=False)
TIMED = "user_id,item_id,rating,timestamp\na,m,3,978300760\nb,m,4,978300761\n"
BARE = "user_id,item_id,rating\na,m,3\n"


@pytest.fixture
def home(tmp_path) -> Home:
    """An empty home."""
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def _read(path: Path, scratch: Path, **rules):
    return read_source(path, scratch=scratch / "scratch", **rules)


def _graph(home: Home):
    return build_defs(home=home, settings=Settings()).get_repository_def().asset_graph


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.jsonl"])
def test_ratings_without_a_column_of_times_are_read(tmp_path, name):
    """Half of the public data sets would be refused whole, because they have no times."""
    table, path = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["m", "n"], "rating": [1.0, 5.0]}), tmp_path / name
    {
        "a.csv": table.write_csv,
        "a.tsv": lambda file: table.write_csv(file, separator="\t"),
        "a.parquet": table.write_parquet,
        "a.jsonl": table.write_ndjson,
    }[name](path)
    tables = _read(path, tmp_path)
    assert tables.kind == WITHOUT
    rows = tables.ratings.collect()
    assert rows.select("user_id", "item_id", "rating").rows() == table.rows()
    assert rows["timestamp"].n_unique() == 1
    assert tables.rejected.collect().is_empty()


def test_times_that_are_not_wanted_are_not_read(tmp_path):
    """Whoever has times that mean nothing, such as the day of an export, could not leave them out."""
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,rating,timestamp\na,m,3,yesterday\n")
    tables = _read(path, tmp_path, ignore=("timestamp",))
    assert tables.kind == WITHOUT
    assert tables.ratings.collect()["rating"].to_list() == [3]


def test_a_row_without_a_time_among_others_with_times_is_rejected(tmp_path):
    """A missing time would count as the oldest one, and the rating as the user's first."""
    path = tmp_path / "a.csv"
    path.write_text(TIMED + "c,m,5,\n")
    tables = _read(path, tmp_path)
    assert tables.kind == DataKind()
    assert tables.rejected.collect()["reason"].to_list() == ["time is missing or not a number"]


def test_files_with_and_without_times_are_not_one_source(tmp_path):
    """Ratings without times would count as the oldest ones, unseen."""
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "a.csv").write_text(TIMED)
    (folder / "b.csv").write_text(BARE)
    with pytest.raises(SourceError, match=r"with times \(a\.csv\) and without \(b\.csv\)"):
        _read(folder, tmp_path)


def test_the_first_batch_tells_the_kind_of_a_home(home):
    """A batch of another kind would be merged, and all its ratings count as the oldest or the latest ones."""
    assert known_kind(home, DataSettings()) is None
    (home.landing / "a.csv").write_text(BARE)
    assert known_kind(home, DataSettings()) == WITHOUT
    (home.landing / "a.csv").write_text(TIMED)
    assert known_kind(home, DataSettings()) == DataKind()


def test_the_kind_of_a_home_is_kept_as_long_as_a_batch_is_read(home):
    """The kind would follow the next file that lands, or stay that of batches that are gone."""
    folder = AssetStore(home.assets).folder(["rejected_rows"], "a.csv") / "current"
    folder.mkdir(parents=True)
    keep_kind(home, WITHOUT)
    (home.landing / "b.csv").write_text(TIMED)
    assert known_kind(home, DataSettings()) == WITHOUT
    folder.rmdir()
    assert known_kind(home, DataSettings()) == DataKind()
    keep_kind(home, DataKind())
    assert kept_kind(home) == DataKind()


def test_a_damaged_kind_is_named(home):
    """A home whose file was cut short would end in an error that names no file."""
    home.kind.write_text('{"tim')
    with pytest.raises(HomeError, match=r"kind\.json"):
        kept_kind(home)


def test_a_batch_of_another_kind_is_refused_with_the_way_out(home, tmp_path):
    """The person would not learn why the file is refused, nor that one line of settings reads it."""
    (home.landing / "a.csv").write_text(BARE)
    timed, bare = tmp_path / "timed.csv", tmp_path / "bare.csv"
    timed.write_text(TIMED)
    bare.write_text(BARE)
    for arguments in (("add", timed), ("add", "--check", timed)):
        refused = invoke(*arguments, "--home", home.path)
        assert refused.exit_code == 1
        assert 'ignore = ["timestamp"]' in refused.output
    home.settings_file.write_text('[data]\nignore = ["timestamp"]\n')
    assert invoke("add", timed, "--home", home.path).exit_code == 0
    home.settings_file.write_text("")
    for path in home.landing.iterdir():
        path.unlink()
    (home.landing / "a.csv").write_text(TIMED)
    refused = invoke("add", bare, "--home", home.path)
    assert refused.exit_code == 1
    assert "no times" in refused.output


def test_without_times_the_graph_has_nothing_that_needs_an_order(home):
    """A person would be shown latest ratings and next items that were drawn at random."""
    whole = {key.to_user_string() for key in _graph(home).get_all_asset_keys()}
    (home.landing / "a.csv").write_text(BARE)
    graph = _graph(home)
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert keys < whole
    assert all(set(graph.get(key).parent_keys) <= graph.get_all_asset_keys() for key in graph.get_all_asset_keys())
    assert {"backtest_scores", "test_responses", "transition_model", "segment_sweep"} <= whole - keys
    assert not any(key.startswith(("predictions/latest_rating", "predictions/next_item")) for key in keys)
    assert {"evaluation_scores", "evaluation_report", "segment_shares", "recommendations", "study_scores"} <= keys


def test_without_times_every_job_can_be_made(home):
    """`dg dev` would not load the code location of such a home."""
    (home.landing / "a.csv").write_text(BARE)
    defs = build_defs(home=home, settings=Settings())
    names = {job.name for job in defs.get_repository_def().get_all_jobs()} - {"__ASSET_JOB"}
    assert names == {"ingest", "recommend", "refresh_served", "refresh", "everything", "study"}


def test_a_graph_of_another_kind_starts_no_run(home):
    """Under `serve`, a run of the old graph would fail at steps that the new one does not have."""
    repository = build_defs(home=home, settings=Settings()).get_repository_def()
    (home.landing / "a.csv").write_text(BARE)
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("landing_sensor", "retrain_sensor"):
            context = dg.build_sensor_context(instance=instance, repository_def=repository)
            skipped = repository.get_sensor_def(name).evaluate_tick(context)
            assert "another kind" in skipped.skip_message


@pytest.mark.slow
def test_ratings_without_times_run_end_to_end(home, tmp_path):
    """Whoever has no times would get no lists, no scores or no report, or scores that pretend to know the time."""
    data, folder = made_up(), tmp_path / "bare"
    folder.mkdir()
    data.ratings.drop("timestamp").write_csv(folder / "ratings.csv")
    data.users.write_csv(folder / "users.csv")
    home.settings_file.write_text(FAST_SETTINGS)
    assert invoke("add", folder, "--home", home.path).exit_code == 0
    ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    assert "Without times" in ran.output
    assert not [task for task in ("predictions/latest_rating", "predictions/next_item") if task in ran.output]
    assert json.loads(home.kind.read_text()) == WITHOUT.content
    scores = Reader(home).table("evaluation_scores").collect()
    assert set(scores["protocol"]) == {"time_cut", "top_n"}
    page = home.report.read_text()
    assert "Rating prediction on a random split" in page
    assert "after a cut in time" not in page
    shown = invoke("recommend", "1", "--home", home.path)
    assert shown.exit_code == 0, shown.output
    assert "Without times" in invoke("scores", "--home", home.path).output
    studied = invoke("study", "--protocols", "top_n", "--searches", "blend", "--budget", "1", "--home", home.path)
    assert studied.exit_code == 0, studied.output
    refused = invoke("study", "--protocols", "latest_rating", "--home", home.path)
    assert refused.exit_code == 1
