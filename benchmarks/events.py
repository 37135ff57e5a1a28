"""NDCG at 10 of what is served from events, beside popularity and other models; and segments against planted taste.

Planted plays: users mostly play items of their own group, counts spread from 1 to 100,000. Or ratings whose stars are
taken away, beside the same with their stars. Built-in settings and the quick choice on the training rows, scored on the
last fifth in time; differences are paired over users. `implicit` is the ALS of that package, tuned as in
`implicit_package.py`, if it is installed (`pip install implicit`).

Usage: python benchmarks/events.py [--users N] [--items N] [--archive ARCHIVE] [--implicit]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from catalogue import indexed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy, row_count, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.significance import paired_tests
from recsys_assets.recommender.evaluation.top_n import measure_top_n
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.tuning import quick
from recsys_assets.recommender.tuning.quick import MODEL, Choice
from recsys_assets.recommender.tuning.searches import value_of
from recsys_assets.recommender.tuning.tuning import chosen
from recsys_assets_tests.test_events import plays

Tables = dict[str, nw.LazyFrame]
N_GROUPS = 4
METRIC = "ndcg_10"


def rows(name: str, tables: Tables, folder: Path, *, with_implicit: bool) -> list[str]:
    """A table row per model of one data set."""
    settings = Settings()
    tables = tables | {"user_features": lazy(clusters.user_features(tables["users"]))}
    split = protocols.split("top_n", tables, cut=settings.splitting.parsed_cut)
    found = quick.quick_choice(split, settings.model_dump(), trials=folder, code="")
    parameters = Choice(chosen(found)).applied(settings.model_dump())
    fitted = ModelFitter(split, parameters)
    served = value_of(parameters, MODEL)
    names = dict.fromkeys((served, "popularity", "recent_popularity", "item_knn", "ease", "blend"))
    rankers = {each: fitted.ranker(entry("top_n", each)) for each in names}
    if with_implicit:
        from implicit_package import Side
        from implicit_package import chosen as tuned

        validation = protocols.split("top_n", {**tables, "ratings": split["train_ratings"]})
        candidate, _ = tuned("implicit", Side(validation))
        rankers["implicit"] = Side(split).ranker("implicit", candidate)
    train, test = split["train_ratings"], split["test_ratings"]
    ranks = {each: lazy(rankings.rank_pairs(ranker, test, rated=train)) for each, ranker in rankers.items()}
    result = measure_top_n(
        train, test, ranks, n_items=row_count(tables["items"]), selected=served, relevant_from=relevant_from(train)
    )
    scores = result.scores(seed=0, n_resamples=1000).filter(metric=METRIC, population="all")
    others = [each for each in rankers if each != served]
    tests = paired_tests(result, baselines=others, n_swaps=999).filter(metric=METRIC, model=served, population="all")
    told = []
    for each in rankers:
        own = scores.row(by_predicate=pl.col("model") == each, named=True)
        lead = tests.filter(baseline=each).to_dicts()
        over = f"{lead[0]['improvement']:+.4f} ({lead[0]['low']:.4f} to {lead[0]['high']:.4f})" if lead else "served"
        told.append(f"| {name} | {each} | {own['value']:.4f} ({own['low']:.4f} to {own['high']:.4f}) | {over} |")
    return told


def purity(tables: Tables, n_groups: int = N_GROUPS) -> float:
    """Share of the users whose segment is mostly of their own group; 1 / n_groups is chance."""
    ratings, users = tables["ratings"], to_polars(tables["users"], "user", "user_id")
    index = Index.of(tables["users"], tables["items"])
    model = segments.fit(ratings, index=index, settings=segments.SegmentSettings(n_segments=n_groups))
    assigned = to_polars(segments.assign(model, ratings, ratings.head(0))).join(users, on="user")
    group = assigned["user_id"].cast(pl.Int64) % n_groups
    counts = np.zeros((n_groups, n_groups))
    np.add.at(counts, (assigned["segment"].to_numpy(), group.to_numpy()), 1)
    return float(counts.max(axis=1).sum() / counts.sum())


def main() -> None:
    """Print a row per data set and model, then what segments find."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--users", type=int, default=5_000)
    asked.add_argument("--items", type=int, default=400)
    asked.add_argument("--archive", type=Path, help="ratings whose stars are taken away, in the place of planted plays")
    asked.add_argument("--implicit", action="store_true")
    given = asked.parse_args()
    print("| data | model | NDCG at 10 | served - model |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.archive:
            sources = {
                f"{given.archive.name} without stars": indexed(given.archive, folder, ignore=("rating",)),
                f"{given.archive.name} with stars": indexed(given.archive, folder),
            }
        else:
            plays(n_users=given.users, n_items=given.items, n_groups=N_GROUPS).write_csv(folder / "plays.csv")
            sources = {f"plays of {given.users:,} users": indexed(folder / "plays.csv", folder)}
        for number, (told, tables) in enumerate(sources.items()):
            own = folder / f"{number}"
            own.mkdir()
            print("\n".join(rows(told, tables, own, with_implicit=given.implicit)))
        if not given.archive:
            print(f"\nSegments: {purity(tables):.1%} of the users are in a segment of their own taste.")


if __name__ == "__main__":
    main()
