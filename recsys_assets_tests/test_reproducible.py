"""The same data on the other engine. A second run in another home is compared in test_faults, after many deaths."""

import pytest

from recsys_assets.recommender.tables import RELATIONAL, TABLES
from recsys_assets_tests.running import copied, materialize, table

FROM_THE_BATCHES_ON = """
(key:users+ or key:movies+ or key:ratings+) and not (group:study or key:backtest_scores or key:evaluation_report)
"""


@pytest.mark.spark
def test_the_pipeline_on_spark_equals_the_one_on_polars(materialized_home, tmp_path):
    """Moving to a cluster would change the training sets and the scores."""
    on_spark = copied(materialized_home, tmp_path / "home")
    on_spark.settings_file.write_text('engine = "spark"\n' + on_spark.settings_file.read_text())
    materialize(on_spark, FROM_THE_BATCHES_ON.strip())
    for name in (*RELATIONAL, "user_features", "user_clusters", "user_segments"):
        key = TABLES[name].key
        assert table(on_spark, name).sort(key).equals(table(materialized_home, name).sort(key)), name
    scores = [table(home, "evaluation_scores") for home in (materialized_home, on_spark)]
    both = scores[0].join(scores[1], on=["protocol", "model", "population", "metric"])
    assert len(both) == len(scores[0]) == len(scores[1])
    assert (both["value"] - both["value_right"]).abs().max() <= 0.002
