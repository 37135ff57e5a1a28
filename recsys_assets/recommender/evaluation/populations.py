"""Whose scores are shown apart: users by how many ratings they trained with, by gender and by age.

Which rows are scored belongs to the protocols.
"""

from collections.abc import Iterator

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.evaluation.rows import populations_by_history

# As many as new users reveal at most; on MovieLens 1M's cut in time 106 of 1,142 seen test users have so few, and only
# 22 have five or fewer.
MOST_OF_FEW = 20
# MovieLens's own classes, each up to the next one's beginning.
_AGES = (0, 18, 25, 35, 45, 50, 56)
# Fixed, whatever a model takes for a session, so that scores of several configurations stand for the same users.
_NEW_SESSION_SECONDS = 3600
# A group of fewer users says nothing.
_LEAST_USERS = 10


def by_experience(n_train: np.ndarray) -> dict[str, np.ndarray]:
    """The masks all, seen, few_ratings (1 to 20 training ratings), unseen; each of shape (users,).

    Args:
        n_train: number of training ratings of each user, shape (users,).
    """
    few = (n_train > 0) & (n_train <= MOST_OF_FEW)
    return {**populations_by_history(n_train), "few_ratings": few}


def by_pause(seconds: np.ndarray) -> dict[str, np.ndarray]:
    """The masks same_second, same_session (below an hour) and new_session; each of shape (users,).

    A rating of the same second as the one before comes from a page on which several movies are rated at once, so the
    order within that second says how the page was filled in.

    Args:
        seconds: between each user's last two ratings, shape (users,); NaN where the user is not asked about.

    Returns:
        Only masks of 10 users or more.
    """
    masks = {
        "same_second": seconds < 1,
        "same_session": (seconds >= 1) & (seconds < _NEW_SESSION_SECONDS),
        "new_session": seconds >= _NEW_SESSION_SECONDS,
    }
    return {name: mask for name, mask in masks.items() if mask.sum() >= _LEAST_USERS}


def by_demographics(users: nw.LazyFrame, scored: np.ndarray) -> dict[str, np.ndarray]:
    """The groups `gender F` and so on, `age 18-24` and so on; none where the users table does not tell.

    Args:
        users: table users. Of its attributes, those named gender and age (a number of years) count.
        scored: dense ids, shape (users,).

    Returns:
        Masks of shape (users,). Users without the attribute are in no group of it; groups of fewer than 10 users, or
        of everybody, are left out.
    """
    known = {name.lower(): name for name in users.collect_schema().names()}
    wanted = [known[name] for name in ("gender", "age") if name in known]
    if not wanted:
        return {}
    frame = to_polars(users, "user", *wanted).rename({known[name]: name for name in known if known[name] in wanted})
    attributes = pl.DataFrame({"user": scored}).join(frame, on="user", how="left", maintain_order="left")
    masks = {name: mask for column in attributes.columns[1:] for name, mask in _groups(attributes[column])}
    return {name: mask for name, mask in masks.items() if _LEAST_USERS <= mask.sum() < len(scored)}


def _groups(values: pl.Series) -> Iterator[tuple[str, np.ndarray]]:
    if values.name == "age":
        ages = values.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        for low, high in zip(_AGES, (*_AGES[1:], np.inf), strict=True):
            label = f"age {low}-{high - 1}" if np.isfinite(high) else f"age {low}+"
            yield label, (ages >= low) & (ages < high)
        return
    names = values.cast(pl.String)
    for name in names.drop_nulls().unique().sort():
        yield f"{values.name} {name}", (names == name).fill_null(False).to_numpy()
