import dagster as dg
import polars as pl
import pytest

from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.partitions import CUT_OFFS
from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import RATINGS
from recsys_assets.recommender.evaluation import backtest
from recsys_assets.recommender.report import backtest_charts, charts
from recsys_assets_tests.running import copied, table

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def ratings(n: int) -> pl.DataFrame:
    """Ratings a second apart, the latest first."""
    frame = pl.DataFrame(
        {
            "user": range(n),
            "item": [0] * n,
            "rating": [3.0] * n,
            "timestamp": pl.Series(range(n, 0, -1)) * 1_000_000,
            "batch": [0] * n,
            "row": range(n),
        }
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
    return to_polars(conform(lazy(frame), RATINGS))


@pytest.mark.parametrize("n", [10, 11, 97, 1000])
def test_windows_train_on_the_past_and_tile_the_future(n):
    """Models would be scored on ratings they learnt from, or some ratings on no cut-off or on two."""
    whole = ratings(n)
    scored = []
    for cut_off in map(float, CUT_OFFS.get_partition_keys()):
        train, test = (to_polars(side) for side in backtest.window(lazy(whole), cut_off))
        assert len(train) == int(n * cut_off)
        assert train["timestamp"].max() < test["timestamp"].min()
        assert abs(len(test) - n / 10) < 1
        scored.append(test)
    tiled = pl.concat(scored)
    assert tiled["user"].n_unique() == len(tiled) == n - n // 2


def test_too_few_ratings_for_a_window_are_refused():
    """A score of nothing would be drawn as a point of the curve."""
    with pytest.raises(ValueError, match="too few for a backtest"):
        backtest.window(lazy(ratings(3)), 0.8)


def scores() -> pl.DataFrame:
    """Two models and the bounds at three cut-offs."""
    rows = [
        (cut_off, "backtest", model, "all", "rmse", value + cut_off / 10, 9, value - 0.01, value + 0.1)
        for cut_off in (0.5, 0.6, 0.7)
        for model, value in {"item_mean": 1.0, "als_adjusted": 0.9, "random": 2.0, "selected": 0.9}.items()
    ]
    columns = ["cut_off", "protocol", "model", "population", "metric", "value", "n", "low", "high"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_the_curve_shows_every_model_at_every_cut_off():
    """A model or a cut-off would be missing from the picture people judge by."""
    drawn = charts.to_svg(backtest_charts.curve(scores(), "rmse"))
    assert "Item mean" in drawn and "ALS, cold users filled in" in drawn and "Random order" not in drawn
    assert all(cut_off in drawn for cut_off in ("0.5", "0.6", "0.7"))
    with pytest.raises(ValueError, match="no top5pct_rating"):
        backtest_charts.curve(scores(), "top5pct_rating")


def test_a_backfill_of_cut_offs_is_one_run_with_their_curve(materialized_home, tmp_path):
    """Backtests would start a process per cut-off, give no scores, or no picture of them."""
    home = copied(materialized_home, tmp_path / "home")
    ratings_before = table(home, "ratings")
    job = build_defs(home=home).resolve_job_def("backtest")
    with dg.DagsterInstance.ephemeral() as instance:
        ran = job.execute_in_process(instance=instance, tags={_RANGE_START: "0.7", _RANGE_END: "0.8"})
        (event, *others) = instance.fetch_materializations(dg.AssetKey("backtest_scores"), limit=9).records
    assert ran.success
    assert {event.partition_key, *(other.partition_key for other in others)} == {"0.7", "0.8"}
    assert {"top5pct_rating", "rmse"} <= set(event.asset_materialization.metadata)
    store = AssetStore(home.assets)
    assert store.batches(["backtest_scores"]) == ["0.7", "0.8"]
    found = pl.concat(
        pl.read_parquet(store.current(["backtest_scores"], cut_off) / TABLE_FILE) for cut_off in ("0.7", "0.8")
    )
    assert set(found["model"]) >= {"item_mean", "als_unadjusted", "als_adjusted", "random", "upper_bound", "selected"}
    rows = found.filter(metric="rmse", model="item_mean", population="all").sort("cut_off")
    n = len(ratings_before)
    assert rows["n"].to_list() == [int(n * 0.8) - int(n * 0.7), int(n * 0.9) - int(n * 0.8)]
    assert rows["cut_off"].to_list() == [0.7, 0.8]


def test_backtests_are_no_part_of_the_pipeline(tmp_path):
    """`run` would fit every model five times more, or could not be launched at all."""
    from recsys_assets.home.layout import Home

    defs = build_defs(home=Home(tmp_path))
    for name, there in (("refresh", False), ("everything", False), ("backtest", True)):
        selected = defs.resolve_job_def(name).asset_layer.executable_asset_keys
        assert (dg.AssetKey("backtest_scores") in selected) == there, name
