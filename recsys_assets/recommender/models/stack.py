"""Linear stack (Wolpert 1992): corrects the mean of the rating models by their predictions and numbers of ratings.

The weights are learnt from hold-out ratings: a part of the training ratings is hidden, and the models are fitted again
on the rest. This module lists the stacked models; their own modules fit them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field

from recsys_assets.recommender.data.frames import drawn, lazy, pseudo_random, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.models import attribute_effects, bayesian_factors, cluster_mean, item_neighbours
from recsys_assets.recommender.models.attribute_effects import AttributeEffects, AttributeEffectsSettings
from recsys_assets.recommender.models.bayesian_factors import BayesianFactors, BayesianFactorsSettings
from recsys_assets.recommender.models.cluster_mean import ClusterMeanModel, ClusterMeanSettings
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel, ItemNeighboursSettings
from recsys_assets.recommender.models.ridge import standardised_ridge
from recsys_assets.recommender.models.stored import StoredModel

# Share of the ratings, in time, that the models of the hold-out learn from; the weights learn from the rest. A second,
# earlier fold made scores worse: corrections of the past do not fit the future.
_TIME_CUT = 0.85
# Number of random parts of the ratings; one part is hidden.
_RANDOM_PARTS = 10
# Shrinkage of the level: hold-out ratings with residual 0 that are added to the actual ones.
_LEVEL_SHRINKAGE = 1000.0


class StackHoldoutSettings(Section):
    """Held-out training ratings, on which the stack of rating models is fitted."""

    tried: ClassVar = {"folds": ("time", "random")}

    folds: Literal["time", "random"] = Field(
        "time", description="Ratings that are held out: 'time' for the latest 15 %, 'random' for a random tenth."
    )
    seed: int = Field(0, ge=0, description="Seed of the random hold-out, and of the sample of the users.")
    fit_ratings: int = Field(
        1_500_000,
        ge=1,
        description="Largest number of training ratings, hidden ones included, that the stacked models are fitted on "
        "once more. Of more ratings, those of a sample of the users are taken.",
    )


class StackSettings(Section):
    """The stack: a linear model of the predictions of all rating models."""

    tried: ClassVar = {"reg": (1e3, 1e4, 3e4, 1e5), "level_share": (0.5, 1.0)}

    reg: float = Field(
        30_000.0, ge=0, description="L2 regularisation of the weights of the scaled features, in ratings."
    )
    level_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the mean hold-out residual that is added to predictions; the level of ratings changes "
        "over time.",
    )


class Bases(NamedTuple):
    """The stacked models, fitted on the same ratings.

    Attributes:
        attributes: factors with attributes as prior.
        profile: factors with attributes and profile as prior.
        effects: effects of attributes per item, beyond the factors.
        clusters: mean rating per (cluster, item).
        neighbours: the user's own ratings of similar items.
    """

    attributes: BayesianFactors
    profile: BayesianFactors
    effects: AttributeEffects
    clusters: ClusterMeanModel
    neighbours: ItemNeighboursModel

    def predictions(self, pairs: pl.DataFrame, rated: nw.LazyFrame) -> "BasePredictions":
        """Return the models' predictions of pairs, in their order.

        Args:
            pairs: user, item.
            rated: user, item, rating; the ratings that the models were fitted on.
        """
        user, item = pairs["user"].to_numpy(), pairs["item"].to_numpy()
        known = to_polars(rated, "user", "item", "rating")
        user_counts = np.bincount(known["user"].to_numpy(), minlength=len(self.attributes.users))
        item_counts = np.bincount(known["item"].to_numpy(), minlength=len(self.attributes.items))
        is_seen = user_counts[user] > 0
        attributes, profile = self.attributes.of(user, item), self.profile.of(user, item)
        central = np.where(is_seen, (attributes + profile) / 2, attributes + self.effects.of(user, item))
        # Item bias; for an item without ratings, the prior mean by genres and year.
        level, user_bias = self.attributes.items[item, 0], self.attributes.users[user, 0]
        taste = attributes - self.attributes.offset - level - user_bias
        cluster = self.clusters.of(user, item) - self.attributes.offset - level
        neighbours = self.neighbours.parts(user, item, lazy(known))["neighbours"]
        mine, theirs = np.log1p(user_counts[user]), np.log1p(item_counts[item])
        parts = (level, user_bias, taste, profile - attributes, cluster, neighbours)
        by_counts = [*(part * mine for part in parts), level * theirs, taste * theirs]
        return BasePredictions(
            central, np.column_stack([np.ones(len(user)), mine, theirs, *parts, *by_counts]), is_seen
        )


class BasePredictions(NamedTuple):
    """Predictions of the stacked models, and the number of ratings behind them.

    Attributes:
        central: prediction before the correction, shape (P,), float64. It is the mean of both factor models for users
            with a rating, and the prediction from attributes for users without, who have no profile.
        features: features of the correction, shape (P, features), float64.
        is_seen: whether the user has a rating, shape (P,).
    """

    central: np.ndarray
    features: np.ndarray
    is_seen: np.ndarray


@dataclass(frozen=True)
class Holdout(StoredModel):
    """Hold-out ratings, and the predictions of models that did not see them.

    Attributes:
        features: shape (P, features), float64; see `BasePredictions`.
        residuals: ratings minus `BasePredictions.central`, shape (P,), float64.
        is_seen: whether the user has a rating that is not hidden, shape (P,).
        index: fingerprint of the id map that the models were fitted with.
    """

    features: np.ndarray
    residuals: np.ndarray
    is_seen: np.ndarray
    index: str

    arrays: ClassVar = {"rows": {"features": "features", "residuals": "residuals", "is_seen": "is_seen"}}


def hold_out(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_features: nw.LazyFrame,
    items: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    bayesian_factors_model: BayesianFactors,
    profile_factors_model: BayesianFactors,
    attribute_effects_model: AttributeEffects,
    cluster_mean_model: ClusterMeanModel,
    rating_neighbours_model: ItemNeighboursModel,
    settings: StackHoldoutSettings,
) -> Holdout:
    """Hide a part of the ratings, fit the models again on the rest, and predict the hidden ratings.

    Each model is fitted again with the parameters of the given one.

    Args:
        ratings: user, item, rating, timestamp, batch, row.
        index: id map of users and items.
        user_features: table user_features; all users.
        items: table items; the whole catalogue.
        user_clusters: table user_clusters; all users.
        bayesian_factors_model: gives the parameters.
        profile_factors_model: gives the parameters.
        attribute_effects_model: gives the parameters.
        cluster_mean_model: gives the parameters.
        rating_neighbours_model: gives the parameters.
        settings: which ratings are hidden. `time`: the latest 15 %, many of them by new users. `random`: a random
            tenth. The hidden ratings must resemble those that are to be predicted. Also the largest number of ratings.

    Returns:
        The hidden ratings; empty if the hash hides none of a few ratings.
    """
    rows = to_polars(ratings, "user", "item", "rating", "timestamp", "batch", "row")
    shown, hidden = _fold(_sampled(rows, settings), settings)
    known = lazy(shown)
    attributes, profile = (
        bayesian_factors.fit(
            known,
            index=index,
            user_features=user_features,
            items=items,
            settings=BayesianFactorsSettings.model_validate(model.params),
        )
        for model in (bayesian_factors_model, profile_factors_model)
    )
    effects = attribute_effects.fit(
        known,
        index=index,
        user_features=user_features,
        bayesian_factors_model=attributes,
        settings=AttributeEffectsSettings(reg=attribute_effects_model.reg),
    )
    of_clusters = ClusterMeanSettings.model_validate(cluster_mean_model.params)
    clusters = cluster_mean.fit(known, index=index, user_clusters=user_clusters, settings=of_clusters)
    of_neighbours = ItemNeighboursSettings.model_validate(rating_neighbours_model.params)
    neighbours = item_neighbours.fit(known, index=index, settings=of_neighbours)
    predicted = Bases(attributes, profile, effects, clusters, neighbours).predictions(hidden, known)
    residuals = hidden["rating"].cast(pl.Float64).to_numpy() - predicted.central
    return Holdout(predicted.features, residuals, predicted.is_seen, index.fingerprint)


@dataclass(frozen=True)
class StackModel:
    """Linear corrections of the base predictions, separate for users with and without a training rating.

    Attributes:
        weights: weights of the features by population, `seen` or `unseen`, each of shape (features,).
        scale: lowest and highest training rating; predictions are clipped to them.
        index: fingerprint of the id map that the model was fitted with.
    """

    weights: Mapping[str, np.ndarray]
    scale: tuple[float, float]
    index: str

    def predict(self, pairs: nw.LazyFrame, rated: nw.LazyFrame, bases: Bases) -> pl.DataFrame:
        """Predict the ratings of pairs: user, item, prediction, without nulls.

        Args:
            pairs: user, item.
            rated: user, item, rating; the ratings that the models were fitted on.
            bases: the stacked models.
        """
        rows = to_polars(pairs, "user", "item")
        of_bases = bases.predictions(rows, rated)
        unseen, seen = (of_bases.features @ self.weights[population] for population in ("unseen", "seen"))
        predicted = np.clip(of_bases.central + np.where(of_bases.is_seen, seen, unseen), *self.scale)
        return rows.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def save(self, folder: Path) -> None:
        """Write model.json."""
        weights = {population: of.tolist() for population, of in self.weights.items()}
        facts = {"weights": weights, "scale": self.scale, "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "StackModel":
        """Read the file that `save` writes."""
        facts = json.loads((folder / "model.json").read_text())
        weights = {population: np.array(of) for population, of in facts["weights"].items()}
        return cls(weights, tuple(facts["scale"]), facts["index"])


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    stack_holdout: Holdout,
    settings: StackSettings,
) -> StackModel:
    """Learn the weights from the hold-out ratings.

    The overall level of ratings changes from season to season, so only a part of the level of the hold-out is carried
    over.

    Args:
        ratings: rating.
        index: id map of users and items.
        stack_holdout: the hold-out ratings.
        settings: regularisation of the weights, and the share of the level that is added to predictions.
    """
    rating = to_polars(ratings, "rating")["rating"].to_numpy()
    populations = {"unseen": ~stack_holdout.is_seen, "seen": stack_holdout.is_seen}
    # A population without hold-out ratings gets no correction; a random hold-out has hardly any new user.
    weights = {
        name: _corrections(stack_holdout.features[few], stack_holdout.residuals[few], settings)
        for name, few in populations.items()
    }
    scale = (float(rating.min()), float(rating.max())) if len(rating) else (0.0, 0.0)
    return StackModel(weights, scale, index.fingerprint)


def _sampled(rows: pl.DataFrame, settings: StackHoldoutSettings) -> pl.DataFrame:
    """Return the ratings of a sample of the users if there are too many; the stack has a few dozen weights."""
    share = settings.fit_ratings / max(len(rows), 1)
    if share >= 1:
        return rows
    # Another draw than the sample of `scale.fit_ratings`, of which this is a sample.
    kept = drawn(share, settings.seed, ["user"], stream=1)
    return rows.filter(to_polars(lazy(rows).select(kept=kept))["kept"])


def _fold(rows: pl.DataFrame, settings: StackHoldoutSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the known ratings and the hidden ratings."""
    if settings.folds == "time" and rows["timestamp"].n_unique() > 1:
        in_time = rows.sort("timestamp", "batch", "row")
        cut = int(_TIME_CUT * len(rows))
        return in_time[:cut], in_time[cut:]
    part = pseudo_random(settings.seed, ["user", "item"])
    hidden = to_polars(lazy(rows).select(hidden=part % _RANDOM_PARTS == 0))["hidden"]
    return rows.filter(~hidden), rows.filter(hidden)


def _corrections(features: np.ndarray, residuals: np.ndarray, settings: StackSettings) -> np.ndarray:
    """Return the weights of the features, shape (features,); the first feature is constant and takes the level.

    With few hold-out ratings, the level is shrunk towards 0 like the weights.
    """
    if not len(residuals):
        return np.zeros(features.shape[1])
    _, weights = standardised_ridge(features, residuals, settings.reg)
    level = residuals.sum() / (len(residuals) + _LEVEL_SHRINKAGE)
    weights[0] = settings.level_share * level - features.mean(axis=0) @ weights
    return weights
