"""Demographic popularity: predicts from attributes alone which items a user likes; recent raters weigh more.

This model serves new users. `blend` mixes it into the lists of users with few ratings.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.automatic import ANCHOR_RATINGS, ANCHOR_USERS, resolved
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.sections import NotNegative, Positive, Section

# Reason, in words, for a recommendation of this model.
OTHERWISE = "liked by people with the same attributes"
_ANCHOR_REG = 300.0
_HALF_LIFE = 0.15


class DemographicPopularitySettings(Section):
    """Demographic popularity: predicts from attributes alone which items a user likes. It serves new users."""

    tried: ClassVar = {
        "half_life": ("auto * 0.3", "auto", "auto * 3"),
        "reg": ("auto * 0.3", "auto", "auto * 3"),
    }

    reg: NotNegative = Field(
        "auto",
        description="L2 regularisation of the attributes; a large one leaves popularity. auto: 300 for case study A; "
        "grows with the number of users, falls with the root of the number of ratings.",
    )
    half_life: Positive = Field(
        "auto",
        description="Share of the ratings, in time, after which a user's weight halves: auto (0.15), or a number.",
    )


@dataclass(frozen=True)
class DemographicPopularity:
    """Linear model of how likely a user with given attributes is to like each item.

    Attributes:
        coefficients: shape (1 + n_features, n_items), float32; the first row is the intercept.
        item_known: shape (n_items,), whether anybody liked the item.
        index: fingerprint of the id map that the model was fitted with.
        reliability: share of the variance between items that is not sampling noise, 0 to 1. It is near 1 if some
            items are liked far more often than others, and near 0 if chance alone orders them. Models that were stored
            without it have 1.
    """

    coefficients: np.ndarray
    item_known: np.ndarray
    index: str
    reliability: float = 1.0

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Score all items, shape (U, n_items), from users' features, shape (U, n_features)."""
        return self.coefficients[0] + features.astype(np.float32) @ self.coefficients[1:]

    def save(self, folder: Path) -> None:
        """Write coefficients.parquet (one row per item) and model.json."""
        width = pl.Array(pl.Float32, len(self.coefficients))
        coefficients = pl.Series(np.ascontiguousarray(self.coefficients.T), dtype=width)
        table = pl.DataFrame({"coefficients": coefficients, "known": self.item_known})
        table.write_parquet(folder / "coefficients.parquet")
        (folder / "model.json").write_text(json.dumps({"index": self.index, "reliability": self.reliability}))

    @classmethod
    def load(cls, folder: Path) -> "DemographicPopularity":
        """Read the files that `save` writes."""
        table = pl.read_parquet(folder / "coefficients.parquet")
        facts = json.loads((folder / "model.json").read_text())
        return cls(table["coefficients"].to_numpy().T, table["known"].to_numpy(), **facts)


def feature_matrix(user_features: nw.LazyFrame) -> np.ndarray:
    """Return the features of all users by dense id, shape (n_users, n_features), float64."""
    table = to_polars(user_features).sort("user").drop("user")
    return table.to_numpy() if table.width else np.zeros((len(to_polars(user_features, "user")), 0))


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_features: nw.LazyFrame,
    settings: DemographicPopularitySettings,
) -> DemographicPopularity:
    """Fit one weighted ridge regression of "the user liked the item" on user attributes, for all items at once.

    A user weighs less the longer ago the last rating is, because tastes and catalogue change.

    Args:
        ratings: user, item, rating, timestamp.
        index: id map of users and items.
        user_features: table user_features; all users.
        settings: regularisation of the attributes, where `auto` is `automatic_reg`; and the half-life. The intercept is
            not regularised, so a large regularisation leaves plain popularity. The half-life is a share of the ratings:
            a span of days would be long for one data set and short for another.
    """
    rows = to_polars(ratings, "user", "item", "rating", "timestamp")
    last = rows.group_by("user").agg(pl.col("timestamp").max()).sort("user")
    users = last["user"].to_numpy()
    # Ratings with equal timestamps are equally old, so if all timestamps are equal, all users weigh the same.
    times = rows["timestamp"].sort().to_numpy()
    age = 1 - np.searchsorted(times, last["timestamp"].to_numpy(), side="right") / len(rows)
    weights = 0.5 ** (age / resolved(settings.half_life, _HALF_LIFE))
    liked = rows.filter(pl.col("rating") >= relevant_from(ratings))
    cells = (np.ones(len(liked)), (np.searchsorted(users, liked["user"].to_numpy()), liked["item"].to_numpy()))
    target = sparse.csr_array(cells, shape=(len(users), index.n_items))
    design = np.column_stack([np.ones(len(users)), feature_matrix(user_features)[users]])
    penalty = np.full(design.shape[1], resolved(settings.reg, automatic_reg(len(users), len(rows))))
    penalty[0] = 0
    weighted = design * weights[:, None]
    gram = weighted.T @ design + np.diag(penalty)
    # lstsq also solves the singular system of an attribute that all users share.
    coefficients = np.linalg.lstsq(gram, (target.T @ weighted).T, rcond=None)[0]
    counts = np.bincount(liked["item"].to_numpy(), minlength=index.n_items)
    reliability = _reliability(design, weights, gram, coefficients, counts / len(users))
    return DemographicPopularity(coefficients.astype(np.float32), counts > 0, index.fingerprint, reliability)


def _reliability(
    design: np.ndarray, weights: np.ndarray, gram: np.ndarray, coefficients: np.ndarray, liked_share: np.ndarray
) -> float:
    """Return the share of the variance between items that is not sampling noise, averaged over users.

    The noise is the sandwich covariance of the coefficients times the mean variance of a like, if likes are
    independent.

    Args:
        design: X, shape (U, 1 + n_features).
        weights: of the users, shape (U,).
        gram: X'WX plus the penalty, shape (1 + n_features, 1 + n_features).
        coefficients: shape (1 + n_features, n_items).
        liked_share: share of the users who like each item, shape (n_items,).
    """
    inverse = np.linalg.pinv(gram)
    sampled = inverse @ ((design * weights[:, None] ** 2).T @ design) @ inverse
    moments = design.T @ design / len(design)
    noise = np.trace(sampled @ moments) * float((liked_share * (1 - liked_share)).mean())
    total = np.trace(np.cov(coefficients, bias=True).reshape(gram.shape) @ moments)
    return float(np.clip(1 - noise / total, 0, 1)) if total > 0 else 0.0


def automatic_reg(n_users: int, n_ratings: int) -> float:
    """Return the regularisation for the size of the data: 300 for case study A.

    It is proportional to the number of users, like the Gram matrix, and falls with the root of the number of ratings.
    With few ratings, each item is liked by few users of a group, and their number is mostly chance.
    """
    return _ANCHOR_REG * n_users / ANCHOR_USERS * math.sqrt(ANCHOR_RATINGS / n_ratings)
