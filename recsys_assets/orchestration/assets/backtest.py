"""Backtest: scores at several cut-offs in time, one partition per cut-off.

A backtest runs on request; it is not part of `refresh`. The method is in `recommender.evaluation.backtest`.
"""

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.home.versions import scan
from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pictures, pipeline_asset
from recsys_assets.orchestration.assets.evaluation import shares
from recsys_assets.orchestration.io_managers import AssetIOManager
from recsys_assets.orchestration.partitions import CUT_OFFS
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.evaluation import backtest
from recsys_assets.recommender.evaluation.protocols import exists_for
from recsys_assets.recommender.evaluation.score_table import marked
from recsys_assets.recommender.report import backtest_charts


@pipeline_asset(
    group="backtest",
    kinds=TABLE_KINDS,
    partitions_def=CUT_OFFS,
    settings=("data", "evaluation", "scale"),
    fits_models=True,
)
def backtest_scores(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    ratings: nw.LazyFrame,
    user_features: nw.LazyFrame,
    settings: SettingsParam,
    io_manager: dg.ResourceParam[AssetIOManager],
) -> dict[str, nw.LazyFrame]:
    """Scores of every rating model at each cut-off in time.

    A model is trained on the ratings before the cut-off and scored on the next tenth of all ratings. The chart shows
    whether a model beats its baseline at every cut-off, or only at the cut that `evaluation_scores` reports. It also
    shows the stored scores of cut-offs that this run does not compute.
    """
    scores = {}
    for cut_off in context.partition_keys:
        context.log.info(f"Backtest from {cut_off}")
        scores[cut_off] = backtest.backtest(
            users,
            items,
            ratings,
            user_features,
            float(cut_off),
            settings.model_dump(),
            selected=settings.evaluation.selected_rating_model,
            seed=settings.evaluation.seed,
            n_resamples=settings.evaluation.n_resamples,
        )
    everything = pl.concat([*_others(io_manager, set(scores)), *scores.values()], how="diagonal")
    curves = {
        name: curve
        for metric in ("top5pct_rating", "rmse")
        for name, curve in pictures(metric, backtest_charts.curve, everything, metric).items()
    }
    for cut_off in scores:
        context.add_asset_metadata(curves, asset_key=context.asset_key, partition_key=cut_off)
    of = shares(settings, ratings, users)
    return {cut_off: lazy(marked(rows, of)) for cut_off, rows in scores.items()}


def _others(io_manager: AssetIOManager, made: set[str]) -> list[pl.DataFrame]:
    """The stored scores of the cut-offs that this run does not compute."""
    asset = ["backtest_scores"]
    cut_offs = [cut_off for cut_off in io_manager.store.batches(asset) if cut_off not in made]
    return [to_polars(scan(io_manager.store.current(asset, cut_off))) for cut_off in cut_offs]


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The backtest of rating models, which needs ratings with times."""
    return [backtest_scores] if exists_for(kind, "time_cut") and kind.times else []
