"""Hints about odd ratings and attributes in valid rows; only a person can tell whether they are mistakes.

Rows that break a rule are rejected by `ingest`. Rules for whole tables are in `evaluation/quality`.
"""

from collections.abc import Iterator

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.preferences import span

# A column with more values holds names or free text, in which a common first letter means nothing.
_MAX_VALUES = 200
# A rarer value is a mistake, not a mark.
_MARK_SHARE = 0.02
# On a shorter scale, -1 beside 0 and 1 is a dislike.
_LONG_SCALE = 4


def scale_hints(
    ratings: nw.LazyFrame,
    as_events: str = "name their column `weight` below [data.columns] in the settings.toml of a new home",
) -> list[str]:
    """Report ratings that are counts or amounts instead of a scale, and outliers beyond the scale.

    Args:
        ratings: column rating.
        as_events: what to do to read the rows as events.
    """
    rating = nw.col("rating").cast(nw.Float64())
    lowest, highest, median = to_polars(
        ratings.select(low=rating.min(), high=rating.max(), median=rating.median())
    ).row(0)
    if lowest is None:
        return []
    low, high, unit = span(ratings)
    if unit:
        return [
            f"ratings from {lowest:,g} to {highest:,g} with a median of {median:,g} are counts or amounts, no rating "
            "scale: lists are made from the logarithms, but rating models predict the numbers themselves, so the few "
            f"largest decide their scores. Events have no rating models. To read them as events, {as_events}"
        ]
    if lowest < low or highest > high:
        return [
            f"99.9 % of the ratings lie between {low:g} and {high:g}, the others reach from {lowest:g} to {highest:g}: "
            f"if the others are mistakes, `[data] rating_scale = [{low:g}, {high:g}]` rejects them"
        ]
    return []


def mark_hints(ratings: nw.LazyFrame) -> list[str]:
    """Report a rating that stands apart from all others, as marks for "not rated" do.

    Args:
        ratings: column rating.
    """
    counts = to_polars(ratings.group_by("rating").agg(count=nw.len())).sort("rating").rows()
    rated = [(float(value), count) for value, count in counts]
    if len(rated) < 3:
        return []
    (lowest, fewest), (second, next_count), (last, _), (highest, most) = rated[0], rated[1], rated[-2], rated[-1]
    total = sum(count for _, count in rated)
    is_mark_below = lowest < 0 <= second and highest >= _LONG_SCALE
    is_zero = lowest == 0 and second >= 1 and fewest >= max(2 * next_count, _MARK_SHARE * total)
    is_mark_above = highest - last > last - lowest and most >= _MARK_SHARE * total
    if is_mark_below or is_zero:
        mark, count, low, high = lowest, fewest, second, highest
    elif is_mark_above:
        mark, count, low, high = highest, most, lowest, last
    else:
        return []
    return [
        f"{count:,} of {total:,} ratings are {mark:g}, apart from the others, {low:g} to {high:g}: if it means "
        f"'not rated', `not_rated = [{mark:g}]` below [data] in settings.toml leaves these rows out"
    ]


def time_hints(ratings: nw.LazyFrame) -> list[str]:
    """Report ratings that all have one time.

    Args:
        ratings: column timestamp.
    """
    time = nw.col("timestamp")
    first, last, rows = to_polars(ratings.select(first=time.min(), last=time.max(), rows=nw.len())).row(0)
    if rows < 2 or first != last:
        return []
    return [
        "all ratings have one time, which counts as none: splits are drawn at random, and scores under cuts in time, "
        "of latest ratings and of next items say nothing about time"
    ]


def attribute_hints(users: nw.LazyFrame) -> list[str]:
    """Report attribute values that are distinct but may mean the same, such as M, m and Male.

    Args:
        users: one row per user with any attribute columns. Only text columns are looked at.
    """
    texts = [name for name, dtype in users.collect_schema().items() if dtype in (nw.String(), nw.Categorical())]
    values = {
        name: to_polars(users.select(name).unique().head(_MAX_VALUES + 1))[name].drop_nulls().cast(pl.String).sort()
        for name in texts
        if name != "user_id"
    }
    return [
        f"{name}: {', '.join(map(repr, alike))} are told apart; write them alike if they mean the same"
        for name, different in values.items()
        if len(different) <= _MAX_VALUES
        for alike in _alike(different.to_list())
    ]


def _alike(values: list[str]) -> Iterator[list[str]]:
    """Group values that differ in case and blanks only, and a single letter with the value that begins with it."""
    groups: dict[str, list[str]] = {}
    for value in values:
        groups.setdefault(" ".join(value.casefold().split()), []).append(value)
    for letter in [group for group in groups if len(group) == 1 and group.isalpha()]:
        longer = [group for group in groups if len(group) > 1 and group.startswith(letter)]
        # If two values begin with the letter, it is unclear which one the letter abbreviates.
        if len(longer) == 1:
            groups[letter] += groups.pop(longer[0])
    yield from (group for group in groups.values() if len(group) > 1)
