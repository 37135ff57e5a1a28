"""What fitting on a sample of the users costs: the main score of each model by the share of the users fitted on.

The users that are scored are the same in every row, and their training ratings are in every sample: no share can be
smaller than that of the scored users. Item means and popularity are computed from all ratings, whatever the share.

Usage: python benchmarks/fit_share.py SOURCE [--shares 10 25 50 100] [--scored 0.1] [--without MODEL …]
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
from catalogue import indexed

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy, row_count
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.registry.fitting import ModelFitter, entry

# Protocol, task, metric, population and models of each group of columns.
SCORED = (
    (
        *("time_cut", "time_cut", "rmse", "all"),
        ("item_mean", "als_adjusted", "bayesian_factors", "profile_factors", "stack"),
    ),
    ("top_n", "top_n", "ndcg_10", "all", ("popularity", "implicit_als", "item_knn", "ease", "blend")),
    ("latest_rating", "latest_rating", "rmse", "test_users", ("item_mean", "segment_bias", "response_stack")),
    ("latest_rating", "next_item", "next_item_hit_10", "test_users", ("segment_mixture", "transitions", "sessions")),
)


def main() -> None:
    """Print a row per model, and a column per share of the users."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("source", type=Path)
    asked.add_argument("--shares", type=int, nargs="+", default=[10, 25, 50, 100], help="percent of the users")
    asked.add_argument("--scored", type=float, default=0.1, help="share of the users that is scored")
    asked.add_argument("--without", nargs="+", default=[], metavar="MODEL", help="models that are left out")
    given = asked.parse_args()
    if min(given.shares) < round(100 * given.scored, 6):
        asked.error("a share is smaller than --scored, and all scored users are fitted on")
    with tempfile.TemporaryDirectory() as folder:
        tables = indexed(given.source, Path(folder))
        tables["user_features"] = lazy(clusters.user_features(tables["users"]))
        scored = [(*names, [model for model in of if model not in given.without]) for *names, of in SCORED]
        scored = [each for each in scored if each[-1]]
        shares = sorted(given.shares)
        found = []
        for share in shares:
            found.append(scores(tables, scored, share / 100, given.scored))
            print(f"{share} %: {', '.join(found[-1])}", file=sys.stderr)
    print(
        f"| task, metric | model | {' | '.join(f'{share} %' for share in shares)} |\n"
        + "|---" * (2 + len(shares))
        + "|"
    )
    models = [(task, metric, model) for _, task, metric, _, of in scored for model in of]
    for (task, metric, model), *values in zip(models, *found, strict=True):
        print(f"| `{task}`, {metric} | {model} | {' | '.join(values)} |")


def scores(
    tables: Mapping[str, nw.LazyFrame], columns: Iterable[tuple[Any, ...]], share: float, scored: float
) -> list[str]:
    """The scores of all models of some columns, in the form of `SCORED`, fitted on a share of the users."""
    n_users, n_ratings = row_count(tables["users"]), row_count(tables["ratings"])
    found = []
    for protocol, task, metric, population, models in columns:
        scale = {"fit_ratings": int(share * n_ratings), "score_users": int(scored * n_users)}
        split = protocols.split(protocol, tables, scale=Scale(**scale))
        # The limit is a number of ratings, and a split has fewer than all.
        n_fitted = row_count(split["train_ratings" if "train_ratings" in split else "train_histories"])
        scale["fit_ratings"] = max(1, int(share * n_fitted))
        fitter = ModelFitter(split, {**Settings().model_dump(), "scale": scale})
        # The baseline stands in for missing predictions.
        needed = {*models, "item_mean"} if task == "latest_rating" else {*models}
        predictions = {entry(task, model): fitter.predictions(entry(task, model)) for model in needed}
        selected = {task: models[-1]}
        table = protocols.measured(protocol, split, predictions, selected=selected).scores(seed=0, n_resamples=200)
        rows = table.filter(pl.col("metric") == metric, pl.col("population") == population)
        for model in models:
            value, low, high = rows.filter(pl.col("model") == model).select("value", "low", "high").row(0)
            found.append(f"{value:.4f} ({low:.4f} to {high:.4f})" if model == models[-1] else f"{value:.4f}")
    return found


if __name__ == "__main__":
    main()
