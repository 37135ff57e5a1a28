"""RMSE for users of whom nothing is known, each tenth of the users new in turn: what the drawing alone decides.

Which users are new moves the error of every model by more than the models differ. So a single tenth says how good a
model is only beside the item mean on the same rows; all tenths together say it of every user once. Built-in settings.
Usage: python benchmarks/new_user_draws.py ARCHIVE
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy, pseudo_random, to_polars
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates
from recsys_assets.recommender.evaluation.metrics import root_mean
from recsys_assets.recommender.evaluation.result import difference
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.registry.fitting import ModelFitter, entry

N_DRAWS = 10
BASELINE = "item_mean"
MODELS = (BASELINE, "cluster_mean", "bayesian_factors", "stack")


def main() -> None:
    """Print a row per tenth, and one for all users with intervals."""
    settings = Settings()
    with tempfile.TemporaryDirectory() as folder:
        catalogue = indexed(Path(sys.argv[1]), Path(folder))
        rows = pl.concat(predicted(catalogue, settings))
    print("| tenth | ratings | " + " | ".join(MODELS) + " |\n" + "|---" * (len(MODELS) + 2) + "|")
    for (draw,), part in rows.group_by("draw", maintain_order=True):
        print(f"| {draw} | {len(part):,} | " + " | ".join(f"{rmse(part, model):.4f}" for model in MODELS) + " |")
    print(f"| all | {len(rows):,} | " + " | ".join(f"{rmse(rows, model):.4f}" for model in MODELS) + " |")
    for line in improvements(rows, settings):
        print(line)


def predicted(catalogue: dict[str, nw.LazyFrame], settings: Settings) -> Iterator[pl.DataFrame]:
    """The ratings of each tenth of the users, with what models say that were fitted on all others: a column each."""
    ratings = catalogue.pop("ratings")
    features = lazy(clusters.user_features(catalogue["users"]))
    draws = pseudo_random(settings.study.seed, ["user"]) % N_DRAWS
    marked = lazy(to_polars(ratings.with_columns(draw=draws)))
    for draw in range(N_DRAWS):
        is_new = nw.col("draw") == draw
        train, test = (lazy(to_polars(marked.filter(side))) for side in (~is_new, is_new))
        tables = catalogue | {"user_features": features, "train_ratings": train, "test_ratings": test}
        fitted = ModelFitter(tables, settings.model_dump())
        rows = to_polars(test, "draw", "user", "item", "rating")
        for model in MODELS:
            said = to_polars(fitted.predictions(entry("time_cut", model)), "user", "item", "prediction")
            rows = rows.join(said.rename({"prediction": model}), on=("user", "item"), how="left")
        yield rows


def rmse(rows: pl.DataFrame, model: str) -> float:
    """Of a column of predictions."""
    return float(np.sqrt(np.mean((rows["rating"] - rows[model]).to_numpy() ** 2)))


def improvements(rows: pl.DataFrame, settings: Settings) -> Iterator[str]:
    """By how much each model's error over all users is smaller than the baseline's, a line each."""
    squares = [((pl.col("rating") - pl.col(model)) ** 2).sum().alias(model) for model in MODELS]
    per_user = rows.group_by("user").agg(*squares, n=pl.len()).sort("user")
    n = per_user["n"].to_numpy()
    metrics = {model: UserMetric("rmse", root_mean, (per_user[model].to_numpy(), n)) for model in MODELS}
    better = [difference(metrics[BASELINE], metrics[model], model) for model in MODELS[1:]]
    everyone = np.ones(len(n), dtype=bool)
    found = estimates(better, everyone, seed=settings.evaluation.seed, n_resamples=settings.evaluation.n_resamples)
    for metric, estimate in zip(better, found, strict=True):
        if estimate:
            interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
            yield f"{metric.name}: RMSE smaller than that of {BASELINE} by {estimate.value:.4f} ({interval})"


if __name__ == "__main__":
    main()
