"""Session model: ranks the next item by transitions within a session, and by a blend when a new session starts.

A session is a run of a user's ratings without a pause. Within a session the next rating follows from the one before.
After a pause this link is weak; long-term taste and the usual first items of a session say more.
"""

from dataclasses import dataclass
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.models.stored import StoredModel


class SessionSettings(Section):
    """Sessions: the next item within a session and at the start of a session (case study B)."""

    tried: ClassVar = {"start_weight": (0.1, 0.2, 0.5)}

    pause: float = Field(3_600.0, gt=0, description="Seconds between two ratings from which a new session starts.")
    first: int = Field(5, ge=1, description="Number of ratings that count as the start of a session.")
    smoothing: float = Field(
        0.01, gt=0, le=1, description="Probability added to each transition at the start of a session."
    )
    ease_weight: float = Field(
        0.05, ge=0, description="Weight of EASE at the start of a session; transitions have weight 1."
    )
    start_weight: float = Field(
        0.2, ge=0, description="Weight of the items that sessions start with; transitions have weight 1."
    )


@dataclass(frozen=True)
class SessionModel(StoredModel):
    """First items of sessions, and their weight relative to transitions and EASE.

    Attributes:
        starts: number of ratings of each item among the first ratings of later sessions, shape (n_items,), int64.
        pause: seconds between two ratings from which a new session starts.
        smoothing: probability added to every transition when a session starts; a larger value trusts transitions less.
        ease_weight: weight of the EASE scores, standardised per user; the log transition probability has the weight 1.
        start_weight: weight of the log probability that a session starts with the item.
        index: fingerprint of the id map that the model was fitted with.
    """

    starts: np.ndarray
    pause: float
    smoothing: float
    ease_weight: float
    start_weight: float
    index: str

    arrays: ClassVar = {"starts": {"count": "starts"}}

    def scores(self, transitions: np.ndarray, ease: np.ndarray, is_new_session: np.ndarray) -> np.ndarray:
        """Score all items, shape (U, n_items), float32.

        Args:
            transitions: scores of the transition model, shape (U, n_items); returned unchanged within a session.
            ease: scores of EASE, shape (U, n_items).
            is_new_session: whether each user returns after a pause, shape (U,), bool.
        """
        scores = transitions.astype(np.float32, copy=True)
        new = is_new_session
        total = transitions[new].sum(axis=1, keepdims=True)
        follows = np.divide(transitions[new], total, out=np.zeros_like(transitions[new]), where=total > 0)
        centred = ease[new] - ease[new].mean(axis=1, keepdims=True)
        deviation = centred.std(axis=1, keepdims=True)
        taste = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
        smoothed = self.starts + 1.0
        starts = np.log(smoothed / smoothed.sum())
        scores[new] = np.log(follows + self.smoothing) + self.ease_weight * taste + self.start_weight * starts
        return scores


def fit(
    histories: nw.LazyFrame,
    *,
    index: Index,
    settings: SessionSettings,
) -> SessionModel:
    """Count the items that later sessions start with; a user's first session does not count.

    Args:
        histories: user, item, timestamp, batch, row.
        index: id map of users and items.
        settings: the definition of a session, and the weights of `SessionModel`.
    """
    rows = to_polars(histories, "user", "item", "timestamp", "batch", "row").sort("user", "timestamp", "batch", "row")
    waited = seconds(pl.col("timestamp") - pl.col("timestamp").shift(1).over("user")).fill_null(0)
    numbered = rows.with_columns(session=(waited >= settings.pause).cum_sum().over("user"))
    place = pl.int_range(pl.len()).over("user", "session")
    started = numbered.filter(place < settings.first, pl.col("session") > 0)
    starts = np.bincount(started["item"].to_numpy(), minlength=index.n_items)
    return SessionModel(
        starts=starts,
        pause=settings.pause,
        smoothing=settings.smoothing,
        ease_weight=settings.ease_weight,
        start_weight=settings.start_weight,
        index=index.fingerprint,
    )


def seconds_since_last(asked: nw.LazyFrame, rated: nw.LazyFrame) -> pl.DataFrame:
    """Return the pause of each user before the given time: user, seconds (float), sorted by user.

    The pause of a user without an earlier rating is null.

    Args:
        asked: user, timestamp; one row per user.
        rated: user, timestamp; the users' earlier ratings.
    """
    last = to_polars(rated.group_by("user").agg(last=nw.col("timestamp").max()))
    paused = to_polars(asked, "user", "timestamp").join(last, on="user", how="left")
    return paused.select("user", seconds=seconds(pl.col("timestamp") - pl.col("last"))).sort("user")


def seconds(duration: pl.Expr) -> pl.Expr:
    """Return a duration as a number of seconds."""
    return duration.dt.total_microseconds() / 1e6
