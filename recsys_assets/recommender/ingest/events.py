"""Rules for events: the weight of an event takes the place of a rating. `merge` adds the weights up.

Reading rows belongs in `sheets`, the rules that events share with ratings in `validation`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl

from recsys_assets.recommender.ingest.text import PROBLEM
from recsys_assets.recommender.ingest.validation import Rules, judge_ratings, with_point

# Weights are added up in millionths. Sums of larger weights could overflow.
LARGEST_WEIGHT = 1e9
UNNAMED_EVENT = "event is not in [data.event_weights]"


def judge_events(
    rows: pl.LazyFrame,
    file: str,
    *,
    times: str,
    rules: Rules,
    decimal_comma: bool = False,
    noun: str = "weight",
) -> pl.LazyFrame:
    """Typed events with the reason for their rejection, null for good rows; `rating` is the weight of the event.

    The columns `event` and `weight` stay, so that events can be written as they were sent; a decimal comma becomes a
    point.

    Args:
        rows: `user_id`, `item_id`, `timestamp`, any of `event` and `weight`, and the columns of the readers.
        file: name of the file inside the source.
        times: form of times that are text or numbers, as `times.form_of` returns it.
        rules: format options of the source.
        decimal_comma: whether weights are written like 4,5.
        noun: name of the weight in the reasons.
    """
    types = rows.collect_schema()
    of_type = _of_type(rules.event_weights, rules.other_events == "count") if "event" in types else pl.lit(1.0)
    of_row = pl.lit(1.0)
    if "weight" in types:
        rows = rows.with_columns(with_point("weight", types["weight"], decimal_comma=decimal_comma))
        of_row = pl.col("weight").cast(pl.Float64, strict=False)
    unnamed = pl.when(of_type.is_null()).then(pl.lit(UNNAMED_EVENT))
    weighed = rows.with_columns(
        pl.coalesce(pl.col(PROBLEM), unnamed).alias(PROBLEM),
        rating=pl.when(of_type.is_null()).then(0.0).otherwise(of_type * of_row),
    )
    scale = (-LARGEST_WEIGHT, LARGEST_WEIGHT)
    return judge_ratings(weighed, file, scale=scale, times=times, now=rules.now, noun=noun)


def concatenated(files: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    """Judged events of several files. If not all have the same columns, `weight` is the weight of the event."""
    names = [{"event", "weight"} & {*rows.collect_schema()} for rows in files]
    if any(each != names[0] for each in names):
        files = [rows.drop("event", strict=False).with_columns(weight=pl.col("rating")) for rows in files]
    return pl.concat(files, how="diagonal_relaxed")


def as_events(ratings: pl.LazyFrame) -> pl.LazyFrame:
    """Judged ratings as events of weight 1."""
    return ratings.with_columns(rating=pl.lit(1.0, pl.Float32))


def without_times(ratings: pl.LazyFrame) -> pl.LazyFrame:
    """Judged ratings with the time that stands for no time."""
    never = pl.lit(datetime(1970, 1, 1)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return ratings.with_columns(timestamp=never)


def _of_type(weights: Mapping[str, float], others_count: bool) -> pl.Expr:
    """The weight of an event's type; null if the type has none."""
    return (
        pl.col("event")
        .cast(pl.String)
        .str.strip_chars()
        .replace_strict(dict(weights) or {"": None}, default=1.0 if others_count else None, return_dtype=pl.Float64)
    )
