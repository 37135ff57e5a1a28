"""The same data on the other engine. A second run in another home is compared in test_faults, after many deaths."""

import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.recommender.data.tables import RELATIONAL, TABLES
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.running import copied, materialize, table
from recsys_assets_tests.test_events import plays

PER_USER = ("user_features", "user_clusters", "user_segments", "recommendations")
EVERYTHING = """
(key:users+ or key:items+ or key:ratings+) and not (group:study or key:backtest_scores or key:evaluation_report)
"""

pytestmark = pytest.mark.spark


def _on_spark(home: Home, selection: str, settings: str) -> None:
    """Materialize on the other engine, and compare the tables."""
    before = {name: table(home, name) for name in (*RELATIONAL, *PER_USER)}
    home.settings_file.write_text(settings + home.settings_file.read_text())
    assert materialize(home, selection).success
    for name, on_polars in before.items():
        key = TABLES[name].key
        assert table(home, name).sort(key).equals(on_polars.sort(key)), name


@pytest.mark.slow
def test_tables_of_the_pipeline_are_the_same_on_spark(materialized_home, tmp_path):
    """Growing beyond one machine would change the training sets, or somebody's list."""
    home = copied(materialized_home, tmp_path / "home")
    _on_spark(home, " or ".join(f"key:{name}" for name in (*RELATIONAL, *PER_USER)), "[scale]\nspark_from_rows = 300\n")
    # Spark writes a folder, Polars a file: a small table stays with Polars.
    is_on_spark = {
        name: (AssetStore(home.assets).current([name]) / TABLE_FILE).is_dir()
        for name in ("train_ratings", "recommendations", "user_clusters")
    }
    assert is_on_spark == {"train_ratings": True, "recommendations": True, "user_clusters": False}


@pytest.mark.slow
def test_scores_of_the_pipeline_are_the_same_on_spark(materialized_home, tmp_path):
    """Moving to a cluster would change the models, or a model could not be fitted there at all."""
    home = copied(materialized_home, tmp_path / "home")
    _on_spark(home, EVERYTHING.strip(), 'engine = "spark"\n')
    scores = [table(of, "evaluation_scores") for of in (materialized_home, home)]
    both = scores[0].join(scores[1], on=["protocol", "model", "population", "metric"])
    assert len(both) == len(scores[0]) == len(scores[1])
    assert (both["value"] - both["value_right"]).abs().max() <= 0.002


@pytest.mark.slow
def test_events_are_the_same_on_spark(tmp_path):
    """Plays on a cluster would have other weights, training rows or lists than on one machine, or no run at all."""
    plays(n_users=60, n_items=40).write_csv(tmp_path / "plays.csv")
    homes = [Home(tmp_path / engine) for engine in ("polars", "spark")]
    for home in homes:
        home.prepare()
        home.settings_file.write_text(f'engine = "{home.path.name}"\n' + FAST_SETTINGS)
        for command in (("add", tmp_path / "plays.csv"), ("run",)):
            done = invoke(*command, "--home", home.path)
            assert done.exit_code == 0, done.output
    stores = [AssetStore(home.assets) for home in homes]
    names = [name for name in (*RELATIONAL, *PER_USER) if stores[0].has([name])]
    assert {"ratings", "train_ratings", "test_ratings", "recommendations"} <= {*names}
    assert [(store.current(["ratings"]) / TABLE_FILE).is_dir() for store in stores] == [False, True]
    for name in names:
        on_polars, on_spark = (table(home, name).sort(TABLES[name].key) for home in homes)
        assert on_spark.equals(on_polars), name
