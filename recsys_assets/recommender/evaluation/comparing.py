"""Compares score tables: one protocol with several seeds, and the same models under several protocols.

Paired tests of models on the same users belong in `significance`.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.protocols import LEAKAGE_AUDITS
from recsys_assets.recommender.evaluation.result import LOWER_IS_BETTER

_KEYS = ("protocol", "model", "population", "metric")
# The protocol without leakage that each leaking protocol of an audit is compared with.
_HONEST = {split: honest for honest, *splits in LEAKAGE_AUDITS for split in splits}


def over_seeds(runs: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Averages the scores of the same protocol over seeds: table `study_scores`.

    `value`, `low` and `high` are means over the seeds, so the interval shows the variance between users only.
    `seed_sd` is the standard deviation of the value over seeds: 0 for a single seed and for scores that do not depend
    on the seed. `seeds` is the number of seeds.

    Args:
        runs: tables `evaluation_scores`, one per seed, at least one.
    """
    scores = pl.concat(runs, how="diagonal").group_by(*_KEYS, maintain_order=True)
    table = TABLES["study_scores"]
    together = scores.agg(
        pl.col("value", "low", "high").mean(),
        n=pl.col("n").mean().round().cast(pl.Int64),
        seeds=pl.len().cast(pl.Int32),
        # Rounding: the mean of equal values can differ from them in the last digit, which gives a deviation above 0.
        seed_sd=pl.when(pl.col("value").n_unique() > 1).then(pl.col("value").std()).otherwise(0.0),
    )
    return to_polars(conform(lazy(together), table)).sort(table.order)


def reseeded(parameters: Mapping[str, Mapping[str, object]], by: int) -> dict[str, dict[str, object]]:
    """Returns the parameters with `by` added to the seed of every section that has a seed.

    Example:
        >>> reseeded({"splitting": {"seed": 1, "cut": 0.8}, "serving": {"n": 10}}, by=100)
        {'splitting': {'seed': 101, 'cut': 0.8}, 'serving': {'n': 10}}
    """
    return {
        section: {
            name: value + by if name == "seed" and isinstance(value, int) else value for name, value in values.items()
        }
        for section, values in parameters.items()
        if isinstance(values, Mapping)
    }


def leakage_audit(scores: pl.DataFrame) -> pl.DataFrame:
    """Measures how much leaking splits flatter the same models, compared with a cut in time: table `leakage_audit`.

    docs/decisions/leakage-audit.md explains how to read the table. The splits have different test users, so the two
    scores are independent and the squares of their half-widths add up.

    Args:
        scores: tables `evaluation_scores` of several protocols, concatenated. Rating models are compared with
            `time_cut`, ranking models with `top_n`, latest-rating models with `latest_rating_time_cut`. Protocols
            outside the audits are ignored.
    """
    table = TABLES["leakage_audit"]
    keys = ["model", "population", "metric"]
    base = scores.select(*keys, beside="protocol", honest="value", honest_low="low", honest_high="high")
    sign = pl.when(pl.col("metric").is_in(LOWER_IS_BETTER)).then(-1.0).otherwise(1.0)
    value, before = pl.col("value"), pl.col("honest")
    ends = [
        # An end of the difference pairs the low end of one split with the high end of the other.
        ((value - pl.col("low")) ** 2 + (pl.col("honest_high") - before) ** 2).sqrt(),
        ((pl.col("high") - value) ** 2 + (before - pl.col("honest_low")) ** 2).sqrt(),
    ]
    compared = (
        scores.with_columns(beside=pl.col("protocol").replace_strict(_HONEST, default=None, return_dtype=pl.String))
        .join(base, on=["beside", *keys])
        .with_columns(optimism=sign * (value - before), below=ends[0], above=ends[1])
        .with_columns(
            low=pl.col("optimism") - pl.when(sign > 0).then("below").otherwise("above"),
            high=pl.col("optimism") + pl.when(sign > 0).then("above").otherwise("below"),
        )
    )
    return to_polars(conform(lazy(compared), table)).sort(table.order)
