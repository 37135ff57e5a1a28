"""A blend of models that rank: their scores made comparable within each user, and mixed.

The models themselves are fitted elsewhere; here are the weights and how they are used.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
from scipy import sparse

from recsys_assets.recommender.data.automatic import ANCHOR_MEDIAN, AUTO, Setting, resolved
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.models.ease import EASEModel
from recsys_assets.recommender.models.liking import OTHERWISE, LikingModel
from recsys_assets.recommender.ranking.rankings import Ranker

_ANCHOR_PRIOR = 60.0


@dataclass(frozen=True)
class Blend:
    """Weights of a blend.

    Attributes:
        ease_weight: share of EASE in a user's personal scores, 0 to 1; the rest is implicit ALS.
        prior_ratings: ratings of a user that weigh as much as its attributes; without any it is shown the prior alone.
        index: fingerprint of the dense index.
    """

    ease_weight: float
    prior_ratings: float
    index: str

    @property
    def needs_als(self) -> bool:
        """Whether implicit ALS has any weight."""
        return self.ease_weight < 1

    def scores(self, ease: np.ndarray, als: np.ndarray | None, prior: np.ndarray, n_ratings: np.ndarray) -> np.ndarray:
        """The mixed scores, shape (U, n_movies).

        Args:
            ease: scores of each model for the same users and all movies, shape (U, n_movies).
            als: the same; None where it has no weight.
            prior: the same.
            n_ratings: how many ratings each user has, shape (U,).
        """
        personal = self.ease_weight * _standardised(ease)
        if als is not None:
            personal += (1 - self.ease_weight) * _standardised(als)
        share = (n_ratings / np.maximum(n_ratings + self.prior_ratings, 1e-9)).astype(np.float32)[:, None]
        return share * personal + (1 - share) * _standardised(prior)

    def save(self, folder: Path) -> None:
        """Write model.json."""
        (folder / "model.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "Blend":
        """Read what `save` wrote."""
        return cls(**json.loads((folder / "model.json").read_text()))


def fit(ratings: nw.LazyFrame, *, index: Index, ease_weight: float = 1.0, prior_ratings: Setting = AUTO) -> Blend:
    """The blend with these weights, which validation chose; of the ratings only the length of histories is looked at.

    Args:
        ratings: user.
        index: the dense index the ids come from.
        ease_weight: see `Blend`.
        prior_ratings: see `Blend` and `automatic_prior`.
    """
    per_user = to_polars(ratings.group_by("user").agg(n=nw.len()), "n")["n"]
    prior = resolved(prior_ratings, automatic_prior(float(np.median(per_user.to_numpy()))))
    return Blend(ease_weight, prior, index.fingerprint)


def automatic_prior(median_ratings: float) -> float:
    """The prior's weight where the median user has so many ratings: 60 for the 86 of case study A."""
    return _ANCHOR_PRIOR * median_ratings / ANCHOR_MEDIAN


def ranker(
    weights: Blend,
    ease_model: EASEModel,
    liking_model: LikingModel,
    features: np.ndarray,
    ranking_model: ALSModel | None = None,
) -> Ranker:
    """Scores of users by their ratings, which is all that the blend knows of them beside their attributes.

    Args:
        weights: of the models.
        ease_model: EASE.
        liking_model: the prior.
        features: of everybody, by dense index; see `liking.feature_matrix`.
        ranking_model: implicit ALS; may be left out where it has no weight.

    Raises:
        ValueError: implicit ALS has a weight and is left out.
    """
    if weights.needs_als and ranking_model is None:
        raise ValueError(f"a blend with {weights.ease_weight} of EASE needs implicit ALS for the rest")
    als = ranking_model if weights.needs_als else None

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        return weights.scores(
            ease=ease_model.scores(rows),
            als=als.scores(rows) if als else None,
            prior=liking_model.scores(features[users]),
            n_ratings=np.diff(rows.indptr),
        )

    def contributions(rated: np.ndarray, ratings: np.ndarray, movies: np.ndarray) -> np.ndarray:
        by_ease = ease_model.contributions(rated, ratings, movies)
        if als is None:
            return by_ease
        row = sparse.csr_array((ratings, rated, [0, len(rated)]), shape=(1, ease_model.n_movies))
        by_als = als.contributions(rated, ratings, movies)
        of_ease, of_als = (max(float(model.scores(row).std()), 1e-9) for model in (ease_model, als))
        return weights.ease_weight * by_ease / of_ease + (1 - weights.ease_weight) * by_als / of_als

    return Ranker(scores, liking_model.movie_known | ease_model.movie_known, contributions, OTHERWISE)


def _standardised(scores: np.ndarray) -> np.ndarray:
    """To mean 0 and standard deviation 1 within each user; zeros where all are equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
