"""NDCG at 10 of this project's blend on the cut in time, against the ALS of the `implicit` package.

Both are chosen by the last fifth of the training ratings from the same number of candidates, then scored once on the
test rows. Users without a training rating are shown popularity by `implicit`, which knows nothing of them. The package
is no dependency: `pip install implicit`. Usage: python benchmarks/implicit_package.py ARCHIVE [--candidates 8]
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed
from implicit.als import AlternatingLeastSquares
from scipy import sparse

from recsys_assets.recommender import clusters, rankings
from recsys_assets.recommender.evaluation.top_n import measure_top_n
from recsys_assets.recommender.frames import lazy, row_count, to_polars
from recsys_assets.recommender.matrices import user_movie_matrix
from recsys_assets.recommender.rankings import Ranker
from recsys_assets.recommender.refit import Refit, entry
from recsys_assets.recommender.splitting import cut_in_time
from recsys_assets.resources import spark_resource
from recsys_assets.settings import Settings

# What was tried by hand before; the first candidate is the best of them for `implicit`, the defaults for the blend.
THEIRS = {
    "regularization": (100.0, 10.0, 30.0),
    "factors": (16, 8, 32, 64),
    "alpha": (1.0, 5.0),
    "counts": (True, False),
}
OURS = {"reg": (3000.0, 1000.0, 10000.0), "prior_ratings": (60.0, 20.0, 120.0), "neutral_offset": (-0.5, 0.0)}
Candidate = Mapping[str, Any]
Ranks = Callable[[dict[str, nw.LazyFrame], Candidate], pl.DataFrame | nw.LazyFrame]


def theirs(tables: dict[str, nw.LazyFrame], knobs: Candidate) -> pl.DataFrame:
    """Ranks of the test movies by implicit's ALS, by popularity for users without a training rating."""
    n_movies, train = row_count(tables["movies"]), tables["train_ratings"]
    users, rated = user_movie_matrix(train, n_movies=n_movies)
    if knobs["counts"]:
        rated.data = np.ones_like(rated.data)
    names = ("regularization", "factors", "alpha")
    model = AlternatingLeastSquares(iterations=15, random_state=0, **{name: knobs[name] for name in names})
    model.fit(sparse.csr_matrix(rated), show_progress=False)
    popularity = np.bincount(rated.indices, minlength=n_movies).astype(np.float32)

    def scores(asked: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        row = np.searchsorted(users, asked).clip(0, len(users) - 1)
        own = model.user_factors[row] @ model.item_factors.T
        return np.where((np.diff(rows.indptr) > 0)[:, None], own, popularity)

    return rankings.rank_pairs(Ranker(scores, popularity > 0), tables["test_ratings"], rated=train)


def ours(settings: Settings, scratch: Path) -> Ranks:
    """Ranks of the test movies by the blend."""

    def ranked(tables: dict[str, nw.LazyFrame], knobs: Candidate) -> nw.LazyFrame:
        parameters = settings.model_dump()
        parameters["ease"] |= {name: knobs[name] for name in ("reg", "neutral_offset")}
        parameters["blend"] |= {"prior_ratings": knobs["prior_ratings"]}
        spark = spark_resource(settings.spark)
        fitted = Refit(tables, parameters, spark=lambda: spark.spark_session, scratch=scratch)
        return fitted.predictions(entry("top_n", "blend"))

    return ranked


def ndcg(tables: dict[str, nw.LazyFrame], ranks: pl.DataFrame | nw.LazyFrame) -> dict[str, float]:
    """NDCG at 10 by population."""
    frame = lazy(ranks) if isinstance(ranks, pl.DataFrame) else ranks
    train, test = tables["train_ratings"], tables["test_ratings"]
    measured = measure_top_n(train, test, {"it": frame}, n_movies=row_count(tables["movies"]), selected="it")
    scores = measured.scores(seed=0, n_resamples=1)
    own = scores.filter(pl.col("model") == "it", pl.col("metric") == "ndcg_10")
    return dict(own.select("population", "value").iter_rows())


def chosen(grid: Mapping[str, Sequence[Any]], tables: dict[str, nw.LazyFrame], ranks: Ranks, n: int) -> Candidate:
    """The candidate of highest NDCG on the tables' test rows: the grid's first, and others at random."""
    first, *others = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    tried = [first, *random.Random(0).sample(others, min(n - 1, len(others)))]
    return max(tried, key=lambda knobs: ndcg(tables, ranks(tables, knobs))["all"])


def main() -> None:
    """Print both scores and their ratio."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("archive", type=Path)
    options.add_argument("--candidates", type=int, default=8)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tables, validation = _tables(given.archive, scratch)
        scores = {}
        for name, grid, ranks in (("implicit", THEIRS, theirs), ("blend", OURS, ours(Settings(), scratch))):
            knobs = chosen(grid, validation, ranks, given.candidates)
            scores[name] = ndcg(tables, ranks(tables, knobs))
            print(name, knobs, {population: round(value, 4) for population, value in scores[name].items()}, flush=True)
        for population, value in scores["blend"].items():
            print(f"{population}: {value / scores['implicit'][population]:.3f} × implicit")


def _tables(archive: Path, scratch: Path) -> tuple[dict[str, nw.LazyFrame], dict[str, nw.LazyFrame]]:
    """The tables of the cut in time, and those with the last fifth of its training ratings in the test rows' place."""
    catalogue = indexed(archive, scratch)
    ratings, users = catalogue.pop("ratings"), catalogue["users"]
    known = catalogue | {"user_features": lazy(clusters.user_features(users))}
    train, test = (lazy(to_polars(cut_in_time(ratings, side))) for side in ("train", "test"))
    earlier, later = (lazy(to_polars(cut_in_time(train, side, cut=0.8))) for side in ("train", "test"))
    return known | {"train_ratings": train, "test_ratings": test}, known | {
        "train_ratings": earlier,
        "test_ratings": later,
    }


if __name__ == "__main__":
    main()
