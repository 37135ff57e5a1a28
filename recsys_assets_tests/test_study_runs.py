import json
import shutil

import dagster as dg
import polars as pl
import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.orchestration.assets.study import newest_scores
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.partitions import PROTOCOL_PARTITIONS
from recsys_assets.recommender.tuning import tuning
from recsys_assets.recommender.tuning.scoring import KeptScores, ProtocolScores
from recsys_assets.recommender.tuning.searches import HITS_ASIDE, RMSE, Search
from recsys_assets.recommender.tuning.validation_splits import PROTOCOLS
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.running import copied, materialize, table

FEW = (
    Search(
        "rating_model",
        "time_cut",
        "",
        {"evaluation.selected_rating_model": ("als_adjusted", "item_mean")},
        RMSE,
        is_exhaustive=True,
    ),
    Search("segments", "next_item", "segment_list", {"segments.n_segments": (2, 3)}, HITS_ASIDE),
)


def test_a_study_is_no_part_of_the_pipeline(tmp_path):
    """Every refresh would take as long as a study, or could not be launched at all."""
    defs = build_defs(home=Home(tmp_path), settings=Settings())
    group = {
        "published_folds",
        "study_trials",
        "tuned_settings",
        "study_scores",
        "user_scores",
        "paired_tests",
        "leakage_audit",
        "segment_sweep",
    }
    for name, there in (("refresh", False), ("everything", False), ("backtest", False), ("study", True)):
        selected = {key.to_user_string() for key in defs.resolve_job_def(name).asset_layer.executable_asset_keys}
        assert (selected & group == group) if there else not selected & group, name
    graph = defs.get_repository_def().asset_graph
    assert all(graph.get(dg.AssetKey(name)).automation_condition is None for name in group)
    assert PROTOCOL_PARTITIONS.get_partition_keys() == list(PROTOCOLS)


def test_unknown_names_are_refused_before_anything_runs(tmp_path):
    """A typing error would cost the time until a study ends without the search that was meant."""
    home = Home(tmp_path / "home")
    home.prepare()
    for option, value, hint in (("--searches", "alss", "als"), ("--protocols", "time_cut_06", "time_cut_0.6")):
        refused = invoke("study", option, value, "--home", home.path)
        assert refused.exit_code == 1 and value in refused.output and hint in refused.output


def test_a_home_without_ratings_is_told_what_to_do(tmp_path):
    """Somebody's first command would end in a traceback."""
    refused = invoke("study", "--home", tmp_path)
    assert refused.exit_code == 1 and "recsys-assets run" in refused.output


@pytest.mark.slow
def test_splits_that_the_data_came_without_are_told(materialized_home, tmp_path):
    """Somebody would look for scores of published folds that nothing was computed for."""
    home = copied(materialized_home, tmp_path / "home")
    ran = invoke("study", "--protocols", "u1,u2", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    assert "Not studied: u1, u2." in ran.stdout and "Scores:" not in ran.stdout


def test_splits_of_batches_that_were_not_read_are_not_studied(materialized_home, tmp_path):
    """A study would end at a file that `run` has refused, or take the users of another release for its own."""
    home = copied(materialized_home, tmp_path / "home")
    (home.landing / "broken.zip").write_bytes(b"PK")
    (home.landing / "other").mkdir()
    for name in (f"u{number}.{ending}" for number in range(1, 6) for ending in ("base", "test")):
        (home.landing / "other" / name).write_text("1\t1\t5\t881250949\n")
    assert materialize(home, "key:published_folds").success
    assert table(home, "published_folds").is_empty()


def test_scores_of_a_protocol_that_was_possible_once_are_not_shown(materialized_home, tmp_path):
    """After its folds were erased, scores of each user would be shown with the ids of others."""
    home = copied(materialized_home, tmp_path / "home")
    tables = {name: pl.DataFrame({"user": [1]}) for name in ("scores", "user_scores", "paired_tests")}
    kept = KeptScores(home.study / "scores")
    kept.of("u1", "key", lambda: ProtocolScores(**tables))
    store = AssetStore(home.assets)
    for n_rows in (1, 0):
        version = store.new_version(["study_scores"], "u1", "made")
        tables["scores"].head(n_rows).write_parquet(version / TABLE_FILE)
        store.switch(version)
        assert (newest_scores(home, "u1") is None) == (n_rows == 0)


def test_a_study_waits_for_the_features_of_new_users(materialized_home, tmp_path):
    """Every trial would be refused for arrays of different lengths."""
    home = copied(materialized_home, tmp_path / "home")
    features = AssetStore(home.assets).current(["user_features"]) / TABLE_FILE
    pl.read_parquet(features).head(3).write_parquet(features)
    refused = invoke("study", "--home", home.path)
    assert refused.exit_code == 1 and "New users were ingested after the last refresh" in refused.stderr


@pytest.mark.slow
def test_protocols_that_nobody_has_rated_enough_for_do_not_end_a_study(materialized_home, tmp_path):
    """Nothing would be chosen for a catalogue whose users have rated few items; or the next commands name no home."""
    home = copied(materialized_home, tmp_path / "home")
    store = AssetStore(home.assets)
    few = table(home, "ratings").group_by("user", maintain_order=True).head(15)
    few.write_parquet(store.current(["ratings"]) / TABLE_FILE)
    # As in a home whose ratings case study B cannot use.
    shutil.rmtree(store.folder(["evaluation_scores"]))
    ran = invoke("study", "--protocols", "new_users_20,leave_last_out", "--budget", "1", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    assert "Not studied: new_users_20. The data have no test rows for this." in ran.stdout
    assert f"Scores: recsys-assets scores --study --home {home.path}" in ran.stdout and "Report:" not in ran.stdout
    scored = (
        pl.read_parquet(store.current(["study_scores"], name) / TABLE_FILE)
        for name in ("new_users_20", "leave_last_out")
    )
    assert [rows.is_empty() for rows in scored] == [True, False]


@pytest.mark.slow
def test_a_study_chooses_scores_reports_and_is_not_done_twice(materialized_home, tmp_path, monkeypatch):
    """The command would choose nothing, show nothing, or fit everything again when it is called again."""
    monkeypatch.setattr(tuning, "SEARCHES", FEW)
    home = copied(materialized_home, tmp_path / "home")
    home.settings_file.write_text(home.settings_file.read_text() + "\n[study]\nn_seeds = 2\n")
    ran = invoke("study", "--protocols", "time_cut,latest_rating", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    choices = dict(table(home, "tuned_settings").select("setting", "chosen").iter_rows())
    assert set(choices) == {"evaluation.selected_rating_model", "segments.n_segments"}
    assert home.tuned_file.exists()
    # FAST_SETTINGS of the home say 2, whatever the study chose.
    assert Settings.load(home).segments.n_segments == 2
    store = AssetStore(home.assets)
    for asset in ("study_trials", "study_scores", "user_scores", "paired_tests"):
        assert store.batches([asset]) == ["latest_rating", "time_cut"], asset
    scores = pl.read_parquet(store.current(["study_scores"], "time_cut") / TABLE_FILE)
    assert {"selected", "random", "upper_bound", "item_mean", "als_adjusted"} <= set(scores["model"])
    assert 'id="study"' in home.report.read_text()
    shown = invoke("scores", "--study", "--home", home.path).stdout
    assert "time_cut" in shown and "next_item" not in shown and shown.count("latest_rating") > 1
    rows = json.loads(invoke("scores", "--study", "--json", "--home", home.path).stdout)
    assert {row["protocol"] for row in rows} == {"time_cut", "latest_rating"}
    assert {row["seeds"] for row in rows} == {2} and all(row["seed_sd"] >= 0 for row in rows)
    assert any(row["seed_sd"] for row in rows if row["model"] == "als_adjusted")
    assert not any(row["seed_sd"] for row in rows if row["model"] in ("item_mean", "upper_bound"))
    assert "over seeds" in home.report.read_text()
    trials = list((home.study / "trials").glob("*/*.json"))
    before = {path: path.stat().st_mtime_ns for path in home.study.rglob("*.*") if path.is_file()}
    tables = (store.current(["study_trials"], protocol) / TABLE_FILE for protocol in ("latest_rating", "time_cut"))
    assert len(trials) == sum(len(pl.read_parquet(file)) for file in tables) > 0
    again = invoke("study", "--protocols", "time_cut,latest_rating", "--home", home.path)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in home.study.rglob("*.*") if path.is_file()} == before


def test_a_report_without_a_study_says_nothing_of_it(materialized_home):
    """Readers would be told of a comparison that was never made."""
    assert 'id="study"' not in materialized_home.report.read_text()
    refused = invoke("scores", "--study", "--home", materialized_home.path)
    assert refused.exit_code == 1 and "recsys-assets study" in refused.stderr
