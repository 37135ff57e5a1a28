"""Liking: predicts what a user will like from attributes alone, with recent raters weighted higher.

This model serves new users. `blend` mixes it into the lists of users with few ratings.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.automatic import ANCHOR_RATINGS, ANCHOR_USERS, AUTO, Setting, resolved
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from

# Reason, in words, for a recommendation of this model.
OTHERWISE = "liked by people with the same attributes"
_ANCHOR_REG = 300.0
_HALF_LIFE = 0.15


@dataclass(frozen=True)
class LikingModel:
    """Linear model of how likely a user with given attributes is to like each item.

    Attributes:
        coefficients: shape (1 + n_features, n_items), float32; the first row is the intercept.
        item_known: shape (n_items,), whether anybody liked the item.
        index: fingerprint of the id map that the model was fitted with.
        reliability: share of the variance of the scores between items that is no noise of sampling, 0 to 1. Near 1
            where some items are liked far more often than others, 0 where all are liked alike and only chance orders
            them. 1 in models stored before it was known.
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
    def load(cls, folder: Path) -> "LikingModel":
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
    reg: Setting = AUTO,
    half_life: Setting = AUTO,
) -> LikingModel:
    """Fit one weighted ridge regression of "the user liked the item" on user attributes, for all items at once.

    A user weighs less the longer ago the last rating is, because tastes and catalogue change.

    Args:
        ratings: user, item, rating, timestamp.
        index: id map of users and items.
        user_features: table user_features; all users.
        reg: L2 regularisation of the attributes; `auto` is `automatic_reg`. The intercept is not regularised, so a
            large value leaves plain popularity.
        half_life: share of the ratings, in time, after which a user weighs half as much; `auto` is 0.15. A span of days
            would be long for one data set and short for another.
    """
    rows = to_polars(ratings, "user", "item", "rating", "timestamp")
    last = rows.group_by("user").agg(pl.col("timestamp").max()).sort("user")
    users = last["user"].to_numpy()
    # Ratings with equal timestamps are equally old, so if all timestamps are equal, all users weigh the same.
    times = rows["timestamp"].sort().to_numpy()
    age = 1 - np.searchsorted(times, last["timestamp"].to_numpy(), side="right") / len(rows)
    weights = 0.5 ** (age / resolved(half_life, _HALF_LIFE))
    liked = rows.filter(pl.col("rating") >= relevant_from(ratings))
    cells = (np.ones(len(liked)), (np.searchsorted(users, liked["user"].to_numpy()), liked["item"].to_numpy()))
    target = sparse.csr_array(cells, shape=(len(users), index.n_items))
    design = np.column_stack([np.ones(len(users)), feature_matrix(user_features)[users]])
    penalty = np.full(design.shape[1], resolved(reg, automatic_reg(len(users), len(rows))))
    penalty[0] = 0
    weighted = design * weights[:, None]
    gram = weighted.T @ design + np.diag(penalty)
    # lstsq also solves the singular system of an attribute that all users share.
    coefficients = np.linalg.lstsq(gram, (target.T @ weighted).T, rcond=None)[0]
    counts = np.bincount(liked["item"].to_numpy(), minlength=index.n_items)
    reliability = _reliability(design, weights, gram, coefficients, counts / len(users))
    return LikingModel(coefficients.astype(np.float32), counts > 0, index.fingerprint, reliability)


def _reliability(
    design: np.ndarray, weights: np.ndarray, gram: np.ndarray, coefficients: np.ndarray, liked_share: np.ndarray
) -> float:
    """Return the share of the variance of the scores between items, mean over users, that is no noise of sampling.

    The noise is that of the estimator if each like is a draw of its own: the sandwich covariance of the coefficients
    times the mean variance of a like.

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
