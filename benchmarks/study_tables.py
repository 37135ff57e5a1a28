"""The tables of docs/reference/results.md, from what a home holds, as Markdown.

Usage: python benchmarks/study_tables.py [--home HOME] after `recsys-assets run` (the built-in settings) or
`recsys-assets study` (what it chose).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys_assets.home.layout import Home
from recsys_assets.home.tuned_settings import study_tables
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.evaluation.protocols import COLD_USERS, LEAKAGE_AUDIT, NEW_USERS, TOP_N_LEAKAGE_AUDIT
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.study_section import OPPONENTS, SIGNIFICANT, Result, StudySection, StudyTables

_POPULATIONS = ("all", "seen", "unseen")
_PARTITIONS = ("train_users", "test_users")
# What the selected model is held against, the strongest of each.
_BASELINES = (OPPONENTS, ("als_adjusted",))


def main() -> None:
    """Print those tables for which there is something."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--home", type=Path)
    store = AssetStore(Home.resolve(options.parse_args().home).assets)
    scores = to_polars(scan(store.current(["evaluation_scores"])))
    of_models(scores, "time_cut", {"top5pct_rating": _POPULATIONS, "rmse": _POPULATIONS})
    of_models(scores, "top_n", {"ndcg_10": _POPULATIONS})
    of_models(scores, "latest_rating", {"r2": _PARTITIONS})
    of_models(scores, "latest_rating", {"next_item_hit_10": _PARTITIONS})
    study = study_tables(store)
    if study is None:
        return
    of_results(study)
    of_protocols(study.scores, [*NEW_USERS, COLD_USERS], "rmse")
    of_protocols(study.scores, LEAKAGE_AUDIT, "rmse")
    of_protocols(study.scores, TOP_N_LEAKAGE_AUDIT, "ndcg_10")
    of_segments(study.sweep)


def of_models(scores: pl.DataFrame, protocol: str, metrics: dict[str, Sequence[str]]) -> None:
    """A row per model, a column per metric with its value in each population."""
    own = scores.filter(pl.col("model") != "selected", protocol=protocol)
    rows = []
    for model in labels.ordered(own["model"], labels.MODELS):
        cells = [_values(own.filter(model=model, metric=metric), of) for metric, of in metrics.items()]
        if any(cells):
            rows.append([model, *cells])
    _print([f"`{protocol}`", *(f"{metric} {' / '.join(of)}" for metric, of in metrics.items())], rows)


def _values(scores: pl.DataFrame, populations: Sequence[str]) -> str:
    found = dict(scores.select("population", "value").iter_rows())
    return " / ".join(f"{found[name]:.3f}" if name in found else "–" for name in populations) if found else ""


def of_results(study: StudyTables) -> None:
    """What validation chose, on the test rows of each protocol, beside the baseline and case study A's repair."""
    rows = [
        [
            f"`{result.protocol}`, {labels.metric(result.metric).label}, {result.population}",
            *(result.model, result.value, result.over_seeds or "–", result.interval),
            *(_improvement(study.tests, result, baselines) for baselines in _BASELINES),
        ]
        for result in StudySection(study).results
    ]
    names = ("chosen", "value", "± over seeds", "95 % interval", *(" or ".join(of) for of in _BASELINES))
    _print(["protocol, score, users", *names], rows)


def _improvement(tests: pl.DataFrame, result: Result, baselines: Sequence[str]) -> str:
    """By how much the selected model is better than the strongest of these."""
    asked = {"protocol": result.protocol, "metric": result.metric, "population": result.population}
    tested = tests.filter(pl.col("baseline").is_in(baselines), model="selected", **asked)
    return " ".join(
        f"{row['improvement']:+.3f} ({row['low']:.3f} to {row['high']:.3f})"
        f"{', may be chance' if row['p_holm'] >= SIGNIFICANT else ''}"
        for row in tested.sort("improvement").head(1).iter_rows(named=True)
    )


def of_protocols(scores: pl.DataFrame, protocols: Sequence[str], metric: str) -> None:
    """A row per model, a column per protocol; of all users."""
    own = scores.filter(pl.col("protocol").is_in(protocols), metric=metric, population="all")
    there = [name for name in protocols if name in set(own["protocol"])]
    rows = []
    for model in labels.ordered(own["model"], labels.MODELS):
        values = dict(own.filter(model=model).select("protocol", "value").iter_rows())
        rows.append([model, *(f"{values[name]:.3f}" if name in values else "–" for name in there)])
    _print([metric, *there], rows)


def of_segments(sweep: pl.DataFrame) -> None:
    """A row per number of segments, a column per model and metric."""
    if sweep.is_empty():
        return
    columns = sweep.select("metric", "model").unique().sort("metric", "model").rows()
    rows = []
    for (number,), of_number in sweep.group_by("n_segments", maintain_order=True):
        values = {
            (metric, model): value for metric, model, value in of_number.select("metric", "model", "value").rows()
        }
        rows.append([str(number), *(labels.metric(metric).shown(values[metric, model]) for metric, model in columns)])
    _print(["segments", *(f"{metric} {model}" for metric, model in columns)], rows)


def _print(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        lines = [names, ["---"] * len(names), *rows]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")


if __name__ == "__main__":
    main()
