"""Quality rules for tables, models and scores: each rule returns a `Finding` with the actual and expected value.

The consequences of a broken rule and the storage of the last good state belong in `orchestration/checks`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field

from recsys_assets.recommender.data.frames import held, row_count, same_engine, to_polars
from recsys_assets.recommender.data.hints import scale_hints, time_hints
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.scale import EVERYTHING, Scale
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.tables import Table
from recsys_assets.recommender.evaluation.score_table import RANDOM, UPPER_BOUND
from recsys_assets.recommender.models.segments import largest_shift, share_shift

# The bounds are summed in another order than the models, so equal scores can differ by rounding.
_ROUNDING = 1e-9
# `top5pct_rating_published` has no bounds: a model may take fewer rows than the bound takes.
_BOUNDED = ("top5pct_rating",)
# Finer ratings are rounded to half points, so that two distributions have the same bins.
_BINS_PER_POINT = 2
# Scores of lists are noise with fewer scored users, or with a smaller share of the users with test ratings.
_FEWEST_SCORED, _SMALLEST_SCORED_SHARE = 10, 0.1


class CheckSettings(Section):
    """Limits for changes of tables since their last good state. To accept a change, raise its limit for one run."""

    max_row_drop: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of the rows of users, items or ratings that may be lost; a larger loss is an error.",
    )
    max_distribution_shift: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest share of the ratings that may have another value than before; more is a warning.",
    )
    max_segment_shift: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Largest share of the users' affinity that may move between segments; a larger share is a "
        "warning. A fit on slightly different ratings moves up to 0.17 by itself on MovieLens 1M.",
    )


@dataclass(frozen=True)
class Finding:
    """The result of one rule.

    Attributes:
        rule: the rule, in words.
        actual: the value found.
        expected: the value of a sound table.
        threshold: the worst value that passes.
        passed: whether the rule holds.
        severe: whether a broken rule blocks downstream assets.
        detail: where the rule is broken, for the reader.
        is_of_key: whether the rule is about the key of a table.
    """

    rule: str
    actual: float | str
    expected: float | str
    threshold: float | str
    passed: bool
    severe: bool = True
    detail: str = ""
    is_of_key: bool = False


def schema_findings(frame: nw.LazyFrame, table: Table, sizes: Mapping[str, int]) -> tuple[int, list[Finding]]:
    """Number of rows, and findings on columns, types, nulls, finite numbers, ranges, indices and key.

    Passes over the table twice.

    Args:
        frame: the table.
        table: declaration of the table.
        sizes: number of rows of each table that an index column refers to, by table.
    """
    types = frame.collect_schema()
    wrong = [
        f"{name}: {types.get(name, 'missing')} for {' or '.join(map(str, column.dtypes))}"
        for name, column in table.columns.items()
        if types.get(name) not in column.dtypes
    ]
    columns = Finding("columns and types", len(wrong), 0, 0, not wrong, detail="; ".join(wrong))
    there = [name for name in table.columns if name in types]
    counted = {rule: dict(_violations(rule, table, there, types, sizes)) for rule in _RULES}
    facts = to_polars(
        frame.select(
            nw.len().alias("rows"),
            *(
                expression.cast(nw.Int64()).sum().alias(f"{rule}/{name}")
                for rule in counted
                for name, expression in counted[rule].items()
            ),
        )
    ).row(0, named=True)
    rows = int(facts["rows"])
    found = [
        _none_of(rule, {name: int(facts[f"{rule}/{name}"] or 0) for name in of_rule})
        for rule, of_rule in counted.items()
        if of_rule
    ]
    return rows, [columns, *found, *_key_findings(frame, table, there, rows)]


_RULES = ("no nulls", "finite numbers", "values in range", "indices of known rows")


def _violations(
    rule: str, table: Table, there: Sequence[str], types: nw.Schema, sizes: Mapping[str, int]
) -> Iterator[tuple[str, nw.Expr]]:
    """The columns under a rule, each with an expression that is true for rows that break the rule."""
    if rule == "finite numbers":
        yield from ((name, ~nw.col(name).is_finite()) for name, dtype in types.items() if dtype.is_float())
        return
    for name in there:
        declared, column = table.columns[name], nw.col(name)
        if rule == "no nulls" and not declared.nullable:
            yield name, column.is_null()
        elif rule == "values in range" and (bounds := _outside(column, declared.low, declared.high)) is not None:
            yield name, bounds
        elif rule == "indices of known rows" and declared.refers_to in sizes:
            yield name, (column < 0) | (column >= sizes[str(declared.refers_to)])


def _outside(column: nw.Expr, low: float | None, high: float | None) -> nw.Expr | None:
    if low is None:
        return None if high is None else column > high
    return column < low if high is None else (column < low) | (column > high)


def _none_of(rule: str, broken: Mapping[str, int]) -> Finding:
    """The finding of a rule that no row may break; `broken` counts the bad rows by column."""
    total = sum(broken.values())
    detail = ", ".join(f"{name}: {count:,}" for name, count in broken.items() if count)
    return Finding(rule, total, 0, 0, total == 0, detail=detail)


def _key_findings(frame: nw.LazyFrame, table: Table, there: Sequence[str], rows: int) -> list[Finding]:
    if not set(table.key) <= set(there):
        return []
    distinct = int(to_polars(frame.select(*table.key).unique().select(nw.len().alias("n")))["n"][0])
    rule = f"one row per {', '.join(table.key)}"
    return [Finding(rule, rows - distinct, 0, 0, rows == distinct, is_of_key=True)]


def drop_finding(rows: int, before: int | None, *, max_drop: float) -> list[Finding]:
    """The drop in rows since the last good state; empty without a last good state.

    Args:
        rows: number of rows now.
        before: number of rows at the last good state.
        max_drop: largest share of the rows that may be missing.
    """
    if not before:
        return []
    drop = max(0.0, 1 - rows / before)
    detail = f"{rows:,} rows, {before:,} before" if drop > max_drop else ""
    return [Finding("no sudden drop in rows", drop, 0.0, max_drop, drop <= max_drop, detail=detail)]


def rating_shares(ratings: nw.LazyFrame) -> dict[str, float]:
    """Share of the ratings at each value, rounded to half points; by value."""
    value = (nw.col("rating") * _BINS_PER_POINT).round() / _BINS_PER_POINT
    counted = to_polars(ratings.select(value=value).group_by("value").agg(n=nw.len())).sort("value")
    total = counted["n"].sum()
    # 17 digits tell all numbers apart, and a half point is as short as with fewer.
    return {f"{value:.17g}": n / total for value, n in counted.iter_rows() if value is not None}


def shift_finding(
    shares: Mapping[str, float], before: Mapping[str, float] | None, *, max_shift: float
) -> list[Finding]:
    """The shift of the rating distribution since the last good state; empty without a last good state.

    Args:
        shares: share of the ratings now, by value.
        before: share of the ratings at the last good state, by value.
        max_shift: largest total variation distance, from 0 to 1.
    """
    if not before:
        return []
    values = {*shares, *before}
    shift = sum(abs(shares.get(value, 0.0) - before.get(value, 0.0)) for value in values) / 2
    rule = "ratings distributed as before"
    return [Finding(rule, shift, 0.0, max_shift, shift <= max_shift, severe=False)]


def segment_shift_finding(segment_shares: pl.DataFrame, *, max_shift: float) -> list[Finding]:
    """The shift of the segment shares since the previous refresh; empty without a previous refresh.

    Args:
        segment_shares: table segment_shares.
        max_shift: largest total variation distance, from 0 to 1.
    """
    shift = share_shift(segment_shares)
    if shift is None:
        return []
    detail = "most: {}, by {:+.3f}".format(*largest_shift(segment_shares)) if shift > max_shift else ""
    rule = "segments as large as before"
    return [Finding(rule, shift, 0.0, max_shift, shift <= max_shift, severe=False, detail=detail)]


def rejected_finding(rejected: Mapping[str, int], accepted: Mapping[str, int], *, max_share: float) -> Finding:
    """The share of rejected rows in the worst batch.

    Args:
        rejected: number of rejected rows, by batch.
        accepted: number of accepted rows, by batch.
        max_share: largest share that passes.
    """
    shares = {batch: n / max(n + accepted.get(batch, 0), 1) for batch, n in rejected.items()}
    worst = max(shares, key=lambda batch: shares[batch], default=None)
    share = shares[worst] if worst is not None else 0.0
    detail = f"batch {worst}: {rejected[worst]:,} rows" if worst is not None and share > max_share else ""
    return Finding("few rejected rows per batch", share, 0.0, max_share, share <= max_share, detail=detail)


def cut_findings(
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    ratings: nw.LazyFrame,
    *,
    n_users: int = 0,
    scale: Scale = EVERYTHING,
) -> list[Finding]:
    """Train and test rows are disjoint in time, and together they are all ratings of the users that are scored.

    Args:
        train_ratings: table train_ratings.
        test_ratings: table test_ratings.
        ratings: table ratings.
        n_users: number of all users.
        scale: the samples.
    """
    ends = [
        to_polars(side.select(first=nw.col("timestamp").min(), last=nw.col("timestamp").max(), rows=nw.len()))
        for side in (train_ratings, test_ratings)
    ]
    last, first = ends[0]["last"][0], ends[1]["first"][0]
    n_train, n_ratings = (row_count(scale.to_score(rows, n_users=n_users)) for rows in (train_ratings, ratings))
    rows = n_train + int(ends[1]["rows"][0])
    in_time = last is not None and first is not None and last <= first
    return [
        # Equal times on both sides are allowed: batch and row order them.
        Finding("training ends before the test begins", str(last), f"at most {first}", str(first), in_time),
        Finding("train and test are all ratings of scored users", rows, n_ratings, n_ratings, rows == n_ratings),
    ]


def scored_finding(train_ratings: nw.LazyFrame, test_ratings: nw.LazyFrame) -> Finding:
    """Whether enough users liked a test item: scores of lists rest on these users alone."""
    users = test_ratings.select("user").unique()
    liked = test_ratings.filter(nw.col("rating") >= relevant_from(train_ratings)).select("user").unique()
    n_users, n_scored = row_count(users), row_count(liked)
    due = max(min(_FEWEST_SCORED, n_users), math.ceil(_SMALLEST_SCORED_SHARE * n_users))
    detail = "" if n_scored >= due else f"of {n_users:,} users with test ratings; scores of lists say next to nothing"
    return Finding("users who liked a test item", n_scored, n_users, due, n_scored >= due, severe=False, detail=detail)


def scale_findings(ratings: nw.LazyFrame) -> list[Finding]:
    """Whether all ratings lie on one rating scale without outliers."""
    hints = scale_hints(ratings)
    return [Finding("ratings are a scale", len(hints), 0, 0, not hints, severe=False, detail="; ".join(hints))]


def times_finding(ratings: nw.LazyFrame) -> Finding:
    """Whether the ratings have different times, which cuts in time and latest ratings need."""
    hints = time_hints(ratings)
    return Finding("ratings have times", len(hints), 0, 0, not hints, severe=False, detail="; ".join(hints))


def histories_finding(rows: int) -> Finding:
    """Whether any train user of case study B has a rating before the latest one.

    Args:
        rows: number of rows of train_histories.
    """
    detail = "each has a single rating; add ratings or raise splitting.train_share" if not rows else ""
    return Finding("ratings before the latest ones of train users", rows, "at least 1", 1, rows > 0, detail=detail)


def finite_finding(arrays: Mapping[str, np.ndarray]) -> Finding:
    """Whether all fitted parameters of a model are finite; `arrays` holds them by name."""
    return _none_of("finite parameters", {name: int((~np.isfinite(array)).sum()) for name, array in arrays.items()})


def recommendation_findings(
    recommendations: nw.LazyFrame,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    excluded: nw.LazyFrame,
    *,
    n: int,
    allowed: pl.Series | None = None,
    most: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Every user has min(n, allowed items) recommendations, ranked from 1, and no item that is not allowed.

    With limits per value, every user who may be shown any item has a list.

    Args:
        recommendations: table recommendations.
        users: table users.
        items: table items.
        excluded: user, item; the ratings whose items are not to be shown to their user.
        n: recommendations per user.
        allowed: ids of the items that may be shown; by default all of them.
        most: how many items of one value a list may hold, by column of `items`. Lists may be shorter then.
    """
    shown, everyone = recommendations.select("user_id", "rank", "item_id"), users.select("user", "user_id")
    catalogue = items.select("item", "item_id")
    may_be = (
        catalogue
        if allowed is None
        else catalogue.join(same_engine(items, allowed.to_frame("item_id")), on="item_id", how="semi")
    )
    n_allowed = row_count(may_be)
    pairs = held(excluded.select("user", "item").join(may_be.select("item"), on="item", how="semi"))
    n_out = pairs.group_by("user").agg(out=nw.len().cast(nw.Int64()))
    given = shown.group_by("user_id").agg(given=nw.len().cast(nw.Int64()), last=nw.col("rank").max().cast(nw.Int64()))
    counts = [nw.col(name).fill_null(0) for name in ("out", "given", "last")]
    per_user = everyone.join(n_out, on="user", how="left").join(given, on="user_id", how="left").with_columns(*counts)
    due = nw.min_horizontal(nw.lit(n), nw.lit(n_allowed) - nw.col("out"))
    least = nw.min_horizontal(nw.lit(1), due) if most else due
    is_wrong = (nw.col("given") > due) | (nw.col("last") != nw.col("given")) | (nw.col("given") < least)
    wrong = held(per_user.filter(is_wrong).select("user_id"))
    indexed = held(shown.join(everyone, on="user_id", how="left").join(catalogue, on="item_id", how="left"))
    unknown = row_count(indexed.filter(nw.col("user").is_null() | nw.col("item").is_null()))
    again = row_count(indexed.join(pairs, on=["user", "item"], how="semi"))
    barred = row_count(indexed.filter(~nw.col("item").is_null()).join(may_be, on="item", how="anti"))
    n_wrong = row_count(wrong)
    examples = ", ".join(to_polars(wrong.sort("user_id").head(3))["user_id"]) if n_wrong else ""
    rule = f"every user has {'1 to ' if most else ''}min({n}, unrated) recommendations"
    return [
        Finding(rule, n_wrong, 0, 0, not n_wrong, detail=f"users such as {examples}" if examples else ""),
        Finding("recommends nothing already rated", again, 0, 0, again == 0),
        Finding("recommends what the rules allow", barred, 0, 0, barred == 0),
        Finding("known users and items", unknown, 0, 0, unknown == 0),
        *_limit_findings(shown, items, most or {}),
    ]


def _limit_findings(shown: nw.LazyFrame, items: nw.LazyFrame, most: Mapping[str, int]) -> Iterator[Finding]:
    """No list holds more items of one value than a rule allows."""
    for column, limit in most.items():
        valued = to_polars(items, "item_id", column)
        # A genre may stand twice beside an item, and counts once.
        listed = valued.explode(column).unique() if isinstance(valued.schema[column], pl.List) else valued
        of_value = same_engine(shown, listed.drop_nulls(column))
        over = row_count(
            shown.join(of_value, on="item_id").group_by("user_id", column).agg(n=nw.len()).filter(nw.col("n") > limit)
        )
        yield Finding(f"at most {limit} of one value of {column} in a list", over, 0, 0, over == 0)


def score_findings(scores: pl.DataFrame) -> list[Finding]:
    """No rating model scores above the upper bound, and none scores below random.

    A score above the upper bound is an error in the evaluation. A model is below random if its whole confidence
    interval is.

    Args:
        scores: table evaluation_scores.
    """
    keys = ["protocol", "population", "metric"]
    bounded = scores.filter(pl.col("metric").is_in(_BOUNDED))

    def bound(model: str, name: str) -> pl.DataFrame:
        return bounded.filter(pl.col("model") == model).select(*keys, pl.col("value").alias(name))

    models = bounded.filter(~pl.col("model").is_in([RANDOM, UPPER_BOUND]))
    between = models.join(bound(UPPER_BOUND, "best"), on=keys, how="left").join(
        bound(RANDOM, "random"), on=keys, how="left"
    )
    above = between.filter(pl.col("value") > pl.col("best") + _ROUNDING)
    below = between.filter(pl.col("high") < pl.col("random"))
    unbounded = between.filter(pl.col("best").is_null() | pl.col("random").is_null())
    return [
        Finding("bounds beside every rating score", len(unbounded), 0, 0, unbounded.is_empty()),
        Finding("no rating score above the upper bound", len(above), 0, 0, above.is_empty(), detail=_named(above)),
        Finding("no rating score below random", len(below), 0, 0, below.is_empty(), severe=False, detail=_named(below)),
    ]


def _named(scores: pl.DataFrame) -> str:
    def told(row: Mapping[str, Any]) -> str:
        return f"{row['model']} ({row['population']}): {row['value']:.3f} of {row['random']:.3f} to {row['best']:.3f}"

    return "; ".join(told(row) for row in scores.iter_rows(named=True))
