"""RMSE of the stack over folds with mean and spread, beside what others have published for the same kind of split.

An archive that comes with folds (MovieLens 100K: u1 to u5) is cut by them; any other into ten parts by a hash of user
and item, each of which is predicted once from the other nine. Nothing is chosen by a rating of any fold: the settings
are the built-in ones, but the stack learns its weights from random hidden ratings (`stack_holdout.folds`), as what is
to be predicted is random. Such a split looks into the future; see `leakage_audit` for by how much it flatters.
Usage: python benchmarks/rmse_folds.py ARCHIVE [--folds 10] [--set SECTION.SETTING=VALUE …]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy, pseudo_random, to_polars
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.folds import published_folds
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.tuning.searches import with_values

N_FOLDS = 10
MODELS = ("item_mean", "user_item_bias", "item_neighbours", "bayesian_factors", "profile_factors", "stack")
FOR_RANDOM_SPLITS = {"stack_holdout.folds": "random"}
# RMSE as published, by the number of ratings. GLocal-K: Han et al. 2021, one split. myFM: its example of timeSVD++ with
# 512 Gibbs steps on one of ten folds; ordered probit with side information on u1.
PUBLISHED = {
    1_000_209: "GLocal-K 0.8227 (one 90/10 split); myFM 0.8161 (one fold of ten)",
    100_000: "GLocal-K 0.8889 (u1); myFM 0.8808 (u1)",
}
Tables = dict[str, nw.LazyFrame]


def main() -> None:
    """Print a row per fold, and one of the means and standard deviations over folds."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("archive", type=Path)
    asked.add_argument("--folds", type=int, default=N_FOLDS, help="only the first so many")
    asked.add_argument("--set", action="append", default=[], metavar="SECTION.SETTING=VALUE")
    given = asked.parse_args()
    changes = FOR_RANDOM_SPLITS | dict(map(_setting, given.set))
    parameters = with_values(Settings().model_dump(), changes)
    print(f"Beside the built-in settings: {changes}")
    with tempfile.TemporaryDirectory() as folder:
        tables = indexed(given.archive, Path(folder))
        tables["user_features"] = lazy(clusters.user_features(tables["users"]))
        n_ratings = len(to_polars(tables["ratings"]))
        print("| fold | ratings | " + " | ".join(MODELS) + " | s |\n" + "|---" * (len(MODELS) + 3) + "|")
        of_folds = []
        for name, split in folds(tables, given.archive, Path(folder), given.folds):
            start = time.perf_counter()
            fitted = ModelFitter(split, parameters)
            of_folds.append([rmse(fitted, model, split["test_ratings"]) for model in MODELS])
            n_test = len(to_polars(split["test_ratings"]))
            values = " | ".join(f"{value:.4f}" for value in of_folds[-1])
            print(f"| {name} | {n_test:,} | {values} | {time.perf_counter() - start:.0f} |", flush=True)
    spread = [f"{of.mean():.4f} ± {of.std(ddof=1) if len(of) > 1 else 0:.4f}" for of in np.array(of_folds).T]
    print(f"| mean ± standard deviation of {len(of_folds)} | | {' | '.join(spread)} | |")
    print(f"Published: {PUBLISHED.get(n_ratings, 'nothing known of these data')}")


def folds(tables: Tables, archive: Path, scratch: Path, most: int) -> Iterator[tuple[str, Tables]]:
    """The name and the tables of each fold."""
    published = published_folds(Source(archive, scratch), tables["users"], tables["items"])
    if published is not None:
        known = tables | {"published_folds": lazy(published)}
        yield from ((name, protocols.split(name, known)) for name in protocols.FOLDS[:most])
        return
    drawn = tables["ratings"].with_columns(fold=pseudo_random(0, ["user", "item"], stream=1) % N_FOLDS)
    marked = lazy(to_polars(drawn))
    for number in range(min(most, N_FOLDS)):
        is_tested = nw.col("fold") == number
        sides = {"train_ratings": ~is_tested, "test_ratings": is_tested}
        yield str(number), tables | {name: lazy(to_polars(marked.filter(side))) for name, side in sides.items()}


def rmse(fitted: ModelFitter, model: str, test: nw.LazyFrame) -> float:
    """Of all ratings of a fold."""
    said = to_polars(fitted.predictions(entry("time_cut", model)), "user", "item", "prediction")
    rows = to_polars(test, "user", "item", "rating").join(said, on=("user", "item"), how="left")
    return float(np.sqrt(np.mean((rows["rating"] - rows["prediction"]).cast(pl.Float64).to_numpy() ** 2)))


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    main()
