"""Small made-up data with a planted structure, in the layout of MovieLens 100K.

Users have one of two tastes, which their occupation tells; each taste sees most items of its own genre and rates them
high, and sees few of the others and rates them low. The last sixth of the users comes late, so that a cut in time at
0.8 leaves users without a training rating.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

GENRES = ("Action", "Romance")
OCCUPATIONS = ("engineer", "writer")
_START = 880_000_000
_DAY = 86_400


@dataclass(frozen=True)
class MadeUp:
    """Attributes are tables as they are read: ratings, users, items, with original ids.

    Attributes:
        ratings: user_id, item_id, rating, timestamp (seconds).
        users: user_id, age, gender, occupation, zip_code.
        items: item_id, title, year, genre.
    """

    ratings: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame

    def write(self, folder: Path) -> Path:
        """The files u.data, u.user, u.item and u.genre in `folder`, which is made."""
        folder.mkdir(parents=True)
        flags = [(pl.col("genre") == genre).cast(pl.Int8).alias(genre) for genre in GENRES]
        items = self.items.select(
            "item_id",
            pl.format("{} ({})", "title", "year"),
            released=pl.format("01-Jan-{}", "year"),
            video=pl.lit(""),
            url=pl.lit(""),
            unknown=pl.lit(0),
        ).with_columns(self.items.select(flags))
        genres = pl.DataFrame({"genre": ["unknown", *GENRES], "number": range(len(GENRES) + 1)})
        files = {"u.data": (self.ratings, "\t"), "u.user": (self.users, "|"), "u.item": (items, "|")}
        for name, (frame, separator) in (files | {"u.genre": (genres, "|")}).items():
            frame.write_csv(folder / name, separator=separator, include_header=False, quote_style="never")
        return folder


def made_up(*, n_users: int = 60, n_items: int = 40, first_user: int = 1, day: int = 0, seed: int = 0) -> MadeUp:
    """Users `first_user` onwards, each with about half of the items rated; ratings begin on `day`.

    Even users (0 first) like items of the first genre, which are the ones with odd ids.
    """
    generator = np.random.default_rng(seed)
    taste = np.arange(n_users) % 2
    genre = np.arange(n_items) % 2
    suits = taste[:, None] == genre
    user, item = np.nonzero(generator.random((n_users, n_items)) < np.where(suits, 0.75, 0.25))
    likes = suits[user, item]
    rating = np.clip(np.where(likes, 4, 2) + generator.integers(-1, 2, len(user)), 1, 5)
    late = user >= n_users * 5 // 6
    when = _START + _DAY * (day + 100 * late) + generator.integers(0, 90 * _DAY, len(user))
    ratings = pl.DataFrame({"user_id": user + first_user, "item_id": item + 1, "rating": rating, "timestamp": when})
    users = pl.DataFrame(
        {
            "user_id": np.arange(n_users) + first_user,
            "age": generator.integers(18, 70, n_users),
            "gender": generator.choice(["F", "M"], n_users),
            "occupation": np.array(OCCUPATIONS)[taste],
            "zip_code": [f"{digit}0210" for digit in generator.integers(0, 10, n_users)],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": np.arange(n_items) + 1,
            "title": [f"{GENRES[kind]} Story {number + 1}" for number, kind in enumerate(genre)],
            "year": 1950 + np.arange(n_items),
            "genre": np.array(GENRES)[genre],
        }
    )
    return MadeUp(ratings.sample(fraction=1, shuffle=True, seed=seed), users, items)
