"""Hits among the first ten for the next item, by the pause before it, under case study B's split and a cut in time.

Scores four models with the built-in settings. Usage: python benchmarks/next_item.py ARCHIVE
"""

import argparse
import tempfile
from pathlib import Path

import polars as pl
from catalogue import indexed

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.latest_rating import measure_latest_rating
from recsys_assets.recommender.evaluation.significance import paired_tests
from recsys_assets.recommender.registry.fitting import ModelFitter, entry

MODELS = ("popularity", "ease", "transitions", "sessions")
SIDES = {"train_users": "train", "test_users": "test"}
METRIC = "next_item_hit_10"


def main() -> None:
    """Print a table for each protocol."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("archive", type=Path)
    with tempfile.TemporaryDirectory() as folder:
        tables = indexed(options.parse_args().archive, Path(folder))
        split = Settings().splitting
        how = {"cut": split.parsed_cut, "train_share": split.train_share, "seed": split.seed}
        for protocol in protocols.LATEST_RATING_LEAKAGE_AUDIT:
            _print(protocol, protocols.split(protocol, tables, **how))


def _print(protocol: str, tables: protocols.Tables) -> None:
    fitter = ModelFitter(tables, Settings().model_dump())
    measured = measure_latest_rating(
        {users: tables[f"{side}_responses"] for users, side in SIDES.items()},
        {},
        {name: fitter.predictions(entry("next_item", name)) for name in MODELS},
        histories={users: tables[f"{side}_histories"] for users, side in SIDES.items()},
        selected="sessions",
        n_items=row_count(tables["items"]),
        protocol=protocol,
    )
    drawn = {"seed": 0, "n_resamples": 1000}
    scores = measured.scores(**drawn).filter(pl.col("metric") == METRIC, pl.col("model").is_in(["random", *MODELS]))
    tests = paired_tests(measured, baselines=("ease",), **drawn).filter(metric=METRIC, model="sessions")
    print(f"\n| `{protocol}` | users | random | {' | '.join(MODELS)} | sessions - ease |")
    print("|---" * (len(MODELS) + 4) + "|")
    for population in scores.filter(pl.col("population").str.contains("_users"))["population"].unique().sort():
        of = {row["model"]: row for row in scores.filter(population=population).iter_rows(named=True)}
        test = tests.filter(population=population).row(0, named=True)
        values = " | ".join(f"{of[model]['value']:.3f}" for model in ("random", *MODELS))
        better = f"{test['improvement']:+.3f} ({test['low']:.3f} to {test['high']:.3f})"
        print(f"| {population} | {of['sessions']['n']:,} | {values} | {better} |")


if __name__ == "__main__":
    main()
