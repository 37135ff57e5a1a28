"""Made-up ratings with planted taste, of many shapes: users and items have a group, and users mostly rate their own.

A user's group is its id modulo the number of groups, and so is an item's. So whoever reads the lists can tell how much
of them is in the user's own taste.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

Scale = Literal["likes", "stars", "0 to 10"]
_START = 1_500_000_000
_DAY = 86_400
# Between a user's first and last rating, as a share of the whole time.
_STAY = 0.1
# Draws per rating that is wanted: an item is drawn several times, and counts once.
_DRAWS = 6


@dataclass(frozen=True)
class Shape:
    """What a data set looks like.

    Attributes:
        name: names it in tables.
        n_users: users.
        n_items: items.
        median_ratings: of a user; half of the users have between two thirds and three halves of it.
        scale: likes without a degree, 1 to 5 stars, or 0 to 10.
        popularity: exponent of Zipf's law within a group; 0 is flat.
        n_groups: tastes.
        own_share: share of a user's ratings in its own group.
        group_popularity: how much more one group's items are rated than the next one's by users of other groups.
        seed: of everything that is drawn.
    """

    name: str
    n_users: int
    n_items: int
    median_ratings: float
    scale: Scale
    popularity: float
    n_groups: int = 4
    own_share: float = 0.85
    group_popularity: float = 1.0
    seed: int = 0


SHAPES = (
    Shape("few likes, heavy popularity", 5_000, 80, 5, "likes", 1.0),
    Shape("few likes, one loud group", 4_000, 120, 4, "likes", 0.8, 6, 0.7, 4.0, 1),
    Shape("two likes, flat", 10_000, 300, 2.5, "likes", 0.0, 5, 0.9, seed=2),
    Shape("small catalogue, 0 to 10", 1_500, 50, 12, "0 to 10", 0.5, 3, 0.7, seed=3),
    Shape("stars, heavy popularity", 3_000, 2_000, 60, "stars", 1.0, 6, 0.6, seed=4),
    Shape("long histories, 0 to 10", 1_000, 1_500, 200, "0 to 10", 0.7, 5, 0.6, seed=5),
    Shape("20,000 items, stars", 8_000, 20_000, 40, "stars", 1.0, 8, 0.8, seed=6),
    Shape("few users, stars", 200, 400, 30, "stars", 0.6, 4, 0.7, seed=7),
    # The rule of the quick choice was chosen without the shapes that follow.
    Shape("few users, stars, drawn again", 200, 400, 30, "stars", 0.6, 4, 0.7, seed=24),
    Shape("few users, likes", 120, 250, 25, "likes", 0.9, 5, 0.75, seed=21),
    Shape("few users, 0 to 10", 250, 600, 40, "0 to 10", 0.8, 4, 0.65, seed=22),
    Shape("few users, short histories", 400, 100, 8, "stars", 0.5, 3, 0.8, seed=23),
    Shape("very few users", 80, 200, 40, "stars", 0.7, 4, 0.7, seed=25),
)


def planted(shape: Shape) -> pl.DataFrame:
    """Ratings: user_id, item_id (integers), rating, timestamp (seconds).

    Users come one after the other and rate within a tenth of the whole time, so a cut in time leaves users without a
    training rating.
    """
    random = np.random.default_rng(shape.seed)
    wanted = np.exp(random.normal(np.log(shape.median_ratings), 0.6, shape.n_users)).round().astype(int)
    wanted = wanted.clip(2, shape.n_items // 2)
    user, item = _chosen(shape, wanted, random)
    own = user % shape.n_groups == item % shape.n_groups
    arrival = random.random(shape.n_users) * (1 - _STAY)
    when = arrival[user] + _STAY * random.random(len(user))
    return pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "rating": _ratings(shape.scale, own, random),
            "timestamp": (_START + when * 365 * _DAY).astype(np.int64),
        }
    )


def truth(shape: Shape) -> np.ndarray:
    """How likely a user of each group is to rate each item next, shape (n_groups, n_items)."""
    own = shape.own_share * np.eye(shape.n_groups) + (1 - shape.own_share) * _loudness(shape)
    items = np.arange(len(_weights(shape)) * shape.n_groups)
    likely = own[:, items % shape.n_groups] * _weights(shape)[items // shape.n_groups]
    return np.pad(likely, ((0, 0), (0, shape.n_items - len(items))))


def _loudness(shape: Shape) -> np.ndarray:
    """Share of each group in what users rate outside their own taste, shape (n_groups,)."""
    loudness = shape.group_popularity ** -np.arange(shape.n_groups)
    return loudness / loudness.sum()


def _weights(shape: Shape) -> np.ndarray:
    """Share of each item in what is rated of its group, the most popular one first."""
    weights = np.arange(1, shape.n_items // shape.n_groups + 1) ** -shape.popularity
    return weights / weights.sum()


def _chosen(shape: Shape, wanted: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Users and the items that each rates, every pair once."""
    user = np.repeat(np.arange(shape.n_users), wanted * _DRAWS)
    other = random.choice(shape.n_groups, len(user), p=_loudness(shape))
    group = np.where(random.random(len(user)) < shape.own_share, user % shape.n_groups, other)
    weights = _weights(shape)
    place = random.choice(len(weights), len(user), p=weights)
    drawn = pl.DataFrame({"user": user, "item": place * shape.n_groups + group}).unique(maintain_order=True)
    nth = drawn.with_columns(nth=pl.int_range(pl.len()).over("user"))
    kept = nth.filter(pl.col("nth") < pl.Series(wanted)[nth["user"]])
    return kept["user"].to_numpy(), kept["item"].to_numpy()


def _ratings(scale: Scale, own: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Higher for items of the user's own group, but for likes, which are all alike."""
    if scale == "likes":
        return np.ones(len(own))
    low, high = (1, 5) if scale == "stars" else (0, 10)
    level = np.where(own, 0.75, 0.4) + random.normal(0, 0.25, len(own))
    return (low + (high - low) * level.clip(0, 1)).round()
