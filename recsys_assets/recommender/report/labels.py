"""Labels and order of protocols, models, populations and metrics on the page.

Unlisted names are shown after the listed ones, under their name in the scores.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.data.tables import FITTED_SHARE, SAMPLE_SHARE, SCORED_SHARE

RANDOM, ITEM_MEAN, UPPER_BOUND, SELECTED = "random", "item_mean", "upper_bound", "selected"
BOUNDS = (RANDOM, UPPER_BOUND)
# The baselines that a model must beat to be worth its training.
BASELINES = (ITEM_MEAN, "popularity")


@dataclass(frozen=True)
class Protocol:
    """Label and split of a protocol, and its leading metrics."""

    label: str
    meaning: str = ""
    leads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """Label, direction, meaning and number of decimals of a metric.

    `is_drawn` is False for metrics without a chart: shares near 1, and metrics that only repeat a leading one.
    """

    label: str
    better: Literal["higher", "lower"] | None = None
    meaning: str = ""
    digits: int = 3
    is_drawn: bool = True

    @property
    def direction(self) -> str:
        """'higher is better', 'lower is better', or an empty string if the direction is unknown."""
        return f"{self.better} is better" if self.better else ""

    def shown(self, value: float) -> str:
        """A value of this metric with its number of decimals."""
        return f"{value:.{self.digits}f}"


PROTOCOL_LABELS: Mapping[str, Protocol] = {
    "time_cut": Protocol(
        "Rating prediction after a cut in time",
        "One cut in time over all ratings: models learn from the ratings before the cut and are scored on the ratings "
        "after it, also for users without a rating before it.",
        ("top5pct_rating",),
    ),
    "latest_rating": Protocol(
        "Each user's latest rating",
        "Users are split into train and test users. Each user's latest rating is predicted from the earlier ones; "
        "models learn from the train users' earlier ratings only.",
        ("r2", "next_item_hit_10"),
    ),
    "top_n": Protocol(
        "Top-N recommendation",
        "One cut in time over all ratings: models rank all items that a user has not rated before the cut. The items "
        "that the user likes after the cut should come first.",
        ("ndcg_10",),
    ),
    **{
        f"time_cut_0.{tenths}": Protocol(f"Rating prediction after a cut in time, trained on the first {tenths}0 %")
        for tenths in (6, 7, 9)
    },
    "random_90_10": Protocol("Random tenth of the ratings"),
    "random_80_20": Protocol("Random fifth of the ratings"),
    **{f"u{fold}": Protocol(f"Published fold {fold}") for fold in range(1, 6)},
    "new_users_0": Protocol("New users, nothing known"),
    "new_users_1": Protocol("New users, one rating known"),
    **{f"new_users_{known}": Protocol(f"New users, {known} ratings known") for known in (2, 5, 10, 20)},
    "cold_users": Protocol("New users, nothing known, all their ratings"),
    "leave_last_out": Protocol("Leave-last-out"),
    "latest_rating_time_cut": Protocol("Each user's first rating after a cut in time"),
    "top_n_random_80_20": Protocol("Top N, random fifth of the ratings"),
    "top_n_leave_last_out": Protocol("Top N, leave-last-out"),
}
# Protocols of the pipeline if the ratings have no times.
_WITHOUT_TIMES: Mapping[str, Protocol] = {
    "time_cut": Protocol(
        "Rating prediction on a random split",
        "The ratings have no times, so a hash of user and item divides them: models learn from one part and are scored "
        "on the other.",
        PROTOCOL_LABELS["time_cut"].leads,
    ),
    "top_n": Protocol(
        "Top-N recommendation on a random split",
        "The ratings have no times, so a hash of user and item divides them: models rank all items that a user has not "
        "rated in the training part. The items that the user likes in the other part should come first.",
        PROTOCOL_LABELS["top_n"].leads,
    ),
}
MODELS: Mapping[str, str] = {
    RANDOM: "Random order",
    ITEM_MEAN: "Item mean",
    "popularity": "Popularity",
    "recent_popularity": "Recent popularity",
    "als_unadjusted": "ALS without fill",
    "als_adjusted": "ALS, cold users filled in",
    "user_item_bias": "User and item bias",
    "cluster_mean": "Cluster mean",
    "bayesian_factors": "Factors with attributes",
    "profile_factors": "Factors with attributes and profile",
    "stack": "Stack of rating models",
    "demographic_popularity": "Demographic popularity",
    "implicit_als": "Implicit ALS",
    "item_knn": "Item nearest neighbours",
    "ease": "EASE",
    "blend": "Blend of ranking models",
    "user_bias": "Item mean and user bias",
    "segment_mean": "Segment mean",
    "segment_bias": "Item mean, user and segment bias",
    "segment_list": "Segment's top list",
    "segment_mixture": "Mixture of segments",
    "item_neighbours": "Similar items",
    "response_stack": "Stack for the latest rating",
    "transitions": "Item transitions",
    "sessions": "Item transitions with sessions",
    SELECTED: "Selected model",
    UPPER_BOUND: "Perfect prediction (upper bound)",
}
# What a model does, for somebody who does not know its name; of those that can be served or selected.
_MEANINGS: Mapping[str, str] = {
    ITEM_MEAN: "Each item has one score for everybody: its mean rating.",
    "popularity": "The items with the most ratings, for everybody.",
    "recent_popularity": "The items that most users liked lately, for everybody.",
    "user_item_bias": "Mean rating, plus what is usual for the user and for the item.",
    "als_adjusted": "Factors of users and items; users without ratings borrow those of their cluster.",
    "implicit_als": "Factors of users and items, learnt from what was rated; new users borrow those of their cluster.",
    "demographic_popularity": "What users with the same attributes like.",
    "item_knn": "Items that the same users like as the items that this user likes.",
    "ease": "Items that go with this user's own ratings.",
    "blend": "Items that go with the user's own ratings. The fewer ratings a user has, the more the likes of users "
    "with the same attributes count.",
    "stack": "A weighted sum of several models that predict ratings.",
}
POPULATIONS: Mapping[str, str] = {
    "all": "All users",
    "seen": "Users seen in training",
    "few_ratings": "Users with 1 to 20 training ratings",
    "unseen": "Users not seen in training",
    "train_users": "Train users",
    "test_users": "Test users",
    "test_users_same_second": "Test users, rated in the same second",
    "test_users_same_session": "Test users, rated within the hour",
    "test_users_new_session": "Test users, rated an hour or more later",
}
METRICS: Mapping[str, Metric] = {
    "top5pct_rating": Metric(
        "Rating of the top 5 %",
        "higher",
        "Mean true rating of the 5 % of each user's test items with the highest predictions.",
    ),
    "top5pct_rating_published": Metric(
        "Rating of the top 5 %, by case study A's own rule",
        "higher",
        "Missing predictions count as 1.0. All test rows at or above the user's 95th percentile count: without any "
        "prediction, all rows of the user.",
    ),
    "rmse": Metric("RMSE", "lower", "Root mean squared error of the predicted rating, in rating points."),
    "mae": Metric("MAE", "lower", "Mean absolute error of the predicted rating, in rating points.", is_drawn=False),
    "r2": Metric("R²", "higher", "Share of the variance of the ratings that is predicted; the mean rating scores 0."),
    "prediction_coverage": Metric(
        "Prediction coverage",
        None,
        "Share of rows that the model predicts itself; the item mean predicts the others.",
        is_drawn=False,
    ),
    "catalog_coverage": Metric(
        "Catalogue coverage", None, "Share of all items that are in at least one list.", is_drawn=False
    ),
}
# Metrics of the top k of a list are named <key>_<k>.
METRICS_AT_K: Mapping[str, Metric] = {
    "ndcg": Metric(
        "NDCG at {k}",
        "higher",
        "Quality of the first {k} places, where earlier places weigh more; 1 is the best possible list.",
        4,
    ),
    "recall": Metric(
        "Recall at {k}", "higher", "Share of the items liked later that are among the first {k}.", 4, False
    ),
    "precision": Metric("Precision at {k}", "higher", "Share of the first {k} that are liked later.", 4, False),
    "map": Metric("MAP at {k}", "higher", "Mean average precision of the first {k}.", 4, False),
    "mrr": Metric("MRR at {k}", "higher", "Mean of 1 / place of the first item that is liked later.", 4, False),
    "hit_rate": Metric(
        "Hit rate at {k}", "higher", "Share of users with an item liked later among the first {k}.", 4, False
    ),
    "next_item_hit": Metric(
        "Next item hit at {k}",
        "higher",
        "Share of users whose next item is among the first {k} of their unrated items.",
        4,
    ),
    "novelty": Metric(
        "Novelty at {k}", None, "Mean -log2 of the share of training users who rated the first {k}, in bits.", 2, False
    ),
    "popularity": Metric("Popularity at {k}", None, "Mean share of training users who rated the first {k}.", 3, False),
    "popularity_bias": Metric(
        "Popularity bias at {k}",
        None,
        "Popularity of the first {k} minus the popularity of the items that the user likes later.",
        3,
        False,
    ),
    "genre_diversity": Metric(
        "Diversity by genre at {k}",
        None,
        "Mean Jaccard distance between the genres of two items of the first {k}.",
        3,
        False,
    ),
}
# Metrics derived from another metric are named <metric><key>.
DERIVED: Mapping[str, Metric] = {
    "_gain": Metric(
        "{label}: gain",
        "higher",
        "Share of the way from random to the best possible: (model - random) / (upper bound - random).",
        is_drawn=False,
    ),
    "_gap": Metric("{label}: gap", None, "Score of the group minus the score of all other users.", 3, False),
}


# Improvements over another model are named <metric><key><model>.
_OVER = "_over_"
_IMPROVEMENT_MEANING = "Paired: both models are scored on the same users. Positive is better, also for errors."


def notices(scores: pl.DataFrame, kind: DataKind) -> list[str]:
    """What a reader of the scores must know first: that they rest on samples, or on ratings without times."""
    return [*filter(None, [sample_notice(scores), scale_notice(scores), kind.notice])]


def sample_notice(scores: pl.DataFrame) -> str:
    """A notice that the scores rest on a sample of the users; empty if they rest on all users."""
    if SAMPLE_SHARE not in scores.columns or scores.is_empty():
        return ""
    return (
        f"A sample for development: {100 * scores[SAMPLE_SHARE][0]:.3g} % of the users ([data.sample]). "
        "The scores of all users differ."
    )


def scale_notice(scores: pl.DataFrame) -> str:
    """A notice of the samples of large data; empty if models were fitted on all ratings and scored on all users."""
    fitted, scored = (
        float(scores[share][0]) if share in scores.columns and len(scores) else 1.0
        for share in (FITTED_SHARE, SCORED_SHARE)
    )
    if min(fitted, scored) == 1:
        return ""
    return (
        f"Models are fitted on {100 * fitted:.3g} % of the training ratings and scored on {100 * scored:.3g} % of the "
        "users ([scale]). Lists are made for all users."
    )


def ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The distinct names: known names in their order, then the others by name, the upper bound last."""
    order = {name: position for position, name in enumerate(known)}
    return sorted(set(names), key=lambda name: (name == UPPER_BOUND, order.get(name, len(order)), name))


def model(name: str) -> str:
    """Label of a model."""
    return MODELS.get(name, _plain(name))


def meaning(name: str) -> str:
    """What a model does, in one sentence; empty for models that are neither served nor selected by default."""
    return _MEANINGS.get(name, "")


def population(name: str) -> str:
    """Label of a population."""
    return POPULATIONS.get(name, _plain(name))


def metric(name: str) -> Metric:
    """The metric with this name; for an unknown metric, only the name is known."""
    if _OVER in name:
        of, _, other = name.partition(_OVER)
        improved = metric(of)
        label, meaning = f"{improved.label}: improvement over {model(other)}", _IMPROVEMENT_MEANING
        return replace(improved, label=label, better="higher", meaning=meaning, is_drawn=False)
    for ending, derived in DERIVED.items():
        if name.endswith(ending):
            return replace(derived, label=derived.label.format(label=metric(name.removesuffix(ending)).label))
    base, _, k = name.rpartition("_")
    at_k = METRICS_AT_K.get(base)
    if at_k and k.isdigit():
        return replace(at_k, label=at_k.label.format(k=k), meaning=at_k.meaning.format(k=k))
    return METRICS.get(name, Metric(_plain(name)))


def is_derived(name: str) -> bool:
    """Whether a metric is computed from another metric: a gain, a gap, or an improvement over another model."""
    return _OVER in name or name.endswith(tuple(DERIVED))


def improvement(metric: str, other: str) -> str:
    """Name of the metric that holds the paired improvement over another model."""
    return f"{metric}{_OVER}{other}"


def over_seeds(score: Mapping[str, Any]) -> str:
    """Standard deviation over seeds of a row of `study_scores`; empty if there is only one seed."""
    # Scores of a study by an earlier version do not have these columns.
    return f"{score['seed_sd']:.4f}" if (score.get("seeds") or 1) > 1 else ""


def metrics_in_order(names: Iterable[str]) -> list[str]:
    """The distinct metrics, known metrics first in their order."""
    order = {name: place for place, name in enumerate((*METRICS, *METRICS_AT_K))}

    def place(name: str) -> tuple[int, str, int]:
        base, _, k = name.rpartition("_")
        at_k = base in METRICS_AT_K and k.isdigit()
        return (order.get(base if at_k else name, len(order)), base if at_k else name, int(k) if at_k else 0)

    return sorted(set(names), key=place)


_OF_EVENTS: Mapping[str, Protocol] = {
    "latest_rating": Protocol(
        "Each user's next item",
        "Users are split into train and test users. Each user's newest item, by its first event, is ranked among the "
        "items that the user has no earlier event with; models learn from the train users' earlier events only.",
        ("next_item_hit_10",),
    )
}


def protocol(name: str, kind: DataKind = RATINGS_WITH_TIMES) -> Protocol:
    """The protocol with this name, as it is for a kind of data; for an unknown protocol, only the name is known."""
    if not kind.times and name in _WITHOUT_TIMES:
        return _WITHOUT_TIMES[name]
    if kind.is_events and name in _OF_EVENTS:
        return _OF_EVENTS[name]
    return PROTOCOL_LABELS.get(name, Protocol(_plain(name)))


def role(name: str) -> Literal["bound", "baseline", "selected", "model"]:
    """Role of a model in the report."""
    if name in BOUNDS:
        return "bound"
    if name in BASELINES:
        return "baseline"
    return "selected" if name == SELECTED else "model"


def _plain(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]
