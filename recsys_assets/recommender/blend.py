"""A blend of models that rank: their scores made comparable within each user, and mixed.

The models themselves are fitted elsewhere; here are the weights and how they are used.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import narwhals as nw
import numpy as np

from recsys_assets.recommender.index import Index


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

    def scores(self, ease: np.ndarray, als: np.ndarray, prior: np.ndarray, n_ratings: np.ndarray) -> np.ndarray:
        """The mixed scores, shape (U, n_movies).

        Args:
            ease: scores of each model for the same users and all movies, shape (U, n_movies).
            als: the same.
            prior: the same.
            n_ratings: how many ratings each user has, shape (U,).
        """
        personal = self.ease_weight * _standardised(ease) + (1 - self.ease_weight) * _standardised(als)
        share = (n_ratings / np.maximum(n_ratings + self.prior_ratings, 1e-9)).astype(np.float32)[:, None]
        return share * personal + (1 - share) * _standardised(prior)

    def contributions(
        self,
        ease: tuple[np.ndarray, np.ndarray],
        als: tuple[np.ndarray, np.ndarray],
        *,
        ease_deviation: float,
        als_deviation: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each of one user's ratings adds to its mixed scores, up to one factor for all of them.

        Args:
            ease: what `EASEModel.contributions` gave: rated movies, ascending, shape (R,), and parts, shape (R, P).
            als: the same of `ALSModel.contributions`; it knows every movie that EASE knows.
            ease_deviation: standard deviation of the user's scores of all movies by EASE.
            als_deviation: the same by ALS.

        Returns:
            The rated movies, as in `als`, and the parts.
        """
        movies, added = als
        mixed = (1 - self.ease_weight) * added / max(als_deviation, 1e-9)
        mixed[np.searchsorted(movies, ease[0])] += self.ease_weight * ease[1] / max(ease_deviation, 1e-9)
        return movies, mixed

    def save(self, folder: Path) -> None:
        """Write model.json."""
        (folder / "model.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "Blend":
        """Read what `save` wrote."""
        return cls(**json.loads((folder / "model.json").read_text()))


def fit(ratings: nw.LazyFrame, *, index: Index, ease_weight: float = 1.0, prior_ratings: float = 60.0) -> Blend:
    """The blend with these weights, which validation chose: nothing is learnt from the ratings."""
    del ratings
    return Blend(ease_weight, prior_ratings, index.fingerprint)


def _standardised(scores: np.ndarray) -> np.ndarray:
    """To mean 0 and standard deviation 1 within each user; zeros where all are equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
