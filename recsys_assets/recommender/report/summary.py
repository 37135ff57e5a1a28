"""Summary of the data: users, items, ratings, time span, rating scale, rejected rows, missing values.

Each number is one aggregate on the engine of its table; only the results are collected. Texts about scores belong in
`verdicts`.
"""

from dataclasses import dataclass

import narwhals as nw

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind


@dataclass(frozen=True)
class Fact:
    """A number about the data, its label, and a line of context."""

    label: str
    value: str
    context: str = ""


@dataclass(frozen=True)
class DataSummary:
    """The data in numbers.

    Attributes:
        users: number of users with a rating.
        ratings: number of ratings.
        items: number of items, rated or not.
        scale: lowest and highest rating in words; empty for events and without ratings.
        facts: the numbers to show, users first.
        rejections: reason and number of rejected rows, most frequent reason first.
        has_demographics: whether any user has any attribute.
    """

    users: int
    ratings: int
    items: int
    scale: str
    facts: tuple[Fact, ...]
    rejections: tuple[tuple[str, int], ...]
    has_demographics: bool


def data_summary(
    ratings: nw.LazyFrame,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    rejected_rows: nw.LazyFrame,
    kind: DataKind = RATINGS_WITH_TIMES,
) -> DataSummary:
    """The summary of these tables, each of which may be empty; ratings without times have no span."""
    rating = to_polars(
        ratings.select(
            nw.len().alias("ratings"),
            nw.col("user").n_unique().alias("users"),
            nw.col("item").n_unique().alias("items"),
            nw.col("rating").min().alias("lowest"),
            nw.col("rating").max().alias("highest"),
            nw.col("rating").n_unique().alias("values"),
            nw.col("rating").mean().alias("mean"),
            nw.col("timestamp").min().alias("first"),
            nw.col("timestamp").max().alias("last"),
        )
    ).row(0, named=True)
    reasons = to_polars(rejected_rows.group_by("reason").agg(nw.len().alias("rows")))
    rejections = tuple(reasons.sort("rows", "reason", descending=[True, False]).iter_rows())
    all_users, all_items, bare = _rows(users), _rows(items), _without_attributes(users)
    noun = "reason" if len(rejections) == 1 else "reasons"
    facts = [
        Fact("users", f"{rating['users']:,}", _beyond(all_users - rating["users"], "more without a rating")),
        Fact("items", f"{all_items:,}", f"{rating['items']:,} of them rated"),
        Fact(
            "users × items with ratings" if kind.is_events else "ratings", f"{rating['ratings']:,}", _per_user(rating)
        ),
        *(_rating_facts(rating, all_items, kind) if rating["ratings"] else ()),
        Fact("rejected rows", f"{sum(rows for _, rows in rejections):,}", _beyond(len(rejections), noun)),
        Fact("users without demographics", f"{bare:,}", f"{100 * bare / all_users:.1f}\u00a0% of all" if bare else ""),
    ]
    has_scale = rating["ratings"] and not kind.is_events
    return DataSummary(
        users=rating["users"],
        ratings=rating["ratings"],
        items=all_items,
        scale=f" from {rating['lowest']:g} to {rating['highest']:g}" if has_scale else "",
        facts=tuple(facts),
        rejections=rejections,
        has_demographics=bare < all_users,
    )


def _rating_facts(rating: dict, all_items: int, kind: DataKind) -> list[Fact]:
    density = rating["ratings"] / (rating["users"] * all_items) if all_items else 0.0
    context = f"{rating['first']:%Y-%m-%d} to {rating['last']:%Y-%m-%d}"
    return [
        Fact("span", _span(rating["first"].year, rating["last"].year), context)
        if kind.times
        else Fact("span", "–", "the ratings have no times"),
        Fact(
            "weights" if kind.is_events else "scale",
            f"{rating['lowest']:g} to {rating['highest']:g}",
            f"{rating['values']} values, mean {rating['mean']:.2f}",
        ),
        Fact("density", f"{100 * density:.2f}\u00a0%", "of all pairs of user and item"),
    ]


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} – {last}"


def _per_user(rating: dict) -> str:
    return f"{rating['ratings'] / rating['users']:,.0f} per user" if rating["users"] else ""


def _beyond(number: int, what: str) -> str:
    return f"{number:,} {what}" if number > 0 else ""


def _rows(table: nw.LazyFrame) -> int:
    return int(to_polars(table.select(nw.len().alias("rows")))["rows"][0])


def _without_attributes(users: nw.LazyFrame) -> int:
    attributes = [name for name in users.collect_schema().names() if name not in ("user", "user_id")]
    bare = users.filter(*[nw.col(name).is_null() for name in attributes]) if attributes else users
    return _rows(bare)
