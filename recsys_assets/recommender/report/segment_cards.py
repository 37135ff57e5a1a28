"""Segment cards: items of a segment by probability and by lift, and the traits of its users.

The page shows cards as text; charts of cards belong in `segment_charts`.
"""

from dataclasses import dataclass

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.report.attributes import over_represented

CARD_ITEMS = 20
_CARD_TRAITS = 4


@dataclass(frozen=True)
class Card:
    """One segment.

    Attributes:
        segment: number of the segment.
        users: number of users with their highest affinity for the segment.
        share: share of these users among all users with a segment.
        traits: traits of its users; columns row, text, everybody as in `over_represented`.
        by_probability: the most probable items; columns rank, title, probability.
        by_lift: the items with the highest lift; columns lift_rank, title, lift.
    """

    segment: int
    users: int
    share: float
    traits: list[dict[str, str]]
    by_probability: pl.DataFrame
    by_lift: pl.DataFrame


def segment_cards(segment_items: nw.LazyFrame, user_segments: nw.LazyFrame, users: nw.LazyFrame) -> list[Card]:
    """The cards of all segments by number, with at most `CARD_ITEMS` items in each list.

    Args:
        segment_items: the table `segment_items`.
        user_segments: the table `user_segments`; a segment may have no users.
        users: the table `users`; without attributes, cards have no traits.
    """
    sizes = dict(to_polars(user_segments.group_by("segment").agg(nw.len().alias("users"))).iter_rows())
    total = max(sum(sizes.values()), 1)
    traits = over_represented(users, user_segments, _CARD_TRAITS)
    return [
        Card(
            segment=segment,
            users=sizes.get(segment, 0),
            share=sizes.get(segment, 0) / total,
            traits=traits.filter(segment=segment).drop("segment").to_dicts(),
            by_probability=_first(items, "rank").select("rank", "title", "probability"),
            by_lift=_first(items, "lift_rank").select("lift_rank", "title", "lift"),
        )
        for (segment,), items in to_polars(segment_items).sort("segment").partition_by("segment", as_dict=True).items()
    ]


def largest(cards: list[Card], most: int) -> list[Card]:
    """The cards of the largest segments, at most `most`, by number."""
    by_size = sorted(cards, key=lambda card: (-card.users, card.segment))
    return sorted(by_size[:most], key=lambda card: card.segment)


def _first(items: pl.DataFrame, rank: str) -> pl.DataFrame:
    return items.filter(pl.col(rank) <= CARD_ITEMS).sort(rank)
