"""NDCG at 10 on the cut in time: the ALS of the `implicit` package, Spark's implicit ALS and the blend, tuned alike.

Each is chosen by the last fifth of the training ratings from the same number of candidates, then scored once on the
test rows. Whether the package learns from all ratings or from the liked ones alone is among its candidates. All models
give users without a training rating the same answer, the liking by attributes, so that cold starts decide nothing. The
package is no dependency: `pip install implicit`.
Usage: python benchmarks/implicit_package.py ARCHIVE [--candidates 8]
"""

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed
from implicit.als import AlternatingLeastSquares
from scipy import sparse

from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import lazy, row_count, to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.splitting import cut_in_time
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.significance import paired_tests
from recsys_assets.recommender.evaluation.top_n import measure_top_n
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.features.matrices import user_movie_matrix
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.tuning.searches import with_knobs

# The first candidate is what was best for `implicit` when it was tried by hand, the built-in settings for the others.
# `positives`: all ratings with their stars as counts, all ratings alike, or the liked ones alone.
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "implicit": {
        "regularization": (100.0, 10.0, 30.0, 300.0),
        "factors": (16, 8, 32, 64),
        "alpha": (1.0, 5.0),
        "positives": ("liked", "all", "stars"),
    },
    "implicit_als": {
        "ranking.rank": (32, 16, 64),
        "ranking.reg_param": (0.1, 0.01, 1.0),
        "ranking.alpha": (1.0, 4.0, 16.0),
    },
    "blend": {
        "ease.reg": ("auto", 1000.0, 10000.0),
        "blend.prior_ratings": ("auto", 20.0, 120.0),
        "ease.neutral_offset": (-0.5, 0.0),
    },
}
Candidate = Mapping[str, Any]
METRIC = "ndcg_10"


def theirs(tables: dict[str, nw.LazyFrame], knobs: Candidate, for_new_users: Ranker) -> Ranker:
    """implicit's ALS; users without a training rating are shown what `for_new_users` says."""
    train = tables["train_ratings"]
    users, rated = user_movie_matrix(train, n_movies=row_count(tables["movies"]))
    positives = rated.copy()
    if knobs["positives"] != "stars":
        positives.data = (rated.data >= (relevant_from(train) if knobs["positives"] == "liked" else 0)).astype(
            np.float32
        )
        positives.eliminate_zeros()
    names = ("regularization", "factors", "alpha")
    model = AlternatingLeastSquares(iterations=15, random_state=0, **{name: knobs[name] for name in names})
    model.fit(sparse.csr_matrix(positives), show_progress=False)

    def scores(asked: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        row = np.searchsorted(users, asked).clip(0, len(users) - 1)
        own = model.user_factors[row] @ model.item_factors.T
        new = np.diff(rows.indptr) == 0
        own[new] = for_new_users.scores(asked[new], rows[new])
        return own

    return Ranker(scores, np.asarray(model.item_factors.any(axis=1)))


def ours(name: str, tables: dict[str, nw.LazyFrame], knobs: Candidate, scratch: Path) -> tuple[Ranker, Ranker]:
    """A model of this project, and what it says of new users: the liking by attributes."""
    spark = spark_resource(Settings().spark)
    parameters = with_knobs(Settings().model_dump(), knobs)
    fitter = ModelFitter(tables, parameters, spark=lambda: spark.spark_session, scratch=scratch)
    return fitter.ranker(entry("top_n", name)), fitter.ranker(entry("top_n", "liking"))


def ranker(name: str, tables: dict[str, nw.LazyFrame], knobs: Candidate, scratch: Path) -> Ranker:
    """A model with these settings, fitted on the training rows."""
    if name == "implicit":
        return theirs(tables, knobs, ours("liking", tables, {}, scratch)[1])
    own, for_new_users = ours(name, tables, knobs, scratch)

    def scores(asked: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        scored = own.scores(asked, rows)
        new = np.diff(rows.indptr) == 0
        scored[new] = for_new_users.scores(asked[new], rows[new])
        return scored

    return Ranker(scores, own.movie_known)


def measured(tables: dict[str, nw.LazyFrame], rankers: Mapping[str, Ranker]) -> EvaluationResult:
    """The models on the tables' test rows."""
    train, test = tables["train_ratings"], tables["test_ratings"]
    ranks = {name: lazy(rankings.rank_pairs(each, test, rated=train)) for name, each in rankers.items()}
    return measure_top_n(train, test, ranks, n_movies=row_count(tables["movies"]), selected=next(iter(rankers)))


def ndcg(of: EvaluationResult, n_resamples: int = 1) -> pl.DataFrame:
    """NDCG at 10 by model and population."""
    scores = of.scores(seed=0, n_resamples=n_resamples).filter(metric=METRIC)
    return scores.filter(pl.col("population").is_in(["all", "seen", "unseen"]))


def chosen(name: str, tables: dict[str, nw.LazyFrame], n: int, scratch: Path) -> Candidate:
    """The candidate of highest NDCG on the tables' test rows: the grid's first, and others at random."""
    grid = GRIDS[name]
    first, *others = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    tried = [first, *random.Random(0).sample(others, min(n - 1, len(others)))]

    def score(knobs: Candidate) -> float:
        scores = ndcg(measured(tables, {name: ranker(name, tables, knobs, scratch)}))
        return float(scores.filter(model=name, population="all")["value"].item())

    return max(tried, key=score)


def main() -> None:
    """Print every model's score, and the blend against the others on the same users."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("archive", type=Path)
    options.add_argument("--candidates", type=int, default=8)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tables, validation = _tables(given.archive, scratch)
        fitted = {}
        for name in GRIDS:
            knobs = chosen(name, validation, given.candidates, scratch)
            print(name, knobs, flush=True)
            fitted[name] = ranker(name, tables, knobs, scratch)
        result = measured(tables, fitted)
        scores = ndcg(result, n_resamples=1000)
        tests = paired_tests(result, baselines=("implicit", "implicit_als"), n_swaps=999).filter(metric=METRIC)
        for row in scores.filter(pl.col("model").is_in(list(GRIDS))).iter_rows(named=True):
            print(f"{row['population']}: {row['model']} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})")
        for row in tests.filter(model="blend").iter_rows(named=True):
            more = f"{row['improvement']:+.4f} ({row['low']:.4f} to {row['high']:.4f})"
            print(f"{row['population']}: blend against {row['baseline']} {more}")
        for other in ("implicit", "implicit_als"):
            ratio = np.divide(*(scores.filter(model=m, population="all")["value"].item() for m in ("blend", other)))
            print(f"all: {ratio:.3f} × {other}")


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
