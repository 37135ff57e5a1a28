"""Ridge regression per item: the effect of user attributes on a rating, beyond the prediction of `bayesian_factors`.

Factors have too few dimensions for every effect of an attribute. Thousands of ratings of one item show such an effect
directly.
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
from recsys_assets.recommender.models import side_information
from recsys_assets.recommender.models.bayesian_factors import BayesianFactors
from recsys_assets.recommender.models.stored import StoredModel

_PAIRS_PER_BLOCK = 1_000_000
# Shrinkage of user biases: ratings with residual 0 that are added to each user's own.
_USER_SHRINKAGE = 5.0


class AttributeEffectsSettings(Section):
    """Rating model: effects of user attributes on each item, beyond the factors."""

    tried: ClassVar = {"reg": (100.0, 300.0, 1000.0)}

    reg: float = Field(300.0, ge=0, description="L2 regularisation of the effects, in ratings.")


@dataclass(frozen=True)
class AttributeEffects(StoredModel):
    """Linear effects of user attributes on the ratings of each item.

    Attributes:
        coefficients: shape (n_items, F), float32; 0 for an item without a rating.
        side: attributes of all users, shape (n_users, F), float32.
        reg: L2 regularisation of the fit.
        index: fingerprint of the id map that the model was fitted with.
    """

    coefficients: np.ndarray
    side: np.ndarray
    reg: float
    index: str

    arrays: ClassVar = {"items": {"values": "coefficients"}, "users": {"values": "side"}}

    def of(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return the effects of the attributes on the ratings of pairs, shape (P,), float64."""
        added = np.empty(len(user))
        for start in range(0, len(user), _PAIRS_PER_BLOCK):
            block = slice(start, start + _PAIRS_PER_BLOCK)
            added[block] = np.einsum("ij,ij->i", self.coefficients[item[block]], self.side[user[block]])
        return added


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_features: nw.LazyFrame,
    bayesian_factors_model: BayesianFactors,
    settings: AttributeEffectsSettings,
) -> AttributeEffects:
    """Fit one ridge regression per item of the residual ratings on the users' attributes.

    A residual is the rating minus the prediction for a user without ratings, minus the user's shrunk mean residual. The
    effects therefore belong to attributes alone and hold for new users.

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        user_features: table user_features; all users.
        bayesian_factors_model: fitted on the same ratings with attributes only (`n_profile` 0).
        settings: the regularisation.
    """
    rows = to_polars(ratings, "user", "item", "rating").sort("item", "user")
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    left = rows["rating"].cast(pl.Float64).to_numpy() - bayesian_factors_model.of_new(user, item)
    counts = np.bincount(user, minlength=index.n_users)
    left -= (np.bincount(user, left, index.n_users) / (counts + _USER_SHRINKAGE))[user]
    side = side_information.user_attributes(user_features)
    penalty = max(settings.reg, 1e-6) * np.eye(side.shape[1])
    coefficients = np.zeros((index.n_items, side.shape[1]), np.float32)
    starts = np.searchsorted(item, np.arange(index.n_items + 1))
    for rated in np.unique(item):
        own = slice(starts[rated], starts[rated + 1])
        design = side[user[own]]
        coefficients[rated] = np.linalg.solve(design.T @ design + penalty, design.T @ left[own])
    return AttributeEffects(coefficients, side.astype(np.float32), settings.reg, index.fingerprint)
