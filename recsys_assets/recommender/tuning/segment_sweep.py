"""Segment sweep: scores on held-out users for each number of segments, table `segment_sweep`.

The choice of a number, by one of these scores, belongs in `searches`.
"""

from collections.abc import Callable, Sequence

import polars as pl

from recsys_assets.recommender.data.frames import conform, empty, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.models.segments.perplexity import held_out_perplexity
from recsys_assets.recommender.registry import Task
from recsys_assets.recommender.registry.fitting import ModelFitter, Parameters, entry
from recsys_assets.recommender.tuning.searches import SEARCHES, with_values
from recsys_assets.recommender.tuning.validation_splits import ValidationSplit

N_SEGMENTS: Sequence[int] = next(search for search in SEARCHES if search.name == "segments").grid["segments.n_segments"]
PERPLEXITY = "perplexity"
SWEPT: dict[Task, tuple[str, ...]] = {
    "latest_rating": ("item_mean", "segment_mean", "segment_bias"),
    "next_item": ("segment_list", "segment_mixture"),
}
_METRICS = ("r2", "next_item_hit_10")
_ASIDE = "test_users"
_TABLE = TABLES["segment_sweep"]


def segment_sweep(
    of: ValidationSplit,
    parameters: Parameters,
    *,
    numbers: Sequence[int] = N_SEGMENTS,
    seed: int = 0,
    n_resamples: int = 1000,
    log: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Perplexity, R² and next-item hits of the segment models, by number of segments.

    A number that cannot be fitted or scored, for example because of too few users, has no rows.

    Args:
        of: the validation split of case study B.
        parameters: settings of all stages, by section.
        numbers: numbers of segments to try.
        seed: random seed of the held-out halves, ties and bootstrap.
        n_resamples: number of bootstrap resamples.
        log: called with one line per number.
    """
    fitted = ModelFitter(of.tables, parameters)
    parts = [empty(_TABLE)]
    for number in numbers:
        fitted = fitted.with_parameters(with_values(parameters, {"segments.n_segments": number}))
        try:
            rows = _scores(of, fitted, seed=seed, n_resamples=n_resamples)
        except ValueError as error:
            log(f"{number} segments: {error}")
            continue
        log(f"{number} segments: perplexity {rows.filter(metric=PERPLEXITY)['value'].item():,.0f}")
        parts.append(to_polars(conform(lazy(rows.with_columns(n_segments=pl.lit(number, pl.Int32))), _TABLE)))
    return pl.concat(parts).sort(_TABLE.order)


def _scores(of: ValidationSplit, fitted: ModelFitter, *, seed: int, n_resamples: int) -> pl.DataFrame:
    """Scores of the held-out users for one number of segments."""
    entries = [entry(task, name) for task, names in SWEPT.items() for name in names]
    predictions = {each: fitted.predictions(each) for each in entries}
    selected = {task: names[-1] for task, names in SWEPT.items()}
    measured = protocols.measured(of.scored_as, of.tables, predictions, selected=selected, seed=seed)
    scores = measured.scores(seed=seed, n_resamples=n_resamples)
    named = pl.col("model").is_in([each.name for each in entries]) & pl.col("metric").is_in(_METRICS)
    model = fitted.models(entry("next_item", "segment_list"))["segment_model"]
    perplexity = held_out_perplexity(model, of.tables["test_histories"], seed=seed)
    told = pl.DataFrame({"model": "segment_model", "metric": PERPLEXITY, "value": perplexity})
    return pl.concat([scores.filter(named, population=_ASIDE), told], how="diagonal")
