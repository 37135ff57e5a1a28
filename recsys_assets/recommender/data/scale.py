"""Samples of users: on which users models are fitted, and on which users models are scored.

What a model learns about items needs a sample of the users. Counts and means of items take one pass, so they are
computed from all ratings. A user is drawn with all ratings or with none, so that histories stay whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
from pydantic import Field

from recsys_assets.recommender.data.frames import drawn, row_count
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.tables import FITTED_SHARE, SCORED_SHARE

# The draw is unrelated to the draws of the splits: a sample of the users holds train users and test users alike.
_SEED = 27_753_444


class ScaleSettings(Section):
    """Samples of large data. Smaller data are never sampled."""

    fit_ratings: int = Field(
        3_000_000,
        ge=1,
        description="Largest number of ratings that a model is fitted on. Larger data are represented by a sample of "
        "the users. Counts and means use all ratings, and every user gets recommendations.",
    )
    spark_from_rows: int = Field(
        200_000_000,
        ge=0,
        description="With engine = 'auto', rows of the largest table of a step from which Spark computes the step. On "
        "one machine, Polars is faster as long as the rows fit into memory: about 32 bytes each.",
    )
    score_users: int = Field(
        20_000,
        ge=1,
        description="Largest number of users that models are scored on. Of more users, a sample is scored, which "
        "widens the intervals.",
    )


@dataclass(frozen=True)
class Scale:
    """Largest samples; None for all.

    One hash draws both samples, so the smaller one is a part of the larger one. The users that are fitted on include
    the users that are scored: a model meets no scored user whose training ratings it has not seen.

    Attributes:
        fit_ratings: number of ratings that a model is fitted on.
        score_users: number of users that models are scored on.
    """

    fit_ratings: int | None = None
    score_users: int | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, Mapping[str, Any]]) -> "Scale":
        """Read the section `scale` of the parameters; without it, nothing is sampled."""
        section = parameters.get("scale", {})
        return cls(section.get("fit_ratings"), section.get("score_users"))

    def to_fit(self, ratings: nw.LazyFrame, *, n_users: int) -> nw.LazyFrame:
        """Return the rows that a model is fitted on.

        Args:
            ratings: user; rows to fit on.
            n_users: number of all users.
        """
        if self.fit_ratings is None:
            return ratings
        return _of_share(ratings, self.shares(n_ratings=row_count(ratings), n_users=n_users)[FITTED_SHARE])

    def to_score(self, rows: nw.LazyFrame, *, n_users: int) -> nw.LazyFrame:
        """Return the rows that models are scored on.

        Args:
            rows: user; test rows.
            n_users: number of all users, with or without a test row.
        """
        return _of_share(rows, self.scored_share(n_users))

    def shares(self, *, n_ratings: int, n_users: int) -> dict[str, float]:
        """Return the share of the training ratings that models are fitted on and of the users that they are scored on.

        Args:
            n_ratings: number of training ratings.
            n_users: number of all users.
        """
        scored = self.scored_share(n_users)
        fitted = 1.0 if self.fit_ratings is None else min(1.0, max(self.fit_ratings / max(n_ratings, 1), scored))
        return {FITTED_SHARE: fitted, SCORED_SHARE: scored}

    def scored_share(self, n_users: int) -> float:
        """Return the share of the users that models are scored on."""
        return 1.0 if self.score_users is None else min(1.0, self.score_users / max(n_users, 1))


def _of_share(rows: nw.LazyFrame, share: float) -> nw.LazyFrame:
    return rows if share >= 1 else rows.filter(drawn(share, _SEED, ["user"]))


EVERYTHING = Scale()
