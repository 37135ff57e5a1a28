"""NDCG at 10 on the cut in time: strong matrix factorisations and the blend, tuned alike; as a table.

The ALS of the `implicit` package, iALS as Rendle et al. (2021) tune it, this project's implicit ALS and the blend. Each
is tuned by the last fifth of the training ratings, one setting after the other from the grid's first values on, then
scored once on the test rows. Whether the first two learn from all ratings or from the liked ones alone is among what is
tuned. All models give users without a training rating the same answer, by demographic popularity, so that cold starts
decide nothing. The package is no dependency: `pip install implicit`.
Usage: python benchmarks/implicit_package.py ARCHIVE [--models implicit,ials,implicit_als,blend]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed
from ials import IALS
from implicit.als import AlternatingLeastSquares
from scipy import sparse

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy, row_count, to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.splitting import cut_in_time
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.significance import paired_tests
from recsys_assets.recommender.evaluation.top_n import measure_top_n
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.tuning.searches import with_values

# `positives`: all ratings with their stars as counts, all ratings alike, or the liked ones alone.
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "implicit": {
        "positives": ("liked", "all", "stars"),
        "regularization": (30.0, 10.0, 100.0, 300.0),
        "factors": (16, 8, 32, 64),
        "alpha": (1.0, 5.0),
    },
    "ials": {
        "positives": ("liked", "all"),
        "unobserved": (0.1, 0.3, 1.0),
        "reg": (0.1, 0.03, 0.3),
        "power": (1.0, 0.5),
        "factors": (64, 128),
    },
    "implicit_als": {
        "implicit_als.neutral_offset": (-0.5, 0.0),
        "implicit_als.reg_param": (0.1, 0.01, 1.0),
        "implicit_als.rank": (32, 16, 64),
        "implicit_als.alpha": (1.0, 4.0, 16.0),
    },
    "blend": {
        "ease.neutral_offset": (-0.5, 0.0),
        "ease.reg": ("auto", 1000.0, 10000.0),
        "blend.prior_ratings": ("auto", 20.0, 120.0),
    },
}
Candidate = Mapping[str, Any]
METRIC = "ndcg_10"
POPULATIONS = ("all", "seen", "unseen")


class Side:
    """Training rows and rows to be ranked.

    Args:
        tables: users, items, user_features, train_ratings and test_ratings.
    """

    def __init__(self, tables: dict[str, nw.LazyFrame]) -> None:
        self.tables = tables
        self._settings = Settings().model_dump()
        self._fitted = ModelFitter(tables, self._settings)
        self._for_new_users = self._fitted.ranker(entry("top_n", "demographic_popularity"))

    def ranker(self, name: str, candidate: Candidate) -> Ranker:
        """A model with these settings, fitted on the training rows; see `GRIDS` for its name."""
        if name == "implicit":
            return self._of_factors(candidate, _implicit)
        if name == "ials":
            return self._of_factors(candidate, _ials)
        fitted = self._fitted.with_parameters(with_values(self._settings, candidate))
        own = fitted.ranker(entry("top_n", name))

        def scores(asked: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
            return self._answered(own.scores(asked, rows), asked, rows, np.diff(rows.indptr) == 0)

        return Ranker(scores, own.item_known)

    def _of_factors(self, candidate: Candidate, fit: "Callable[..., tuple[np.ndarray, np.ndarray]]") -> Ranker:
        """Users in whose positives there is nothing to learn from are new to such a model."""
        train = self.tables["train_ratings"]
        users, rated = user_item_matrix(train, n_items=row_count(self.tables["items"]))
        positives = rated.copy()
        if candidate["positives"] != "stars":
            least = relevant_from(train) if candidate["positives"] == "liked" else 0
            positives.data = (rated.data >= least).astype(np.float32)
            positives.eliminate_zeros()
        user_factors, item_factors = fit(positives, candidate)

        def scores(asked: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
            row = np.searchsorted(users, asked).clip(0, len(users) - 1)
            own = user_factors[row] @ item_factors.T
            new = (users[row] != asked) | ~user_factors[row].any(axis=1)
            return self._answered(own, asked, rows, new)

        return Ranker(scores, np.diff(sparse.csc_array(positives).indptr) > 0)

    def _answered(self, scored: np.ndarray, asked: np.ndarray, rows: sparse.csr_array, new: np.ndarray) -> np.ndarray:
        if new.any():
            scored[new] = self._for_new_users.scores(asked[new], rows[new])
        return scored

    def measured(self, rankers: Mapping[str, Ranker]) -> EvaluationResult:
        """The models on the test rows."""
        train, test = self.tables["train_ratings"], self.tables["test_ratings"]
        ranks = {name: lazy(rankings.rank_pairs(each, test, rated=train)) for name, each in rankers.items()}
        n_items = row_count(self.tables["items"])
        return measure_top_n(
            train, test, ranks, n_items=n_items, selected=next(iter(rankers)), relevant_from=relevant_from(train)
        )


def _implicit(positives: sparse.csr_array, candidate: Candidate) -> tuple[np.ndarray, np.ndarray]:
    names = ("regularization", "factors", "alpha")
    model = AlternatingLeastSquares(iterations=15, random_state=0, **{name: candidate[name] for name in names})
    model.fit(sparse.csr_matrix(positives), show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


def _ials(positives: sparse.csr_array, candidate: Candidate) -> tuple[np.ndarray, np.ndarray]:
    model = IALS(positives, candidate)
    return model.users(positives), model.items


def ndcg(of: EvaluationResult, n_resamples: int = 1) -> pl.DataFrame:
    """NDCG at 10 by model and population."""
    scores = of.scores(seed=0, n_resamples=n_resamples).filter(metric=METRIC)
    return scores.filter(pl.col("population").is_in(POPULATIONS))


def chosen(name: str, side: Side) -> tuple[Candidate, int]:
    """The settings of highest NDCG on the rows to be ranked, and how many were tried; each try is printed."""

    def score(candidate: Candidate) -> float:
        start = time.perf_counter()
        scores = ndcg(side.measured({name: side.ranker(name, candidate)}))
        value = float(scores.filter(model=name, population="all")["value"].item())
        print(f"split: {name} {_told(candidate)}: {value:.4f} ({time.perf_counter() - start:.0f} s)", flush=True)
        return value

    grid = GRIDS[name]
    best: Candidate = {setting: values[0] for setting, values in grid.items()}
    n_tried, highest = 1, score(best)
    for setting, (_, *others) in grid.items():
        for candidate in [{**best, setting: value} for value in others]:
            n_tried, value = n_tried + 1, score(candidate)
            if value > highest:
                best, highest = candidate, value
    return best, n_tried


def main() -> None:
    """Print what was tried, then a row per model with its score and how much better the blend is on the same users."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("archive", type=Path)
    options.add_argument("--models", default=",".join(GRIDS), help="of the grids; separated by commas")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        test, validation = map(Side, _tables(given.archive, Path(folder)))
        names = given.models.split(",")
        tuned = {name: chosen(name, validation) for name in names}
        result = test.measured({name: test.ranker(name, candidate) for name, (candidate, _) in tuned.items()})
    scores = ndcg(result, n_resamples=1000)
    others = [name for name in names if name != "blend"]
    tests = paired_tests(result, baselines=others, n_swaps=999).filter(metric=METRIC, model="blend", population="all")
    print(f"\n| model | tried | chosen | {' | '.join(POPULATIONS)} | blend - model | blend / model |")
    print("|---" * (len(POPULATIONS) + 5) + "|")
    of_blend = scores.filter(model="blend", population="all")["value"]
    for name in names:
        own = {row["population"]: row for row in scores.filter(model=name).iter_rows(named=True)}
        shown = [f"{own[of]['value']:.4f} ({own[of]['low']:.4f} to {own[of]['high']:.4f})" for of in POPULATIONS]
        better = ["–", "–"]
        for test_of in tests.filter(baseline=name).iter_rows(named=True):
            interval = f"{test_of['low']:.4f} to {test_of['high']:.4f}"
            better = [f"{test_of['improvement']:+.4f} ({interval})", f"{of_blend.item() / own['all']['value']:.3f}"]
        print("| " + " | ".join([name, str(tuned[name][1]), _told(tuned[name][0]), *shown, *better]) + " |")


def _told(candidate: Candidate) -> str:
    return ", ".join(f"{setting.split('.')[-1]} {value}" for setting, value in candidate.items())


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
