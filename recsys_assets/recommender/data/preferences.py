"""Ratings as preferences: above zero what a user likes, below zero what it does not.

For models of what to show, to have rated a movie low is no sign of liking such movies.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import narwhals as nw
import numpy as np

from recsys_assets.recommender.data.frames import to_polars

# Of the way from the lowest to the highest rating: from 4 on where they are 1 to 5.
_RELEVANT_SHARE = 0.75
# Strays, such as a -1 for "not rated" or a mistyped 50, set no end of the scale; a scale whose last point is rarer than
# this is short of nearly nothing.
_STRAY_SHARE = 0.001
# Where fewer ratings than these lie high enough, as with counts, the highest of them are the liked ones.
_LEAST_LIKED_SHARE = 0.2
# Stored ratings are float32: two that were meant as the same point of a scale may differ by this much of its ends.
_ROUNDING = 2.0**-21
# A scale of ten steps goes ten times as far as its second rating. What goes further than that from the median
# of all but the lowest is no scale but a count, whose mean and deviation are those of a few users.
_LONGEST_SCALE = 10.0
_TAIL = 0.99


class Span(NamedTuple):
    """What ratings reach from and to.

    Attributes:
        low: the lowest rating, strays aside.
        high: the highest one.
        unit: where ratings spread over orders of magnitude, as counts of plays do, the way from the lowest to the
            median of all above it: the logarithm of their distance from the lowest is what is compared. Else 0.
    """

    low: float
    high: float
    unit: float


class _Counted(NamedTuple):
    """The different ratings, ascending, and the share of all ratings up to each of them."""

    values: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, ratings: nw.LazyFrame) -> "_Counted":
        counted = to_polars(ratings.select(nw.col("rating").cast(nw.Float64())).group_by("rating").agg(n=nw.len()))
        ascending = counted.sort("rating")
        return cls(ascending["rating"].to_numpy(), np.cumsum(ascending["n"].to_numpy()) / counted["n"].sum())

    def quantile(self, share: float) -> float:
        """The lowest rating that this share of the ratings does not exceed."""
        place = int(np.searchsorted(self.shares, share))
        return float(self.values[min(place, len(self.values) - 1)])

    def span(self) -> Span:
        """Of no rating: from 0 to 0."""
        if not len(self.values):
            return Span(0.0, 0.0, 0.0)
        low, high = self.quantile(_STRAY_SHARE), self.quantile(1 - _STRAY_SHARE)
        up_to_low = self.shares[int(np.searchsorted(self.values, low))]
        unit = self.quantile((1 + up_to_low) / 2) - low
        is_scale = self.quantile(_TAIL) - low <= _LONGEST_SCALE * unit
        return Span(low, high, 0.0 if is_scale else unit)


def relevant_from(ratings: nw.LazyFrame) -> float:
    """The lowest rating of a movie that was liked; NaN where there are no ratings.

    Three quarters up the scale that the ratings (rating) use, strays aside. Where fewer than a fifth of the ratings are
    that high, as with counts of plays, the highest fifth.
    """
    counted = _Counted.of(ratings)
    if not len(counted.values):
        return math.nan
    low, high, _ = counted.span()
    limit = min(low + _RELEVANT_SHARE * (high - low), counted.quantile(1 - _LEAST_LIKED_SHARE))
    lenient = limit - _ROUNDING * max(abs(low), abs(high))
    point = counted.values[(counted.values >= lenient) & (counted.values <= limit)]
    return float(point[0]) if len(point) else lenient


def span(ratings: nw.LazyFrame) -> Span:
    """What the ratings (rating) reach from and to."""
    return _Counted.of(ratings).span()


@dataclass(frozen=True)
class Preference:
    """How a rating becomes a preference.

    Attributes:
        neutral: the rating that is neither liked nor disliked, a logarithm where `unit` is above 0.
        scale: ratings, or logarithms, per unit of preference, above 0.
        low: ratings below count as this one.
        high: ratings above count as this one.
        unit: as in `Span`.
    """

    neutral: float
    scale: float
    low: float = -math.inf
    high: float = math.inf
    unit: float = 0.0

    @classmethod
    def of(cls, ratings: nw.LazyFrame, *, neutral_offset: float) -> "Preference":
        """From the mean and the standard deviation of the ratings (rating), strays aside.

        Where all ratings are equal they say that somebody chose the movie, so each is a preference of one.

        Args:
            ratings: column rating.
            neutral_offset: standard deviations from the mean rating to the neutral one.
        """
        low, high, unit = span(ratings)
        compared = cls(0.0, 1.0, low, high, unit).expression(nw.col("rating").cast(nw.Float64()))
        mean, deviation = to_polars(ratings.select(mean=compared.mean(), deviation=compared.std(ddof=0))).row(0)
        if not deviation:
            return cls((mean or 0.0) - 1, 1.0, low, high)
        return cls(mean + neutral_offset * deviation, deviation, low, high, unit)

    @property
    def neutral_rating(self) -> float:
        """The rating that is neither liked nor disliked, on the scale of the ratings."""
        return self.low + self.unit * math.expm1(self.neutral) if self.unit else self.neutral

    def expression(self, rating: nw.Expr) -> nw.Expr:
        """What `from_neutral` gives, for a column."""
        within = rating.clip(self.low, self.high)
        compared = ((within.cast(nw.Float64()) - self.low) / self.unit + 1.0).log() if self.unit else within
        return compared - self.neutral

    def from_neutral(self, ratings: np.ndarray) -> np.ndarray:
        """How far ratings, or their logarithms, lie above the neutral one, in the same shape and type."""
        within = np.clip(ratings, self.low, self.high)
        compared = np.log1p((within - self.low) / self.unit) if self.unit else within
        return (compared - self.neutral).astype(ratings.dtype)

    def __call__(self, ratings: np.ndarray) -> np.ndarray:
        """Preferences of ratings, in the same shape and type."""
        return (self.from_neutral(ratings) / self.scale).astype(ratings.dtype)
