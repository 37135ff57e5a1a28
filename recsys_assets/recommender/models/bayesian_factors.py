"""Bayesian matrix factorisation with attributes of users and items as prior, for users with no, few or many ratings.

Without ratings, the prior gives a user's factors by a ridge regression on demographic attributes, and an item's factors
by one on genres and year. Each rating moves the posterior mean, by as much as the data support. Inference is
variational Bayes (Lim and Teh 2007; with attributes as in Simm et al. 2017) at the cost of alternating least squares;
the numerics are in `variational`, the attributes in `side_information`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.features.matrices import mean_rating, user_item_matrix
from recsys_assets.recommender.models import side_information
from recsys_assets.recommender.models.variational import Prior, factorise

_PAIRS_PER_BLOCK = 1_000_000


class BayesianFactorsSettings(Section):
    """Rating model: matrix factorisation with attributes of users and items as prior."""

    tried: ClassVar = {"rank": (12, 24, 36), "reg_links": (3.0, 10.0, 30.0)}

    rank: int = Field(24, ge=1, description="Number of factors, without the bias.")
    max_iter: int = Field(12, ge=1, description="Number of iterations.")
    n_profile: int = Field(
        0,
        ge=0,
        description="Dimensions of a user's profile, which holds the items that the user rated, whatever the rating; "
        "0: attributes only.",
    )
    reg_links: float = Field(10.0, ge=0, description="Regularisation of the regression of factors on attributes.")
    seed: int = Field(0, ge=0, description="Seed of the starting factors.")


class ProfileFactorsSettings(BayesianFactorsSettings):
    """Rating model: matrix factorisation with attributes and with the items that a user has rated as prior."""

    tried: ClassVar = {"rank": (24, 40), "n_profile": (30, 60)}

    rank: int = Field(40, ge=1, description="Number of factors, without the bias.")
    n_profile: int = Field(
        60,
        ge=0,
        description="Dimensions of a user's profile, which holds the items that the user rated, whatever the rating; "
        "0: attributes only.",
    )
    seed: int = Field(
        1,
        ge=0,
        description="Seed of the starting factors. It differs from bayesian_factors.seed, because the mean of two "
        "different fits is better.",
    )


@dataclass(frozen=True)
class BayesianFactors:
    """Posterior means of users and items: column 0 is the bias, the other columns are factors.

    Attributes:
        users: shape (n_users, 1 + rank), float64.
        items: shape (n_items, 1 + rank), float64.
        user_prior: prior of the users, which stands for a user without ratings.
        user_side: attributes that the prior takes, shape (n_users, F).
        noise: precision of one rating given the factors.
        offset: mean of the training ratings.
        params: parameters of the fit.
        index: fingerprint of the id map that the model was fitted with.
    """

    users: np.ndarray
    items: np.ndarray
    user_prior: Prior
    user_side: np.ndarray
    noise: float
    offset: float
    params: Mapping[str, Any]
    index: str

    def of(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Predict the ratings of pairs by dense id: shape (P,), float64."""
        return products(self.users, self.items, user, item) + self.offset

    def of_new(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Predict the ratings of pairs from the prior mean of the users: shape (P,), float64.

        The prior mean depends on attributes and, if `n_profile` is above 0, on the user's profile.
        """
        return products(self.user_prior.means(self.user_side), self.items, user, item) + self.offset

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, item): user, item, prediction, without nulls."""
        rows = to_polars(pairs, "user", "item")
        predicted = self.of(rows["user"].to_numpy(), rows["item"].to_numpy())
        return rows.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def save(self, folder: Path) -> None:
        """Write users.parquet, items.parquet, links.parquet (the prior) and model.json."""
        _write(folder / "users.parquet", factors=self.users, side=self.user_side)
        _write(folder / "items.parquet", factors=self.items)
        _write(folder / "links.parquet", links=self.user_prior.links)
        facts = {
            "precision": self.user_prior.precision.tolist(),
            "noise": self.noise,
            "offset": self.offset,
            "params": dict(self.params),
            "index": self.index,
        }
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "BayesianFactors":
        """Read the files that `save` writes."""
        facts = json.loads((folder / "model.json").read_text())
        users = pl.read_parquet(folder / "users.parquet")
        # Versions before 0.11 also stored the covariances of the items.
        items = pl.read_parquet(folder / "items.parquet", columns=["factors"])
        links = pl.read_parquet(folder / "links.parquet")["links"].to_numpy()
        return cls(
            users=users["factors"].to_numpy(),
            items=items["factors"].to_numpy(),
            user_prior=Prior(links, np.array(facts.pop("precision"))),
            user_side=users["side"].to_numpy(),
            **facts,
        )


def products(users: np.ndarray, items: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return biases plus dot products of factors for pairs by dense id: shape (P,), float64."""
    result = users[user, 0] + items[item, 0]
    for start in range(0, len(user), _PAIRS_PER_BLOCK):
        block = slice(start, start + _PAIRS_PER_BLOCK)
        result[block] += np.einsum("ij,ij->i", users[user[block], 1:], items[item[block], 1:])
    return result


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_features: nw.LazyFrame,
    items: nw.LazyFrame,
    settings: BayesianFactorsSettings,
) -> BayesianFactors:
    """Fit the factorisation; see `variational.factorise`.

    Args:
        ratings: user, item, rating.
        index: id map of users and items.
        user_features: table user_features; all users.
        items: table items; the whole catalogue.
        settings: size, regularisation and seed. An item's profile has a third as many dimensions as a user's.
    """
    # Users without a rating teach nothing. A prior that is learnt from them as well moves more slowly.
    rated_users, rated = user_item_matrix(ratings, n_items=index.n_items)
    if not len(rated_users):
        rated_users, rated = (
            np.arange(index.n_users),
            sparse.csr_array((index.n_users, index.n_items), dtype=np.float32),
        )
    attributes = side_information.user_attributes(user_features)
    user_side = attributes[rated_users]
    item_counts = np.bincount(rated.indices, minlength=index.n_items)
    item_side = np.column_stack([side_information.item_attributes(items), side_information.log_counts(item_counts)])
    if settings.n_profile:
        user_side, item_side = _with_profiles(rated, user_side, item_side, settings.n_profile)
    offset = mean_rating(rated)
    rated.data = rated.data - np.float32(offset)
    found = factorise(
        rated,
        user_side,
        item_side,
        rank=settings.rank,
        max_iter=settings.max_iter,
        reg_links=settings.reg_links,
        seed=settings.seed,
    )
    side = np.zeros((index.n_users, user_side.shape[1]))
    side[:, : attributes.shape[1]] = attributes
    side[rated_users] = user_side
    users = found.user_prior.means(side)
    users[rated_users] = found.users
    return BayesianFactors(
        users=users,
        items=found.items,
        user_prior=found.user_prior,
        user_side=side,
        noise=found.noise,
        offset=offset,
        params=settings.model_dump(),
        index=index.fingerprint,
    )


def _with_profiles(
    rated: sparse.csr_array, user_side: np.ndarray, item_side: np.ndarray, n_profile: int
) -> tuple[np.ndarray, np.ndarray]:
    n_ratings = np.diff(rated.indptr)
    users, items = side_information.profiles(rated, n_profile)
    users = np.column_stack([users, side_information.log_counts(n_ratings)])
    items = items[:, : max(1, n_profile // 3)]
    known = np.bincount(rated.indices, minlength=rated.shape[1]) > 0
    return (
        np.hstack([user_side, side_information.unexplained(users, user_side, n_ratings > 0)]),
        np.hstack([item_side, side_information.unexplained(items, item_side, known)]),
    )


def _write(path: Path, **matrices: np.ndarray) -> None:
    columns = {
        name: pl.Series(np.ascontiguousarray(values), dtype=pl.Array(_polars_type(values), values.shape[1]))
        for name, values in matrices.items()
    }
    pl.DataFrame(columns).write_parquet(path)


def _polars_type(values: np.ndarray) -> type[pl.DataType]:
    return pl.Float32 if values.dtype == np.float32 else pl.Float64
