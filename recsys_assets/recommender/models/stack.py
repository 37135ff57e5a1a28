"""A linear stack: what the mean of the rating models leaves, by what each says and how much it had to go by.

It learns the weights from ratings that its models did not see: a part of the training ratings is hidden, and the models
are fitted again on the rest. Which models those are is said here; how they are fitted, in their own modules.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.frames import lazy, pseudo_random, to_polars
from recsys_assets.recommender.index import Index
from recsys_assets.recommender.models import bayesian_factors, cluster_mean
from recsys_assets.recommender.models.bayesian_factors import BayesianFactors
from recsys_assets.recommender.models.cluster_mean import ClusterMeanModel

Folds = Literal["time", "random"]

# The models of the fold learn from what came before this share of the ratings, the weights from the rest. An earlier
# fold beside it made the scores worse: what corrects the past is not what corrects the future.
_TIME_CUT = 0.85
# Of the parts into which a hash cuts the ratings, one is hidden.
_RANDOM_PARTS = 10
_POPULATIONS = ("unseen", "seen")


@dataclass(frozen=True)
class Bases:
    """The models that are stacked, fitted on the same ratings, and how many of these each user and movie has.

    Attributes:
        attributes: factors with attributes as prior.
        profile: the same with what the user has rated, whatever the rating.
        clusters: means per (cluster, movie).
        user_counts: shape (n_users,).
        movie_counts: shape (n_movies,).
    """

    attributes: BayesianFactors
    profile: BayesianFactors
    clusters: ClusterMeanModel
    user_counts: np.ndarray
    movie_counts: np.ndarray

    def central(self, user: np.ndarray, movie: np.ndarray) -> np.ndarray:
        """What is predicted before anything is learnt about the models: shape (P,), float64.

        Their mean; for users without a rating, of whom there is no profile, the attributes alone.
        """
        attributes, profile = self.attributes.of(user, movie), self.profile.of(user, movie)
        return np.where(self.user_counts[user] > 0, (attributes + profile) / 2, attributes)

    def features(self, user: np.ndarray, movie: np.ndarray) -> np.ndarray:
        """What the models say of pairs by dense index, and how much there is to go by: shape (P, features), float64.

        The level is the movie's bias, which for a movie without ratings follows from its genres and year.
        """
        level, user_bias = self.attributes.movies[movie, 0], self.attributes.users[user, 0]
        attributes = self.attributes.of(user, movie)
        taste = attributes - self.attributes.offset - level - user_bias
        gap = self.profile.of(user, movie) - attributes
        cluster = self.clusters.of(user, movie) - self.attributes.offset - level
        mine, theirs = np.log1p(self.user_counts[user]), np.log1p(self.movie_counts[movie])
        parts = (level, user_bias, taste, gap, cluster)
        by_counts = [*(part * mine for part in parts), level * theirs, taste * theirs]
        return np.column_stack([np.ones(len(user)), mine, theirs, *parts, *by_counts])


@dataclass(frozen=True)
class StackModel:
    """Linear corrections of the models' mean, one for users with a training rating and one for those without.

    Attributes:
        weights: of the features, per population, `seen` or `unseen`: shape (features,).
        user_counts: shape (n_users,), training ratings of each user.
        movie_counts: shape (n_movies,), training ratings of each movie.
        index: fingerprint of the dense index.
    """

    weights: Mapping[str, np.ndarray]
    user_counts: np.ndarray
    movie_counts: np.ndarray
    index: str

    def predict(
        self, pairs: nw.LazyFrame, attributes: BayesianFactors, profile: BayesianFactors, clusters: ClusterMeanModel
    ) -> pl.DataFrame:
        """Predicted ratings for the rows (user, movie) of `pairs`: user, movie, prediction; none is missing.

        Args:
            pairs: user, movie.
            attributes: the models that were stacked.
            profile: likewise.
            clusters: likewise.
        """
        rows = to_polars(pairs, "user", "movie")
        user, movie = rows["user"].to_numpy(), rows["movie"].to_numpy()
        bases = Bases(attributes, profile, clusters, self.user_counts, self.movie_counts)
        features = bases.features(user, movie)
        unseen, seen = (features @ self.weights[population] for population in _POPULATIONS)
        predicted = bases.central(user, movie) + np.where(self.user_counts[user] > 0, seen, unseen)
        return rows.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def save(self, folder: Path) -> None:
        """Write users.parquet, movies.parquet and model.json."""
        pl.DataFrame({"ratings": self.user_counts}).write_parquet(folder / "users.parquet")
        pl.DataFrame({"ratings": self.movie_counts}).write_parquet(folder / "movies.parquet")
        weights = {population: of.tolist() for population, of in self.weights.items()}
        (folder / "model.json").write_text(json.dumps({"weights": weights, "index": self.index}))

    @classmethod
    def load(cls, folder: Path) -> "StackModel":
        """Read what `save` wrote."""
        facts = json.loads((folder / "model.json").read_text())
        counts = [pl.read_parquet(folder / f"{side}.parquet")["ratings"].to_numpy() for side in ("users", "movies")]
        weights = {population: np.array(of) for population, of in facts["weights"].items()}
        return cls(weights, counts[0], counts[1], facts["index"])


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_features: nw.LazyFrame,
    movies: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    bayesian_factors_model: BayesianFactors,
    profile_factors_model: BayesianFactors,
    cluster_mean_model: ClusterMeanModel,
    folds: Folds = "time",
    reg: float = 100_000.0,
    seed: int = 0,
) -> StackModel:
    """Learn the weights on ratings that the models, fitted again, do not see.

    Args:
        ratings: user, movie, rating, timestamp, batch, row.
        index: the dense index the ids come from.
        user_features: table user_features; everyone.
        movies: table movies; the whole catalogue.
        user_clusters: table user_clusters; everyone.
        bayesian_factors_model: fitted on the same ratings; the one fitted again takes its parameters.
        profile_factors_model: likewise.
        cluster_mean_model: likewise.
        folds: which are hidden, as what is to be predicted: `time`, the latest, many by new users; or `random` ones.
        reg: L2 regularisation of the weights of the scaled features, in ratings.
        seed: of the random ones.
    """
    rows = to_polars(ratings, "user", "movie", "rating", "timestamp", "batch", "row")
    known, hidden = _fold(rows, folds, seed)
    attributes, profile = (
        bayesian_factors.fit(lazy(known), index=index, user_features=user_features, movies=movies, **model.params)
        for model in (bayesian_factors_model, profile_factors_model)
    )
    clusters = cluster_mean.fit(lazy(known), index=index, user_clusters=user_clusters, **cluster_mean_model.params)
    features, left, seen = _lesson(Bases(attributes, profile, clusters, *_counts(known, index)), hidden)
    # A population without hidden ratings, as new users in random ones, is not corrected.
    weights = {
        population: _ridge(features[few], left[few], reg)
        for population, few in zip(_POPULATIONS, (~seen, seen), strict=True)
    }
    return StackModel(weights, *_counts(rows, index), index.fingerprint)


def _lesson(bases: Bases, hidden: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of the hidden rows, what the models' mean leaves of their ratings, and whether their users had one."""
    user, movie = hidden["user"].to_numpy(), hidden["movie"].to_numpy()
    left = hidden["rating"].cast(pl.Float64).to_numpy() - bases.central(user, movie)
    return bases.features(user, movie), left, bases.user_counts[user] > 0


def _fold(rows: pl.DataFrame, folds: Folds, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings that are known, and ratings that are hidden."""
    if folds == "time":
        in_time = rows.sort("timestamp", "batch", "row")
        cut = int(_TIME_CUT * len(rows))
        return in_time[:cut], in_time[cut:]
    hidden = to_polars(lazy(rows).select(hidden=pseudo_random(seed, ["user", "movie"]) % _RANDOM_PARTS == 0))["hidden"]
    return rows.filter(~hidden), rows.filter(hidden)


def _counts(rows: pl.DataFrame, index: Index) -> tuple[np.ndarray, np.ndarray]:
    user, movie = rows["user"].to_numpy(), rows["movie"].to_numpy()
    return np.bincount(user, minlength=index.n_users), np.bincount(movie, minlength=index.n_movies)


def _ridge(features: np.ndarray, left: np.ndarray, reg: float) -> np.ndarray:
    """Weights, shape (features,), of a ridge regression without intercept of features scaled to mean square 1.

    The constant is one of the features: with few ratings to learn from it is drawn to no correction like the others.
    """
    from sklearn.linear_model import Ridge

    if not len(left):
        return np.zeros(features.shape[1])
    scale = np.sqrt(np.mean(features**2, axis=0))
    scale[scale == 0] = 1
    return Ridge(alpha=max(reg, 1e-6), fit_intercept=False).fit(features / scale, left).coef_ / scale
