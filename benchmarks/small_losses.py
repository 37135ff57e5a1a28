"""Whether the gate stops a row of small losses: the figures of docs/decisions/promotion.md.

Twenty configurations follow each other, each truly worse than the one in use by two thirds of the standard error of a
paired difference; at each decision there are new test users. The decisions are those of the package, kept in a record
as it keeps them. Printed: how many are let through, and how much is lost in all, in standard errors; beside it the same
where only the configuration in use is compared with, as up to 0.4.0.
Usage: python benchmarks/small_losses.py [SEQUENCES]
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.home.promotions import Promotions
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.metrics import mean
from recsys_assets.recommender.evaluation.score_table import DECIDING
from recsys_assets.recommender.promotion.gate import Comparison, Comparisons, Configuration, Part, decide

STEPS = 20
LOSS = 2 / 3
MODEL = "ease"
# Of users' scores, and of what another model gives the same user.
SPREAD, NOISE, LEVEL = 0.25, 0.1, 0.4


class Sequence(NamedTuple):
    """What came of twenty changes.

    Attributes:
        passed: how many were let through.
        lost: by how much what is in use is truly worse than the first, in standard errors of a difference.
    """

    passed: int
    lost: float


def sequence(seed: int, *, n_users: int = 500, n_resamples: int = 300, knows_the_best: bool = True) -> Sequence:
    """Twenty changes, each truly worse than what is in use by two thirds of a standard error."""
    rng = np.random.default_rng(seed)
    error = NOISE * np.sqrt(2 / n_users)
    quality = {_configuration(0).name: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        record = Promotions(Path(folder))
        record.add(_configuration(0), decide(_configuration(0), None, baseline=[], champion=[]))
        for step in range(1, STEPS + 1):
            candidate, in_use, best = _configuration(step), record.current(), record.best()
            assert in_use is not None and best is not None
            current = in_use.configuration
            quality[candidate.name] = quality[current.name] - LOSS
            compared = {each.name: each for each in (candidate, current, best)}
            users = rng.normal(LEVEL, SPREAD, n_users)
            scores = {name: users + quality[name] * error + rng.normal(0, NOISE, n_users) for name in compared}
            contests = _contests(step, n_resamples)
            champion = _between(contests, candidate, current, scores)
            above = _between(contests, candidate, best, scores) if knows_the_best and best != current else []
            decision = decide(candidate, current, baseline=[], champion=champion, best=above)
            record.add(candidate, decision, contests=[*champion, *above])
        used = [each for each in record.all() if each.in_use_from_here]
        return Sequence(len(used) - 1, quality[used[-1].configuration.name])


def _configuration(step: int) -> Configuration:
    return Configuration(Part("item_mean", {}), Part(MODEL, {"ease": {"reg": step}}))


def _contests(seed: int, n_resamples: int) -> Comparisons:
    none = pl.DataFrame(schema={"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32})
    return Comparisons(nw.from_native(none.lazy()), lowest_relevant=4.0, seed=seed, n_resamples=n_resamples)


def _between(
    contests: Comparisons, candidate: Configuration, other: Configuration, scores: Mapping[str, np.ndarray]
) -> list[Comparison]:
    own, theirs = (
        UserMetric(DECIDING, mean, (scores[each.name], np.ones(len(scores[each.name])))) for each in (candidate, other)
    )
    found = contests.between(MODEL, own, f"{MODEL} {other.name}", theirs)
    assert found is not None, "every user has a score"
    return [found]


def main() -> None:
    """Print a row per rule."""
    n_sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print("| compared with | let through of 20 | lost in all, mean | worst 5 % | beyond -2 |\n|---|---|---|---|---|")
    for name, knows_the_best in (("the one in use", False), ("the one in use and the best ever", True)):
        outcomes = [sequence(seed, knows_the_best=knows_the_best) for seed in range(n_sequences)]
        lost = np.array([outcome.lost for outcome in outcomes])
        passed = np.mean([outcome.passed for outcome in outcomes])
        beyond = np.mean(lost < -2 - LOSS / 2)
        print(
            f"| {name} | {passed:.1f} | {lost.mean():+.1f} | {np.quantile(lost, 0.05):+.1f} | {beyond:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
