"""Evaluation: the scores of all models on the same test rows, and the HTML report.

Metrics and intervals are in `recommender.evaluation`, the page and its charts in `recommender.report`.
"""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.home.exclusions import make_later_than_forgetting
from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.tuned_settings import study_tables
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets.common import (
    LAST,
    TABLE_KINDS,
    SettingsParam,
    pictures,
    pipeline_asset,
    plotted,
)
from recsys_assets.orchestration.assets.ingest import releases
from recsys_assets.orchestration.assets.models import CHOICE, input_name, predictions_key
from recsys_assets.orchestration.io_managers import AssetIOManager
from recsys_assets.orchestration.report_page import REPORT_PATH
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.data.frames import lazy, row_count
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.data.tables import FITTED_SHARE, SAMPLE_SHARE, SCORED_SHARE
from recsys_assets.recommender.evaluation.protocols import of_the_pipeline
from recsys_assets.recommender.evaluation.score_table import RANDOM, UPPER_BOUND, marked
from recsys_assets.recommender.evaluation.scores import all_scores
from recsys_assets.recommender.evaluation.settings import SELECTED
from recsys_assets.recommender.promotion.gate import GATE_BASELINE, Part
from recsys_assets.recommender.registry import Entry, Task
from recsys_assets.recommender.registry.fitting import Parameters, entry, parameters_of
from recsys_assets.recommender.registry.kinds import entries_of
from recsys_assets.recommender.report import charts
from recsys_assets.recommender.report.page import ReportInputs, render_page
from recsys_assets.recommender.report.verdicts import Served
from recsys_assets.recommender.tuning.quick import Choice
from recsys_assets.recommender.tuning.searches import value_of

_REPORTED_LIBRARIES = (
    "recsys_assets",
    "dagster",
    "pyspark",
    "polars",
    "narwhals",
    "scikit-learn",
    "numpy",
    "numba",
    "altair",
)
_CUT = ("train_ratings", "test_ratings")
_REPORTED = (
    *("ratings", "users", "items", "user_features", "cluster_sweep", "user_clusters"),
    *("segment_items", "user_segments", "segment_shares", "evaluation_scores"),
)
# The score that decides in each task, and the model that a model of the task has to beat.
_MAIN_SCORES: dict[Task, tuple[str, str]] = {
    "time_cut": ("top5pct_rating", "item_mean"),
    "top_n": ("ndcg_10", "popularity"),
    "latest_rating": ("r2", "item_mean"),
    "next_item": ("next_item_hit_10", "popularity"),
}
_LATEST = ("train_histories", "train_responses", "test_histories", "test_responses")


def _scores_asset(kind: DataKind) -> dg.AssetsDefinition:
    entries, protocols = entries_of(kind), of_the_pipeline(kind)
    splits = _CUT + (_LATEST if kind.times else ())

    @pipeline_asset(
        group="evaluation",
        kinds=TABLE_KINDS,
        ins={
            **{name: dg.AssetIn(name, dagster_type=nw.LazyFrame) for name in ("items", "users", *splits)},
            **{input_name(entry): dg.AssetIn(predictions_key(entry), dagster_type=nw.LazyFrame) for entry in entries},
            CHOICE: dg.AssetIn(CHOICE, dagster_type=Choice),
        },
        dagster_type=nw.LazyFrame,
        settings=("data", "evaluation", "scale"),
    )
    def evaluation_scores(
        context: dg.AssetExecutionContext,
        settings: SettingsParam,
        quick_choice: Choice,
        users: nw.LazyFrame,
        **inputs: nw.LazyFrame,
    ) -> nw.LazyFrame:
        """The scores of every model on the test rows of its task, each with a 95 % interval.

        For comparison, `random`, `item_mean` and `upper_bound` are scored on the same test rows.
        """
        predictions = {entry: inputs[input_name(entry)] for entry in entries}
        how = quick_choice.applied(settings.model_dump())["evaluation"]
        found = all_scores(inputs, predictions, protocols_of=protocols, **how)
        scores = marked(found, shares(settings, inputs["train_ratings"], users))
        context.add_output_metadata(headline(scores, kind))
        for predicted in entries:
            if told := main_score(scores, predicted):
                context.log_event(dg.AssetObservation(predictions_key(predicted), metadata=told))
        return lazy(scores)

    return evaluation_scores


def shares(settings: Settings, train_ratings: nw.LazyFrame, users: nw.LazyFrame) -> dict[str, float]:
    """The shares that scores rest on, by column of the score table."""
    scale = Scale.of(settings.model_dump())
    sample = {SAMPLE_SHARE: settings.data.sample.share}
    return sample | scale.shares(n_ratings=row_count(train_ratings), n_users=row_count(users))


def headline(scores: pl.DataFrame, kind: DataKind = RATINGS_WITH_TIMES) -> dict[str, Any]:
    """Metadata of the scores: the numbers that the UI plots over materializations, and the charts."""
    chosen = scores.filter(pl.col("model") == "selected", pl.col("population").is_in(["all", "test_users"]))
    numbers = {
        f"{row['protocol']} {row['metric']} ({row['population']})": plotted(row["value"])
        for row in chosen.iter_rows(named=True)
        if row["metric"] in ("top5pct_rating", "rmse", "ndcg_10", "r2", "next_item_hit_10")
    }
    shown = {
        "rating of the top 5 %": ("time_cut", "top5pct_rating"),
        "NDCG at 10": ("top_n", "ndcg_10"),
        "R² of the latest rating": ("latest_rating", "r2"),
    }
    named = (SAMPLE_SHARE, FITTED_SHARE, SCORED_SHARE)
    sample = {name: f"{scores[name][0]:.1%}" for name in named if name in scores.columns}
    drawn: dict[str, Any] = {}
    for title, (protocol, metric) in shown.items():
        # R² is undefined if all ratings are equal. The table then has no rows of this metric to draw.
        if len(scores.filter(protocol=protocol, metric=metric)):
            drawn |= pictures(title, charts.scores, lazy(scores), protocol, metric, kind)
    return sample | numbers | drawn


def main_score(scores: pl.DataFrame, predicted: Entry) -> dict[str, float]:
    """The main score of a model's task, beside the baseline, random and the best possible score on the same rows."""
    metric, baseline = _MAIN_SCORES[predicted.task]
    protocol = "latest_rating" if predicted.task == "next_item" else predicted.task
    rows = scores.filter(pl.col("population").is_in(["all", "test_users"]), protocol=protocol, metric=metric)
    values = dict(rows.select("model", "value").iter_rows())
    shown = {
        metric: predicted.name,
        f"{metric} of {baseline}": baseline,
        "random": RANDOM,
        "best possible": UPPER_BOUND,
    }
    return {label: plotted(values[model]) for label, model in shown.items() if model in values}


def _report_asset(kind: DataKind) -> dg.AssetsDefinition:
    tables = [*_REPORTED, *([] if kind.is_events else ["segment_ratings"])]

    # The report reads the record of promotions, which `promoted_configuration` writes: hence `deps` and no input.
    @pipeline_asset(
        group="evaluation",
        kinds={"html"},
        op_tags=LAST,
        deps=["promoted_configuration"],
        ins={
            **{name: dg.AssetIn(name, dagster_type=nw.LazyFrame) for name in tables},
            CHOICE: dg.AssetIn(CHOICE, dagster_type=Choice),
        },
    )
    def evaluation_report(
        context: dg.AssetExecutionContext,
        rejected_rows: dict[str, nw.LazyFrame],
        quick_choice: Choice,
        settings: SettingsParam,
        home: HomeResource,
        io_manager: dg.ResourceParam[AssetIOManager],
        **shown: nw.LazyFrame,
    ) -> dg.MaterializeResult:
        """The HTML report at `report/index.html` in the home: one file that opens offline."""
        is_movielens = any(release for _, release in releases(context.instance))
        chosen = quick_choice.applied(settings.model_dump())
        contents: dict[str, Any] = dict(shown)
        page = render_page(
            ReportInputs(
                **contents,
                rejected_rows=nw.concat(list(rejected_rows.values())),
                kind=kind,
                settings=settings.model_dump(),
                versions={name: version(name) for name in _REPORTED_LIBRARIES},
                generated=datetime.now(UTC),
                # The tables of the study are no input of this asset, because a refresh must not wait for a study.
                study=study_tables(io_manager.store),
                served=_served(Promotions(home.folders.promotions), io_manager.store, chosen),
                selected={task: value_of(chosen, setting) for task, setting in SELECTED.items()},
                is_movielens=is_movielens,
                item_noun=settings.data.noun(is_movielens=is_movielens),
                feedback_noun=settings.data.feedback_noun(kind),
            ),
            warn=context.log.warning,
        )
        path = home.folders.report
        write_atomically(path, page.encode())
        make_later_than_forgetting(home.folders, path)
        context.log.info(f"Report: {path}")
        # Browsers open no file from a page. `serve` shows the report of the home that it serves, also of a copied one.
        facts: dict[str, Any] = {
            "open while `serve` runs": dg.MetadataValue.url(REPORT_PATH),
            "file": dg.MetadataValue.path(path),
        }
        return dg.MaterializeResult(metadata=facts)

    return evaluation_report


def _served(record: Promotions, store: AssetStore, parameters: Parameters) -> Served | None:
    """The ranking model in use, its date of promotion, and its score beside popularity at that promotion."""
    in_use = record.current()
    if in_use is None:
        return None
    contest = next((each for each in in_use.contests if each.opponent == GATE_BASELINE.name), None)
    part = in_use.configuration.ranking
    return Served(
        model=part.model,
        since=datetime.fromisoformat(in_use.when).date(),
        is_scored=part.can_be_fitted("top_n")
        and Part(part.model, parameters_of(entry("top_n", part.model), parameters)) == part,
        is_rolled_back=in_use.verdict == "rolled back",
        score=contest.score if contest else None,
        popularity=contest.opponent_score if contest else None,
        instead_of=record.not_served(store),
    )


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The scores and the report of a kind of data."""
    return [_scores_asset(kind), _report_asset(kind)]
