"""Scores put beside scores: the same protocol with several seeds, and the same models under several protocols."""

from collections.abc import Mapping, Sequence

import polars as pl

from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.protocols import LEAKAGE_AUDITS
from recsys_assets.recommender.evaluation.significance import LOWER_IS_BETTER

_KEYS = ("protocol", "model", "population", "metric")
# By split of an audit, the one beside it that does not look into the future.
_HONEST = {split: honest for honest, *splits in LEAKAGE_AUDITS for split in splits}


def over_seeds(runs: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Scores of the same protocol with several seeds as one table `study_scores`.

    Value and interval are means over the seeds, so the interval is that of the users; how much the seed matters is
    `seed_sd`, the standard deviation of the value over seeds (0 for one seed, and for what depends on none), and
    `seeds` says how many there are.

    Args:
        runs: tables `evaluation_scores`, at least one.
    """
    scores = pl.concat(runs, how="diagonal").group_by(*_KEYS, maintain_order=True)
    table = TABLES["study_scores"]
    together = scores.agg(
        pl.col("value", "low", "high").mean(),
        n=pl.col("n").mean().round().cast(pl.Int64),
        seeds=pl.len().cast(pl.Int32),
        # Equal values have a mean that may differ from them in the last digit, and then a deviation from it.
        seed_sd=pl.when(pl.col("value").n_unique() > 1).then(pl.col("value").std()).otherwise(0.0),
    )
    return to_polars(conform(lazy(together), table)).sort(table.order)


def reseeded(parameters: Mapping[str, Mapping[str, object]], by: int) -> dict[str, dict[str, object]]:
    """The parameters with `by` added to the seed of every section that has one."""
    return {
        section: {
            name: value + by if name == "seed" and isinstance(value, int) else value for name, value in knobs.items()
        }
        for section, knobs in parameters.items()
        if isinstance(knobs, Mapping)
    }


def leakage_audit(scores: pl.DataFrame) -> pl.DataFrame:
    """By how much each other split makes the same models look better than the cut in time: table `leakage_audit`.

    docs/decisions/leakage-audit.md says how to read it. The splits have other test users, so the intervals are of
    independent differences: their half-widths add in squares.

    Args:
        scores: tables `evaluation_scores` of several protocols, one below the other. Rating models are held against
            `time_cut`, ranking models against `top_n`, models of what comes next against `latest_rating_time_cut`;
            other protocols than those of the audits are left out.
    """
    table = TABLES["leakage_audit"]
    keys = ["model", "population", "metric"]
    base = scores.select(*keys, beside="protocol", honest="value", honest_low="low", honest_high="high")
    sign = pl.when(pl.col("metric").is_in(LOWER_IS_BETTER)).then(-1.0).otherwise(1.0)
    value, before = pl.col("value"), pl.col("honest")
    ends = [
        # The better end of this split with the worse end of the honest one, and the other way round.
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
