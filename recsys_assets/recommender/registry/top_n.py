"""Models of the task `top_n`: they rank all items that a user has not rated.

Each entry returns a `Ranker`. Scored ranks and the lists that users see both come from it. The algorithms are in
`models/`; this module says which table and which settings each model takes.
"""

import narwhals as nw
import numpy as np
from scipy import sparse

from recsys_assets.recommender.data.frames import row_count, to_polars
from recsys_assets.recommender.data.preferences import is_events
from recsys_assets.recommender.models import (
    als,
    blend,
    cold_start,
    demographic_popularity,
    ease,
    item_knn,
    recent_popularity,
)
from recsys_assets.recommender.models.als import ALSModel, ImplicitALSSettings
from recsys_assets.recommender.models.biases import BiasModel
from recsys_assets.recommender.models.blend import Blend, BlendSettings
from recsys_assets.recommender.models.demographic_popularity import (
    DemographicPopularity,
    DemographicPopularitySettings,
)
from recsys_assets.recommender.models.ease import EASEModel, EASESettings
from recsys_assets.recommender.models.item_knn import ItemKNNModel, ItemKNNSettings
from recsys_assets.recommender.models.item_mean import ItemMeanModel
from recsys_assets.recommender.models.recent_popularity import RecentPopularityModel, RecentPopularitySettings
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry.types import Entry, Fit, Parameters

IMPLICIT_ALS = Fit(
    asset="implicit_als_model",
    function=als.fit,
    model_type=ALSModel,
    table="train_ratings",
    settings="implicit_als",
    section=ImplicitALSSettings,
    description="Implicit ALS (Hu, Koren and Volinsky 2008), which ranks items for top N.",
    fits_on_spark=True,
)
EASE = Fit(
    asset="ease_model",
    function=ease.fit,
    model_type=EASEModel,
    table="train_ratings",
    settings="ease",
    section=EASESettings,
    description="EASE (Steck 2019): weights between items in closed form, learnt from likes.",
)
DEMOGRAPHIC_POPULARITY = Fit(
    asset="demographic_popularity_model",
    function=demographic_popularity.fit,
    model_type=DemographicPopularity,
    table="train_ratings",
    settings="demographic_popularity",
    section=DemographicPopularitySettings,
    description="Ridge regression of likes on user attributes, later ratings counting more: it serves new users.",
    others=("user_features",),
)
RECENT_POPULARITY = Fit(
    asset="recent_popularity_model",
    function=recent_popularity.fit,
    model_type=RecentPopularityModel,
    table="train_ratings",
    settings="recent_popularity",
    section=RecentPopularitySettings,
    description="Number of likes per item, later ratings counting more: a baseline that follows time.",
    needs_all=True,
)
ITEM_KNN = Fit(
    asset="item_knn_model",
    function=item_knn.fit,
    model_type=ItemKNNModel,
    table="train_ratings",
    settings="item_knn",
    section=ItemKNNSettings,
    description="Item-based nearest neighbours by cosine similarity of likes: the classical baseline for top N.",
)
BLEND = Fit(
    asset="blend_weights",
    function=blend.fit,
    model_type=Blend,
    table="train_ratings",
    settings="blend",
    section=BlendSettings,
    description="Weights of EASE, implicit ALS and the ridge regression on attributes in the blend.",
    needs_all=True,
)
FITS = (IMPLICIT_ALS, EASE, DEMOGRAPHIC_POPULARITY, RECENT_POPULARITY, ITEM_KNN, BLEND)


def popularity(items: nw.LazyFrame, trained: nw.LazyFrame) -> Ranker:
    """Rank by the number of training ratings; of events, by the number of users with a weight above 0."""
    return rankings.of_popularity(_counts(items, trained))


def _counts(items: nw.LazyFrame, trained: nw.LazyFrame) -> np.ndarray:
    counted = trained.filter(nw.col("rating") > 0) if is_events(trained) else trained
    rated = to_polars(counted.group_by("item").agg(n=nw.len()))
    counts = np.zeros(row_count(items), np.int64)
    counts[rated["item"].to_numpy()] = rated["n"].to_numpy()
    return counts


def _recent_popularity(recent_popularity_model: RecentPopularityModel) -> Ranker:
    counts = recent_popularity_model.counts
    return rankings.for_everybody(counts, counts > 0, otherwise="liked by many lately")


def _item_mean(item_mean_model: ItemMeanModel, items: nw.LazyFrame, trained: nw.LazyFrame) -> Ranker:
    known = _counts(items, trained) > 0
    return rankings.for_everybody(item_mean_model.means, known, otherwise="rated highest by all")


def _user_item_bias(user_item_bias_model: BiasModel, items: nw.LazyFrame, trained: nw.LazyFrame) -> Ranker:
    """Rank by the item's bias; the user's bias shifts all items alike."""
    known = _counts(items, trained) > 0
    return rankings.for_everybody(user_item_bias_model.item_bias, known, otherwise="rated highest by all")


def _explicit_als(als_adjusted_model: ALSModel, user_clusters: nw.LazyFrame) -> Ranker:
    return _als(als_adjusted_model, user_clusters)


def _implicit_als(implicit_als_model: ALSModel, user_clusters: nw.LazyFrame) -> Ranker:
    return _als(implicit_als_model, user_clusters)


def _als(model: ALSModel, user_clusters: nw.LazyFrame) -> Ranker:
    vectors = cold_start.warm_up(model, user_clusters)
    is_fitted = np.zeros(len(vectors), bool)
    is_fitted[: len(model.user_known)] = model.user_known

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        own = vectors[users]
        # Users who came after the fit, and those outside the sample of the fit.
        others = ~is_fitted[users] & (np.diff(rows.indptr) > 0)
        if others.any():
            folded_in = model.fold_in(rows[others])
            own[others] = np.where(folded_in.any(axis=1, keepdims=True), folded_in, own[others])
        return own @ model.item_factors.T

    known = np.asarray(model.item_factors.any(axis=1))
    return Ranker(scores, known, model.contributions, "liked by people of the same cluster")


def _demographic_popularity(demographic_popularity_model: DemographicPopularity, user_features: nw.LazyFrame) -> Ranker:
    features = demographic_popularity.feature_matrix(user_features)

    def scores(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return demographic_popularity_model.scores(features[users])

    return Ranker(scores, demographic_popularity_model.item_known, otherwise=demographic_popularity.OTHERWISE)


def _item_knn(
    item_knn_model: ItemKNNModel, demographic_popularity_model: DemographicPopularity, user_features: nw.LazyFrame
) -> Ranker:
    """Rank by nearest neighbours, or by demographic popularity for users whose ratings say nothing of other items."""
    return _or_demographic_popularity(item_knn_model, demographic_popularity_model, user_features)


def _ease(
    ease_model: EASEModel, demographic_popularity_model: DemographicPopularity, user_features: nw.LazyFrame
) -> Ranker:
    """Rank by EASE, or by demographic popularity for users whose ratings say nothing of other items."""
    return _or_demographic_popularity(ease_model, demographic_popularity_model, user_features)


def _or_demographic_popularity(
    model: EASEModel | ItemKNNModel,
    demographic_popularity_model: DemographicPopularity,
    user_features: nw.LazyFrame,
) -> Ranker:
    features = demographic_popularity.feature_matrix(user_features)

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        scored = model.scores(rows)
        others = rankings.is_silent(scored, rows)
        scored[others] = demographic_popularity_model.scores(features[users[others]])
        return scored

    return Ranker(scores, model.item_known, model.contributions, demographic_popularity.OTHERWISE)


def _blend(
    blend_weights: Blend,
    ease_model: EASEModel,
    demographic_popularity_model: DemographicPopularity,
    user_features: nw.LazyFrame,
    implicit_als_model: ALSModel | None = None,
) -> Ranker:
    return blend.ranker(
        blend_weights,
        ease_model,
        demographic_popularity_model,
        demographic_popularity.feature_matrix(user_features),
        implicit_als_model,
    )


def _idle_in_blend(parameters: Parameters) -> tuple[str, ...]:
    return () if parameters[BLEND.settings]["ease_weight"] < 1 else (IMPLICIT_ALS.asset,)


ENTRIES = (
    Entry("popularity", "top_n", popularity, is_personal=False),
    Entry("recent_popularity", "top_n", _recent_popularity, is_personal=False),
    Entry("item_mean", "top_n", _item_mean, is_personal=False, ranks_by_rating=True),
    Entry("user_item_bias", "top_n", _user_item_bias, is_personal=False, ranks_by_rating=True),
    Entry("als_adjusted", "top_n", _explicit_als, ranks_by_rating=True),
    Entry("implicit_als", "top_n", _implicit_als),
    Entry("demographic_popularity", "top_n", _demographic_popularity, is_personal=False),
    Entry("item_knn", "top_n", _item_knn),
    Entry("ease", "top_n", _ease),
    Entry("blend", "top_n", _blend, _idle_in_blend),
)
