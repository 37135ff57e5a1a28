"""Tables between the training ratings and the models; the asset graph and `fitting` make them from this one list."""

from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.features.clusters import ClusterSettings
from recsys_assets.recommender.models import cold_start, segments
from recsys_assets.recommender.models.als import ALSSettings
from recsys_assets.recommender.models.cold_start import ColdStartSettings
from recsys_assets.recommender.registry.types import Derived

USER_CLUSTERS = Derived(
    "user_clusters",
    clusters.assign,
    inputs=("user_features",),
    settings="clusters",
    section=ClusterSettings,
    fields=("k", "weigh", "seed"),
)
CLUSTER_RATINGS = Derived(
    "cluster_ratings",
    cold_start.cluster_ratings,
    inputs=("train_ratings", "user_clusters"),
    settings="als",
    section=ALSSettings,
    takes_index=True,
    fitted_on="train_ratings",
)
ADJUSTED_TRAIN_RATINGS = Derived(
    "adjusted_train_ratings",
    cold_start.fill_cold_users,
    inputs=("train_ratings", "users", "user_clusters", "cluster_ratings"),
    settings="cold_start",
    section=ColdStartSettings,
)
USER_SEGMENTS = Derived("user_segments", segments.assign, inputs=("segment_model", "train_histories", "test_histories"))
SEGMENT_RATINGS = Derived("segment_ratings", segments.ratings_by_segment, inputs=("train_histories", "user_segments"))
DERIVED = (USER_CLUSTERS, CLUSTER_RATINGS, ADJUSTED_TRAIN_RATINGS, USER_SEGMENTS, SEGMENT_RATINGS)
