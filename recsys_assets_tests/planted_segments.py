"""Ratings with planted groups: users of a group rate its items often and high, and one of the next group low."""

import numpy as np
import polars as pl

from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models.segments import SegmentSettings

N_GROUPS, ITEMS_PER_GROUP = 3, 10
# The last item is in the catalogue, but nobody of the train users has rated it.
N_ITEMS = N_GROUPS * ITEMS_PER_GROUP + 1
UNRATED = N_ITEMS - 1
INDEX = Index(n_users=180, n_items=N_ITEMS, fingerprint="planted")
LDA = SegmentSettings(n_segments=N_GROUPS, passes=4, batch_size=32)


def group_of(ids: np.ndarray | pl.Series) -> np.ndarray:
    """The planted group of users."""
    return np.asarray(ids) % N_GROUPS


def planted_ratings(users: range) -> pl.DataFrame:
    """Each user rates 6 items of its own group with 5 and one of the next group with 2."""
    random = np.random.default_rng(users.start)
    rows = []
    for user in users:
        group = user % N_GROUPS
        own = group * ITEMS_PER_GROUP + random.choice(ITEMS_PER_GROUP, 6, replace=False)
        other = (group + 1) % N_GROUPS * ITEMS_PER_GROUP + random.integers(ITEMS_PER_GROUP)
        rows += [(user, int(item), 5.0) for item in own] + [(user, int(other), 2.0)]
    return frame("user item rating", *rows)


def frame(names: str, *rows: tuple) -> pl.DataFrame:
    """A frame with the types of the tables."""
    types = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32, "segment": pl.Int32}
    return pl.DataFrame(rows, schema={name: types.get(name) for name in names.split()}, orient="row")


TRAIN = planted_ratings(range(120))
TEST = planted_ratings(range(120, 180))


def catalogue() -> pl.DataFrame:
    """The table items; the first has no title."""
    ids = np.arange(N_ITEMS, dtype=np.int32)
    return pl.DataFrame(
        {
            "item": ids,
            "item_id": [f"m{item}" for item in ids],
            "title": [None, *(f"Item {item}" for item in ids[1:])],
        }
    )


def held_out() -> pl.DataFrame:
    """A response of each test user: user, item; from its own group and not in its history."""
    rated = set(TEST.select("user", "item").iter_rows())
    items = [
        next(item for item in range(user % 3 * 10, user % 3 * 10 + 10) if (user, item) not in rated)
        for user in range(120, 180)
    ]
    return frame("user item", *zip(range(120, 180), items, strict=True))


RESPONSES = frame("user item rating", (0, 0, 4.0), (1, 1, 3.0), (2, 9, 1.0))
