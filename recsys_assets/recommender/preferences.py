"""Ratings as preferences: above zero what a user likes, below zero what it does not.

For models of what to show, to have rated a movie low is no sign of liking such movies.
"""

from dataclasses import dataclass

import narwhals as nw
import numpy as np

from recsys_assets.recommender.frames import to_polars

# Of the way from the lowest to the highest rating: from 4 on where they are 1 to 5.
_RELEVANT_SHARE = 0.75


def relevant_from(ratings: nw.LazyFrame) -> float:
    """The lowest rating of a movie that was liked: three quarters up the scale that the ratings (rating) use."""
    rating = nw.col("rating").cast(nw.Float64())
    low, high = to_polars(ratings.select(low=rating.min(), high=rating.max())).row(0)
    return low + _RELEVANT_SHARE * (high - low)


@dataclass(frozen=True)
class Preference:
    """How a rating becomes a preference.

    Attributes:
        neutral: the rating that is neither liked nor disliked.
        scale: ratings per unit of preference, above 0.
    """

    neutral: float
    scale: float

    @classmethod
    def of(cls, ratings: nw.LazyFrame, *, neutral_offset: float) -> "Preference":
        """From the mean and the standard deviation of the ratings (rating).

        Where all ratings are equal they say that somebody chose the movie, so each is a preference of one.

        Args:
            ratings: column rating.
            neutral_offset: standard deviations from the mean rating to the neutral one.
        """
        rating = nw.col("rating").cast(nw.Float64())
        mean, deviation = to_polars(ratings.select(mean=rating.mean(), deviation=rating.std(ddof=0))).row(0)
        if not deviation:
            return cls(neutral=mean - 1, scale=1.0)
        return cls(neutral=mean + neutral_offset * deviation, scale=deviation)

    def __call__(self, ratings: np.ndarray) -> np.ndarray:
        """Preferences of ratings, in the same shape and type."""
        return ((ratings - self.neutral) / self.scale).astype(ratings.dtype)
