"""Populations with scores of their own: users by number of training ratings, by gender, by age, by pause.

The choice of the scored rows belongs in the protocols.
"""

from collections.abc import Iterator

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.evaluation.rows import populations_by_history

# The largest number of ratings that `new_users_*` reveals. In the time cut of MovieLens 1M, 106 of 1,142 seen test
# users have at most 20 training ratings; only 22 have at most five.
MOST_OF_FEW = 20
# Lower ends of the age classes of MovieLens.
_AGES = (0, 18, 25, 35, 45, 50, 56)
# Independent of the models' session setting, so that scores of different configurations are of the same users.
_NEW_SESSION_SECONDS = 3600
# Scores of a smaller group are noise.
_LEAST_USERS = 10


def by_experience(n_train: np.ndarray) -> dict[str, np.ndarray]:
    """The masks all, seen, few_ratings (1 to 20 training ratings), unseen; each of shape (users,).

    Args:
        n_train: number of training ratings per user, shape (users,).

    Example:
        >>> import numpy as np
        >>> {name: mask.tolist() for name, mask in by_experience(np.array([0, 5])).items()}
        {'all': [True, True], 'seen': [False, True], 'unseen': [True, False], 'few_ratings': [False, True]}
    """
    few = (n_train > 0) & (n_train <= MOST_OF_FEW)
    return {**populations_by_history(n_train), "few_ratings": few}


def by_pause(seconds: np.ndarray) -> dict[str, np.ndarray]:
    """The masks same_second, same_session (below an hour) and new_session; each of shape (users,).

    Two ratings in the same second come from a page on which several items are rated at once. Their order only shows
    how the user filled in the page.

    Args:
        seconds: time between each user's last two ratings, in seconds, shape (users,); NaN for users in no mask.

    Returns:
        Only masks of at least 10 users.
    """
    masks = {
        "same_second": seconds < 1,
        "same_session": (seconds >= 1) & (seconds < _NEW_SESSION_SECONDS),
        "new_session": seconds >= _NEW_SESSION_SECONDS,
    }
    return {name: mask for name, mask in masks.items() if mask.sum() >= _LEAST_USERS}


def by_demographics(users: nw.LazyFrame, scored: np.ndarray) -> dict[str, np.ndarray]:
    """Groups by gender and age, such as `gender F` and `age 18-24`; no groups if the table has neither attribute.

    Args:
        users: table users. Only the attributes gender and age (in years) make groups.
        scored: dense ids, shape (users,).

    Returns:
        Masks of shape (users,). A user without an attribute is in none of its groups. Groups of fewer than 10 users
        and groups of all users are left out.
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
