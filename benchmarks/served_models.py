"""What `run` serves by itself against the best ranking model of its score table, for many data sets; as a table.

Built-in settings and the quick choice on the training ratings, scored on the test ratings of the cut in time, with
paired intervals. `best` is chosen by the test ratings themselves, which nothing that is served may be: an upper bound.
The second interval allows for that: Bonferroni's correction for the number of other models.
`0.4.0` is the blend with the numbers of that version. Where taste is planted: how much of the top 5 lies in the users'
own taste, and the share of lists with each of the four most shown items, by a fit on all ratings.

Usage: python benchmarks/served_models.py [SOURCE …] [--samples N] [--shapes]. A source is an archive or a file;
`interests.csv%4` says that ids modulo 4 are the planted taste, `ml-1m.zip%events` that stars are taken away.
`--samples` takes as many samples of a tenth of a source's users instead of the whole. `--shapes` adds those of
`recsys_assets_tests/planted_taste.py`.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates
from recsys_assets.recommender.evaluation.metrics import RankingMetrics
from recsys_assets.recommender.evaluation.result import difference
from recsys_assets.recommender.evaluation.rows import ScoredRows
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.registry.kinds import entries_of
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.tuning import quick
from recsys_assets.recommender.tuning.quick import MODEL, Choice
from recsys_assets.recommender.tuning.searches import value_of, with_values
from recsys_assets.recommender.tuning.tuning import chosen
from recsys_assets_tests.planted_taste import SHAPES, Shape, planted, truth

BEFORE = {"ease.reg": "3000", "demographic_popularity.reg": "300", "blend.prior_ratings": "60"}
LENGTH = 5
COLUMNS = (
    "data",
    "chosen",
    "0.4.0",
    "served",
    "best",
    "served - best",
    "own taste",
    "four most shown",
    "the same, as planted",
)
Tables = dict[str, nw.LazyFrame]


class Served:
    """What is chosen, fitted and shown for one data set.

    Args:
        tables: users, items and ratings.
        folder: for trials.
    """

    def __init__(self, tables: Tables, folder: Path) -> None:
        self._settings = Settings()
        self._tables = tables | {"user_features": lazy(clusters.user_features(tables["users"]))}
        self._split = protocols.split("top_n", self._tables, cut=self._settings.splitting.parsed_cut)
        self._models = [each for each in entries_of(protocols.kind_of(self._split)) if each.task == "top_n"]
        found = quick.quick_choice(self._split, self._settings.model_dump(), trials=folder, code="")
        self.choice = Choice(chosen(found))
        self._parameters = self.choice.applied(self._settings.model_dump())

    def scores(self) -> tuple[str, str, str, str]:
        """NDCG at 10: as in 0.4.0, served, of the best model, and the difference of the last two with its interval."""
        train = self._split["train_ratings"]
        rows = to_polars(self._split["test_ratings"], "user", "item", "rating")
        relevant = ScoredRows.of(rows.filter(rows["rating"] >= relevant_from(train)), seed=0)

        def ndcg(fitted: ModelFitter, model: str) -> UserMetric:
            ranks = relevant.ranks_of(model, fitted.predictions(entry("top_n", model)))
            return RankingMetrics(relevant, 10).of_ranks(ranks)[0]

        fitted = ModelFitter(self._split, self._parameters)
        of = {each.name: ndcg(fitted, each.name) for each in self._models}
        best, served = max(of, key=lambda name: of[name].parts[0].mean()), value_of(self._parameters, MODEL)
        before = ndcg(fitted.with_parameters(with_values(self._settings.model_dump(), BEFORE)), "blend")
        metrics = [before, of[served], of[best], difference(of[served], of[best], "")]
        users = np.ones(len(before.parts[0]), bool)
        told = estimates(metrics, users, seed=0, n_resamples=1000)
        values = [f"{each.value:.4f}" if each else "–" for each in told]
        paired = "the same"
        if told[3] and served != best:
            by_user = of[served].parts[0] - of[best].parts[0]
            reach = NormalDist().inv_cdf(1 - 0.025 / (len(of) - 1)) * by_user.std() / np.sqrt(len(by_user))
            corrected = f"{told[3].value - reach:.4f} to {told[3].value + reach:.4f}"
            paired = f"{values[3]} ({told[3].low:.4f} to {told[3].high:.4f}; {corrected})"
        return values[0], f"{served} {values[1]}", f"{best} {values[2]}", paired

    def taste(self, n_groups: int) -> tuple[str, str]:
        """Of the lists that are served; see `told`."""
        ratings = self._tables["ratings"]
        fitted = ModelFitter({**self._tables, "train_ratings": ratings}, self._parameters)
        ranker = serving.fit(value_of(self._parameters, MODEL), fitted).ranker(ratings, self._ranked_with(fitted))
        return told(self._tables, ranker, n_groups)

    def _ranked_with(self, fitted: ModelFitter) -> Tables:
        return self._tables | {"user_clusters": fitted._get("user_clusters")}


def told(tables: Tables, ranker: Ranker, n_groups: int) -> tuple[str, str]:
    """Share of the first items in the users' own group; share of the lists with each of the four most shown."""
    ids = _ids(tables)
    shown = rankings.top_n(ranker, tables["ratings"], ids["user"]["user"].to_numpy(), n=LENGTH)
    lists = shown.join(ids["user"], on="user").join(ids["item"], on="item")
    own = lists["user_id"] % n_groups == lists["item_id"] % n_groups
    most = lists.group_by("item").len().sort("len", descending=True)["len"].head(4) / len(ids["user"])
    return f"{own.mean():.0%}", ", ".join(f"{share:.0%}" for share in most)


def ideal(tables: Tables, shape: Shape) -> tuple[str, str]:
    """The same of lists in the order of what was planted."""
    ids = _ids(tables)
    likely = truth(shape)
    users = np.eye(shape.n_groups)[ids["user"]["user_id"].to_numpy() % shape.n_groups]
    return told(tables, rankings.of_vectors(users, likely[:, ids["item"]["item_id"].to_numpy()].T), shape.n_groups)


def _ids(tables: Tables) -> dict[str, pl.DataFrame]:
    """Dense and original ids of users and items, in the order of the dense ones."""
    names = {name: to_polars(tables[f"{name}s"], name, f"{name}_id").sort(name) for name in ("user", "item")}
    return {name: ids.with_columns(pl.col(f"{name}_id").cast(pl.Int64)) for name, ids in names.items()}


def main() -> None:
    """Print a row per data set."""
    asked = argparse.ArgumentParser()
    asked.add_argument("sources", nargs="*")
    asked.add_argument("--samples", type=int, default=0)
    asked.add_argument("--shapes", action="store_true")
    given = asked.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, tables, n_groups, shape in _data(given, Path(folder)):
            served = Served(tables, Path(folder) / f"{abs(hash(name))}")
            chosen = ", ".join(f"{k} {v}" for k, v in served.choice.settings.items() if v != "auto" and k != MODEL)
            taste = served.taste(n_groups) if n_groups else ("–", "–")
            planted_one = "; ".join(ideal(tables, shape)) if shape else "–"
            print("| " + " | ".join([name, chosen or "auto", *served.scores(), *taste, planted_one]) + " |", flush=True)


def _data(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Tables, int, Shape | None]]:
    for source in given.sources:
        path, _, suffix = source.partition("%")
        rules, groups = ({"ignore": ("rating",)}, 0) if suffix == "events" else ({}, int(suffix or 0))
        told = f"{Path(path).name} without stars" if rules else Path(path).name
        for seed in range(given.samples) or (None,):
            name = told if seed is None else f"a tenth of {told}, sample {seed + 1}"
            yield name, indexed(Path(path), folder, seed, **rules), groups, None
    for shape in SHAPES if given.shapes else ():
        path = folder / "ratings.csv"
        planted(shape).write_csv(path)
        n = f"{shape.n_users:,} × {shape.n_items:,}, {shape.median_ratings:g} each"
        yield f"{shape.name} ({n})", indexed(path, folder), shape.n_groups, shape


if __name__ == "__main__":
    main()
