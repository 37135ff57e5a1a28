"""What looks odd in ratings and attributes although every row is good: told to a person, who knows what was meant.

Rows that break a rule are rejected where they are read; what must hold of tables is in `quality`.
"""

from collections.abc import Iterator

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.preferences import span

# What has more values is a name or a text, where two that begin alike mean nothing.
_MAX_VALUES = 200


def scale_hints(ratings: nw.LazyFrame) -> list[str]:
    """What is odd about the ratings as a scale: counts or amounts, and strays beyond all others.

    Args:
        ratings: column rating.
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
            "scale: lists are made from their logarithms, but models of ratings predict them as they are, mostly the "
            "few largest. Land their logarithms, or 1 for each, to have those mean something"
        ]
    if lowest < low or highest > high:
        return [
            f"99.9 % of the ratings lie between {low:g} and {high:g}, the others reach from {lowest:g} to {highest:g}: "
            f"if those are mistakes, `[data] rating_scale = [{low:g}, {high:g}]` rejects them"
        ]
    return []


def attribute_hints(users: nw.LazyFrame) -> list[str]:
    """Values of attributes that may mean the same and are told apart: M, m and Male.

    Args:
        users: attributes in any columns; those that are not text are left out.
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
    """Groups of values that differ in case and blanks only, or of which one is the other's first letter."""
    groups: dict[str, list[str]] = {}
    for value in values:
        groups.setdefault(" ".join(value.casefold().split()), []).append(value)
    for letter in [group for group in groups if len(group) == 1 and group.isalpha()]:
        longer = [group for group in groups if len(group) > 1 and group.startswith(letter)]
        # Of two that begin alike, the letter stands for neither.
        if len(longer) == 1:
            groups[letter] += groups.pop(longer[0])
    yield from (group for group in groups.values() if len(group) > 1)
