"""Whole runs, compared: a second one of the same data, and one on the other engine."""

import polars as pl
import pytest

from recsys_assets.home import Home
from recsys_assets.recommender.tables import RELATIONAL, TABLES
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.running import table

pytestmark = pytest.mark.spark


def _run(small_data, folder, settings: str) -> Home:
    home = Home(folder / "home")
    home.prepare()
    home.settings_file.write_text(settings)
    assert invoke("add", small_data.write(folder / "small"), "--home", home.path).exit_code == 0
    ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    return home


def _scores(home: Home) -> pl.DataFrame:
    return table(home, "evaluation_scores").sort("protocol", "model", "population", "metric")


def test_the_same_data_gives_the_same_scores_and_recommendations(materialized_home, small_data, tmp_path):
    """Nobody could tell a better model from another throw of the dice."""
    again = _run(small_data, tmp_path, FAST_SETTINGS)
    assert _scores(again).equals(_scores(materialized_home))
    assert table(again, "recommendations").equals(table(materialized_home, "recommendations"))


def test_the_whole_pipeline_on_spark_equals_the_one_on_polars(materialized_home, small_data, tmp_path):
    """Moving to a cluster would change the training sets and the scores."""
    on_spark = _run(small_data, tmp_path, 'engine = "spark"\n' + FAST_SETTINGS)
    for name in (*RELATIONAL, "user_features", "user_clusters", "user_segments"):
        key = TABLES[name].key
        assert table(on_spark, name).sort(key).equals(table(materialized_home, name).sort(key)), name
    both = _scores(materialized_home).join(_scores(on_spark), on=["protocol", "model", "population", "metric"])
    assert len(both) == len(_scores(materialized_home))
    assert (both["value"] - both["value_right"]).abs().max() <= 0.002
