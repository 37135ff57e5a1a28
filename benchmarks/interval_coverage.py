"""How often 95 % intervals hold the truth where users are few: the figures of docs/decisions/intervals.md.

Pooled metrics weigh users by their rows, so a few users make most of them. Made-up users, with numbers of rows and
sizes of errors spread log-normally, have a known RMSE; a mean over users stands below it. `package` is what the package
computes: percentiles, further out where users are few (Hesterberg 2015). Percentiles without that, BCa and the t
bootstrap (Efron & Tibshirani 1993, chapters 12 to 14) are what could be instead. In brackets: mean width.
Usage: python benchmarks/interval_coverage.py [REPETITIONS]
"""

import sys
from collections.abc import Mapping

import numpy as np
from scipy.stats import norm

from recsys_assets.recommender.evaluation.bootstrap import LEVELS, UserMetric, estimates, resampled_totals

N_RESAMPLES = 600
USERS = (20, 50, 150, 500)
POPULATION = 2_000_000
Z = norm.ppf(LEVELS[1])


def _users(n_users: int, rng: np.random.Generator) -> np.ndarray:
    """Squared errors and numbers of rows: shape (n_users, 2)."""
    rows = np.maximum(1, np.round(np.exp(rng.normal(2.5, 1.2, n_users))))
    return np.column_stack([np.exp(rng.normal(-0.2, 0.7, n_users)) * rng.chisquare(rows), rows])


def _rmse(errors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.sqrt(errors / rows)


def _mean(errors: np.ndarray, users: np.ndarray) -> np.ndarray:
    return errors / users


def _standard_error(totals: np.ndarray, products: np.ndarray, metric: UserMetric, n_users: int) -> np.ndarray:
    """Of a formula of two sums, by the delta method, from the sums and the sums of their parts' products."""
    step = 1e-5 * totals
    slopes = [
        (metric.formula(*(totals + step * chosen).T) - metric.formula(*(totals - step * chosen).T))
        / (2 * step[..., place])
        for place, chosen in enumerate(np.eye(2))
    ]
    variances = products - np.stack(
        [totals[..., i] * totals[..., j] / n_users for i, j in ((0, 0), (0, 1), (1, 1))], -1
    )
    variance = slopes[0] ** 2 * variances[..., 0] + slopes[1] ** 2 * variances[..., 2]
    return np.sqrt(np.maximum(variance + 2 * slopes[0] * slopes[1] * variances[..., 1], 1e-30))


def _intervals(metric: UserMetric, seed: int) -> Mapping[str, tuple[float, float]]:
    parts = np.column_stack(metric.parts)
    n_users = len(parts)
    [found] = estimates([metric], np.ones(n_users, bool), seed=seed, n_resamples=N_RESAMPLES)
    assert found is not None
    products = np.column_stack([parts[:, 0] ** 2, parts[:, 0] * parts[:, 1], parts[:, 1] ** 2])
    totals = resampled_totals(np.column_stack([parts, products]), seed=seed, n_resamples=N_RESAMPLES)
    drawn = metric.formula(*totals[:, :2].T)
    without = metric.formula(*(parts.sum(axis=0) - parts).T)
    influence = without.mean() - without
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    bias = norm.ppf(np.clip((drawn < found.value).mean(), 1 / N_RESAMPLES, 1 - 1 / N_RESAMPLES))
    shifted = bias + np.array([-Z, Z])
    own = _standard_error(parts.sum(axis=0), products.sum(axis=0), metric, n_users)
    studentised = (drawn - found.value) / _standard_error(totals[:, :2], totals[:, 2:], metric, n_users)
    ends = {
        "package": (found.low, found.high),
        "percentile": np.quantile(drawn, LEVELS),
        "BCa": np.quantile(drawn, norm.cdf(bias + shifted / (1 - acceleration * shifted))),
        "t": found.value - own * np.quantile(studentised, LEVELS)[::-1],
    }
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def main() -> None:
    """Print a row per metric and number of users: coverage and mean width of each kind of interval."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    everybody = _users(POPULATION, np.random.default_rng(99))
    # The mean over users is that of a score between 0 and 1, as NDCG is.
    scores = {"RMSE, pooled": everybody, "mean over users": np.column_stack([_bounded(everybody), np.ones(POPULATION)])}
    print("| metric | users | package | percentile | BCa | t |\n|---|---|---|---|---|---|")
    for name, parts in scores.items():
        formula = _rmse if name.startswith("RMSE") else _mean
        truth = float(formula(*parts.sum(axis=0)))
        for n_users in USERS:
            rng, held, width = np.random.default_rng(n_users), dict[str, int](), dict[str, float]()
            for repetition in range(repetitions):
                drawn = parts[rng.integers(0, POPULATION, n_users)]
                metric = UserMetric(name, formula, (drawn[:, 0], drawn[:, 1]))
                for kind, (low, high) in _intervals(metric, repetition).items():
                    held[kind] = held.get(kind, 0) + (low <= truth <= high)
                    width[kind] = width.get(kind, 0.0) + high - low
            cells = [f"{held[kind] / repetitions:.0%} ({width[kind] / repetitions:.3f})" for kind in held]
            print(f"| {name} | {n_users} | {' | '.join(cells)} |", flush=True)


def _bounded(users: np.ndarray) -> np.ndarray:
    return np.exp(-users[:, 0] / users[:, 1])


if __name__ == "__main__":
    main()
