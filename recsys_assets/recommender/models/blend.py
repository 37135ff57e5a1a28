"""Blend of ranking models: scores are standardised within each user and averaged with weights.

EASE, implicit ALS and demographic popularity are fitted in their own modules. This module holds the weights and applies
them.
"""

from dataclasses import dataclass
from typing import ClassVar

import narwhals as nw
import numpy as np
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.automatic import ANCHOR_MEDIAN, resolved
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import NotNegative, Section
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.models.demographic_popularity import OTHERWISE, DemographicPopularity
from recsys_assets.recommender.models.ease import EASEModel
from recsys_assets.recommender.models.stored import StoredModel
from recsys_assets.recommender.ranking.rankings import Ranker, blocks, is_silent, pairs

_ANCHOR_PRIOR = 60.0
_LEAST_RELIABILITY = 1e-3


class BlendSettings(Section):
    """The blend of EASE, implicit ALS and demographic popularity."""

    tried: ClassVar = {
        "prior_ratings": ("auto * 0.01", "auto * 0.1", "auto * 0.3", "auto", "auto * 3"),
        "ease_weight": (0.25, 0.5, 0.75, 1.0),
    }

    ease_weight: float = Field(
        1.0, ge=0, le=1, description="Weight of EASE in a user's personal scores; implicit ALS has the rest."
    )
    prior_ratings: NotNegative = Field(
        "auto",
        description="Number of ratings at which a user's personal scores weigh as much as the scores by attributes: "
        "auto (60 for case study A; grows with the median number of ratings per user), a multiple such "
        "as 'auto * 0.3', or a number.",
    )


@dataclass(frozen=True)
class Blend(StoredModel):
    """Weights of a blend.

    Attributes:
        ease_weight: share of EASE in a user's personal scores, 0 to 1; implicit ALS has the rest.
        prior_ratings: number of ratings at which the personal scores weigh as much as the prior, the scores by
            attributes. A user without ratings, or whose ratings say nothing about other items, gets the prior alone.
        index: fingerprint of the id map.
    """

    ease_weight: float
    prior_ratings: float
    index: str

    @property
    def needs_als(self) -> bool:
        """Whether implicit ALS has any weight."""
        return self.ease_weight < 1

    def scores(
        self,
        ease: np.ndarray,
        als: np.ndarray | None,
        prior: np.ndarray,
        n_ratings: np.ndarray,
        *,
        reliability: float = 1.0,
    ) -> np.ndarray:
        """Mix the scores, shape (U, n_items).

        Args:
            ease: scores of EASE, shape (U, n_items).
            als: scores of implicit ALS, shape (U, n_items); None if it has no weight.
            prior: scores of demographic popularity, shape (U, n_items).
            n_ratings: number of ratings of each user, shape (U,); 0 if the models with a weight say nothing.
            reliability: factor of the prior's weight, 0 to 1. Without it, scaling would blow up a prior that is mostly
                noise.
        """
        share = (n_ratings / np.maximum(n_ratings + self.prior_ratings, 1e-9)).astype(np.float32)[:, None]
        mixed = _weighed(ease, self.ease_weight * share)
        if als is not None:
            mixed += _weighed(als, (1 - self.ease_weight) * share)
        # A user without usable ratings has the prior alone. The order of the prior must stay, however unreliable it is.
        mixed += _weighed(prior, (1 - share) * max(reliability, _LEAST_RELIABILITY))
        return mixed


def fit(ratings: nw.LazyFrame, *, index: Index, settings: BlendSettings) -> Blend:
    """Build the blend; of the ratings, only the median number per user is used.

    The weights are settings, which validation chooses.

    Args:
        ratings: user.
        index: id map of users and items.
        settings: the weights; `auto` is `automatic_prior`.
    """
    per_user = to_polars(ratings.group_by("user").agg(n=nw.len()), "n")["n"]
    prior = resolved(settings.prior_ratings, automatic_prior(float(np.median(per_user.to_numpy()))))
    return Blend(settings.ease_weight, prior, index.fingerprint)


def automatic_prior(median_ratings: float) -> float:
    """Return `prior_ratings` for a median number of ratings per user: 60 for the 86 of case study A."""
    return _ANCHOR_PRIOR * median_ratings / ANCHOR_MEDIAN


def ranker(
    weights: Blend,
    ease_model: EASEModel,
    demographic_popularity_model: DemographicPopularity,
    features: np.ndarray,
    implicit_als_model: ALSModel | None = None,
) -> Ranker:
    """Build the ranker of the blend, which knows a user by ratings and attributes only.

    Args:
        weights: weights of the models.
        ease_model: EASE.
        demographic_popularity_model: the prior.
        features: features of all users by dense id; see `demographic_popularity.feature_matrix`.
        implicit_als_model: implicit ALS; None is allowed if it has no weight.

    Raises:
        ValueError: implicit ALS has a weight and is missing.
    """
    if weights.needs_als and implicit_als_model is None:
        raise ValueError(f"a blend with {weights.ease_weight} of EASE needs implicit ALS for the rest")
    als = implicit_als_model if weights.needs_als else None

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        by_ease, by_als = ease_model.scores(rows), als.scores(rows) if als else None
        weighted = ([by_ease] if weights.ease_weight else []) + ([] if by_als is None else [by_als])
        # With `prior_ratings` 0, equal scores would show the items in the order of their dense ids.
        are_usable = ~np.all([is_silent(scored, rows) for scored in weighted], axis=0)
        return weights.scores(
            ease=by_ease,
            als=by_als,
            prior=demographic_popularity_model.scores(features[users]),
            n_ratings=np.diff(rows.indptr) * are_usable,
            reliability=demographic_popularity_model.reliability,
        )

    def contributions(rated: sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        by_ease = ease_model.contributions(rated, rows, items)
        if als is None:
            return by_ease
        _, recommendation = pairs(rated, rows)
        own = rows[recommendation]
        of_ease, of_als = (np.maximum(_deviations(model, rated), 1e-9)[own] for model in (ease_model, als))
        by_als = als.contributions(rated, rows, items)
        return weights.ease_weight * by_ease / of_ease + (1 - weights.ease_weight) * by_als / of_als

    return Ranker(scores, demographic_popularity_model.item_known | ease_model.item_known, contributions, OTHERWISE)


def _deviations(model: EASEModel | ALSModel, rated: sparse.csr_array) -> np.ndarray:
    """Return the standard deviation of each user's scores, shape (B,), without the scores of all users at once."""
    found = [model.scores(rated[block]).std(axis=1) for block in blocks(*rated.shape)]
    return np.concatenate([np.zeros(0), *found])


def _weighed(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scale each user's scores to mean 0 and the weight as standard deviation; zeros if all are equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.einsum("ij,ij->i", centred, centred) / scores.shape[1])[:, None]
    centred *= np.divide(weights, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    return centred
