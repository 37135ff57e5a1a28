"""Turns ratings into preferences: positive for a liked item, negative for a disliked one.

Ranking models learn from preferences, because a low rating is no sign that a user likes such items. Rating models use
ratings as they are.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import narwhals as nw
import numpy as np

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.tables import N_EVENTS

# Share of the way from the lowest to the highest rating at which liking begins: 4 on a scale from 1 to 5.
_RELEVANT_SHARE = 0.75
# Share of the ratings at each end that does not define the scale. Outliers such as -1 for "not rated" or a mistyped 50
# would otherwise stretch it. A scale whose last point is rarer than this loses hardly anything.
_STRAY_SHARE = 0.001
# Smallest share of the ratings that counts as liked. With counts, hardly any rating reaches three quarters of the
# scale.
_LEAST_LIKED_SHARE = 0.2
# Stored ratings are float32, so two ratings at the same point of the scale may differ by this share of its ends.
_ROUNDING = 2.0**-21
# Ratings are counts, not a scale, if their 99 % quantile lies more than ten times as far above the lowest rating as the
# median of all ratings above the lowest. A scale of up to ten steps stays within this limit. A few users would decide
# the mean and the standard deviation of counts.
_LONGEST_SCALE = 10.0
_TAIL = 0.99


# Weights of events are sums of millionths, so a smaller positive weight does not occur.
_LEAST_WEIGHT = 5e-7


def is_events(ratings: nw.LazyFrame) -> bool:
    """Return whether the rows are sums of events: their `rating` is a weight, and above 0 it is a like."""
    return N_EVENTS in ratings.collect_schema().names()


class Span(NamedTuple):
    """Range of the ratings.

    Attributes:
        low: lowest rating, outliers aside.
        high: highest rating, outliers aside.
        unit: 0 for a rating scale. For ratings that spread over orders of magnitude, such as play counts: distance from
            the lowest rating to the median of all ratings above it. Then log(1 + (rating - low) / unit) is compared
            instead of the rating.
    """

    low: float
    high: float
    unit: float


class _Counted(NamedTuple):
    """The distinct ratings, ascending, and the cumulative share of ratings up to each of them."""

    values: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, ratings: nw.LazyFrame) -> "_Counted":
        counted = to_polars(ratings.select(nw.col("rating").cast(nw.Float64())).group_by("rating").agg(n=nw.len()))
        ascending = counted.sort("rating")
        return cls(ascending["rating"].to_numpy(), np.cumsum(ascending["n"].to_numpy()) / counted["n"].sum())

    def quantile(self, share: float) -> float:
        """Return the lowest rating that at least this share of the ratings does not exceed."""
        place = int(np.searchsorted(self.shares, share))
        return float(self.values[min(place, len(self.values) - 1)])

    def span(self) -> Span:
        """Return the range; 0 to 0 without ratings."""
        if not len(self.values):
            return Span(0.0, 0.0, 0.0)
        low, high = self.quantile(_STRAY_SHARE), self.quantile(1 - _STRAY_SHARE)
        up_to_low = self.shares[int(np.searchsorted(self.values, low))]
        unit = self.quantile((1 + up_to_low) / 2) - low
        is_scale = self.quantile(_TAIL) - low <= _LONGEST_SCALE * unit
        return Span(low, high, 0.0 if is_scale else unit)


def relevant_from(ratings: nw.LazyFrame) -> float:
    """Return the lowest rating that counts as liked; NaN without ratings.

    Liking begins three quarters up the scale that the ratings use, outliers aside. If fewer than a fifth of the ratings
    are that high, as with play counts, the highest fifth is liked. Of events, every weight above 0 is liked.

    Args:
        ratings: column rating; events also have n_events.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> import polars as pl
        >>> relevant_from(lazy(pl.DataFrame({"rating": [1.0, 2.0, 3.0, 4.0, 5.0]})))
        4.0
    """
    if is_events(ratings):
        return _LEAST_WEIGHT
    counted = _Counted.of(ratings)
    if not len(counted.values):
        return math.nan
    low, high, _ = counted.span()
    limit = min(low + _RELEVANT_SHARE * (high - low), counted.quantile(1 - _LEAST_LIKED_SHARE))
    lenient = limit - _ROUNDING * max(abs(low), abs(high))
    point = counted.values[(counted.values >= lenient) & (counted.values <= limit)]
    return float(point[0]) if len(point) else lenient


def span(ratings: nw.LazyFrame) -> Span:
    """Return the range of the ratings.

    Args:
        ratings: column rating.
    """
    return _Counted.of(ratings).span()


@dataclass(frozen=True)
class Preference:
    """How a rating becomes a preference.

    Attributes:
        neutral: rating that is neither liked nor disliked; its logarithm as in `Span` if `unit` is above 0.
        scale: rating points, or logarithms, per unit of preference; above 0.
        low: lower ratings count as this one.
        high: higher ratings count as this one.
        unit: as in `Span`.
        is_root: whether the root of a weight of events is compared, with the sign of the weight.
    """

    neutral: float
    scale: float
    low: float = -math.inf
    high: float = math.inf
    unit: float = 0.0
    is_root: bool = False

    @classmethod
    def of(cls, ratings: nw.LazyFrame, *, neutral_offset: float) -> "Preference":
        """Derive the preference from the mean and the standard deviation of the ratings, outliers aside.

        If all ratings are equal, they say only that a user chose the item, so each is a preference of 1. The
        preference of an event is the root of its weight, divided by the mean of the roots: an event never speaks
        against an item because others have more. The root keeps a user's few heavy items from outweighing all others;
        docs/decisions/events.md has the measurement.

        Args:
            ratings: column rating; events also have n_events.
            neutral_offset: standard deviations from the mean rating to the neutral one.

        Examples:
            >>> from recsys_assets.recommender.data.frames import lazy
            >>> import polars as pl
            >>> preference = Preference.of(lazy(pl.DataFrame({"rating": [2.0, 4.0]})), neutral_offset=0.0)
            >>> preference(np.array([2.0, 3.0, 5.0])).tolist()
            [-1.0, 0.0, 1.0]
        """
        if is_events(ratings):
            return cls._of_weights(ratings)
        low, high, unit = span(ratings)
        compared = cls(0.0, 1.0, low, high, unit).expression(nw.col("rating").cast(nw.Float64()))
        mean, deviation = to_polars(ratings.select(mean=compared.mean(), deviation=compared.std(ddof=0))).row(0)
        if not deviation:
            return cls((mean or 0.0) - 1, 1.0, low, high)
        return cls(mean + neutral_offset * deviation, deviation, low, high, unit)

    @classmethod
    def _of_weights(cls, events: nw.LazyFrame) -> "Preference":
        """Derive the preference from weights of events, outliers aside. Weights below 0 speak against an item."""
        liked = events.filter(nw.col("rating") > 0)
        mean = to_polars(liked.select(mean=nw.col("rating").cast(nw.Float64()).sqrt().mean())).item()
        high = _Counted.of(liked).span().high
        return cls(0.0, mean or 1.0, -high, high, is_root=True)

    @property
    def neutral_rating(self) -> float:
        """Rating that is neither liked nor disliked, on the scale of the ratings."""
        return self.low + self.unit * math.expm1(self.neutral) if self.unit else self.neutral

    def expression(self, rating: nw.Expr) -> nw.Expr:
        """Return `from_neutral` as an expression of a column."""
        within = rating.clip(self.low, self.high)
        if self.is_root:
            return nw.when(within < 0).then(-((-within).sqrt())).otherwise(within.sqrt())
        compared = ((within.cast(nw.Float64()) - self.low) / self.unit + 1.0).log() if self.unit else within
        return compared - self.neutral

    def from_neutral(self, ratings: np.ndarray) -> np.ndarray:
        """Return the distance of ratings, or of their logarithms, from the neutral one, in the same shape and type."""
        within = np.clip(ratings, self.low, self.high)
        if self.is_root:
            return (np.sign(within) * np.sqrt(np.abs(within))).astype(ratings.dtype)
        compared = np.log1p((within - self.low) / self.unit) if self.unit else within
        return (compared - self.neutral).astype(ratings.dtype)

    def __call__(self, ratings: np.ndarray) -> np.ndarray:
        """Return the preferences of ratings, in the same shape and type."""
        return (self.from_neutral(ratings) / self.scale).astype(ratings.dtype)
