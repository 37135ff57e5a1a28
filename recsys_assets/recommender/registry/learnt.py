"""What a fitted model has learnt, in two numbers: for the people who look at it after each fit."""

from collections.abc import Mapping
from functools import singledispatch

import numpy as np

from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.models.attribute_effects import AttributeEffects
from recsys_assets.recommender.models.bayesian_factors import BayesianFactors
from recsys_assets.recommender.models.biases import BiasModel
from recsys_assets.recommender.models.blend import Blend
from recsys_assets.recommender.models.cluster_mean import ClusterMeanModel
from recsys_assets.recommender.models.demographic_popularity import DemographicPopularity
from recsys_assets.recommender.models.ease import EASEModel
from recsys_assets.recommender.models.item_knn import ItemKNNModel
from recsys_assets.recommender.models.item_mean import ItemMeanModel
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel
from recsys_assets.recommender.models.recent_popularity import RecentPopularityModel
from recsys_assets.recommender.models.response_stack import ResponseStack
from recsys_assets.recommender.models.segments import SegmentModel
from recsys_assets.recommender.models.segments.residuals import SegmentResidualModel
from recsys_assets.recommender.models.sessions import SessionModel
from recsys_assets.recommender.models.stack import Holdout, StackModel
from recsys_assets.recommender.models.transitions import TransitionModel

Learnt = Mapping[str, float]


def _spread(values: np.ndarray) -> float:
    """The standard deviation of the finite values."""
    finite = values[np.isfinite(values)]
    return float(np.std(finite)) if finite.size else 0.0


@singledispatch
def learnt(model: object) -> Learnt:
    """Two numbers by name; empty for a type of model that says nothing of itself."""
    del model
    return {}


@learnt.register
def _(model: ALSModel) -> Learnt:
    return {"users with factors": int(model.user_known.sum()), "items with factors": int(model.item_known.sum())}


@learnt.register
def _(model: AttributeEffects) -> Learnt:
    return {"attributes": model.side.shape[-1], "spread of effects": _spread(model.coefficients)}


@learnt.register
def _(model: BayesianFactors) -> Learnt:
    return {"factors": model.items.shape[1], "standard error of a rating": float(model.noise**-0.5)}


@learnt.register
def _(model: BiasModel) -> Learnt:
    return {"mean rating": float(model.global_mean), "spread of item biases": _spread(model.item_bias)}


@learnt.register
def _(model: Blend) -> Learnt:
    return {"share of EASE": float(model.ease_weight), "ratings that the prior weighs": float(model.prior_ratings)}


@learnt.register
def _(model: ClusterMeanModel) -> Learnt:
    return {"clusters": len(model.means), "spread of means": _spread(model.means)}


@learnt.register
def _(model: EASEModel) -> Learnt:
    return {"items with weights": len(model.items), "largest weight": float(model.weights.max(initial=0.0))}


@learnt.register
def _(model: ItemKNNModel) -> Learnt:
    similar = model.similarities
    return {
        "neighbours per item": similar.nnz / max(similar.shape[0], 1),
        "largest similarity": float(similar.data.max(initial=0.0)),
    }


@learnt.register
def _(model: ItemMeanModel) -> Learnt:
    return {"mean rating": float(model.global_mean), "spread of item means": _spread(model.means)}


@learnt.register
def _(model: ItemNeighboursModel) -> Learnt:
    return {"items with neighbours": len(model.items), "spread of item biases": _spread(model.item_bias)}


@learnt.register
def _(model: DemographicPopularity) -> Learnt:
    return {"attributes": model.coefficients.shape[0], "reliability of attributes": float(model.reliability)}


@learnt.register
def _(model: RecentPopularityModel) -> Learnt:
    return {
        "items with likes": int((model.counts > 0).sum()),
        "likes of the first item": float(model.counts.max(initial=0)),
    }


@learnt.register
def _(model: ResponseStack) -> Learnt:
    return {"predictors": len(model.names), "largest coefficient": float(np.abs(model.coefficients).max(initial=0.0))}


@learnt.register
def _(model: SegmentModel) -> Learnt:
    return {"segments": model.n_segments, "items": len(model.items)}


@learnt.register
def _(model: SegmentResidualModel) -> Learnt:
    return {"segments": len(model.residuals), "spread of residuals": _spread(model.residuals)}


@learnt.register
def _(model: SessionModel) -> Learnt:
    return {"items that sessions start with": int((model.starts > 0).sum()), "share of EASE": float(model.ease_weight)}


@learnt.register
def _(model: Holdout) -> Learnt:
    return {
        "hidden ratings": len(model.is_seen),
        "share of users with other ratings": float(np.mean(model.is_seen)) if len(model.is_seen) else 0.0,
    }


@learnt.register
def _(model: StackModel) -> Learnt:
    weights = np.concatenate([np.ravel(part) for part in model.weights.values()])
    return {"weights": len(weights), "largest weight": float(np.abs(weights).max(initial=0.0))}


@learnt.register
def _(model: TransitionModel) -> Learnt:
    return {"transitions": model.weights.nnz, "largest weight": float(model.weights.data.max(initial=0.0))}
