"""Declares every table: columns, types, meaning, key.

The IO manager casts to the declaration, the UI shows it, and the asset checks enforce it. Each stage's own module
computes its tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import narwhals as nw

ID = nw.String()
# Incoming ratings may have integer ids from 0 to below this limit. Integers cost a third of what strings do.
WHOLE_ID = nw.Int64()
WHOLE_IDS_BELOW = 10**18
INDEX = nw.Int32()
COUNT = nw.Int32()
REAL = nw.Float64()
RATING = nw.Float32()
TIME = nw.Datetime("us", "UTC")
# Extra column of scores that were computed on a development sample: the share of the users in the sample.
SAMPLE_SHARE = "sample_share"
# Extra columns of scores of large data: the share of the training ratings that models were fitted on, and the share of
# the users that models were scored on.
FITTED_SHARE, SCORED_SHARE = "fitted_share", "scored_share"
# Extra columns of `ratings` and its splits if they are sums of events: number of events, and time of the first one.
N_EVENTS, FIRST_TIME = "n_events", "first_timestamp"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        dtype: Narwhals type.
        or_dtype: second type that is accepted as it is.
        meaning: what the values mean, with their unit.
        nullable: whether null may occur.
        low: lowest valid value; None for no limit.
        high: highest valid value; None for no limit.
        refers_to: table whose dense index the column holds, 0 to number of its rows - 1.
    """

    dtype: nw.dtypes.DType
    meaning: str
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    refers_to: str | None = None
    or_dtype: nw.dtypes.DType | None = None

    @property
    def dtypes(self) -> tuple[nw.dtypes.DType, ...]:
        """Types that a stored column may have; other types are cast to the first one."""
        return (self.dtype,) if self.or_dtype is None else (self.dtype, self.or_dtype)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        columns: declared columns by name.
        key: columns that identify a row.
        open_ended: whether further, data-dependent columns follow the declared ones, such as user attributes.
        in_source_order: whether rows are stored as they are read. Sorting rows that are already in order only costs
            memory.
        volatile: columns that say where a row came from. A table counts as unchanged if only these change.
    """

    columns: Mapping[str, Column]
    key: tuple[str, ...]
    open_ended: bool = False
    in_source_order: bool = False
    volatile: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """Columns that a stored table is sorted by, so that equal content gives equal files; empty for source order."""
        return () if self.in_source_order else self.key


_USER = Column(INDEX, "dense index of the user, 0 to number of users - 1", refers_to="users")
_ITEM = Column(INDEX, "dense index of the item, 0 to number of items - 1", refers_to="items")
_USER_ID = Column(ID, "the user's id in the source")
_ITEM_ID = Column(ID, "the item's id in the source")
_RAW_USER_ID = Column(ID, "the user's id in the source; whole numbers as such", or_dtype=WHOLE_ID)
_RAW_ITEM_ID = Column(ID, "the item's id in the source; whole numbers as such", or_dtype=WHOLE_ID)
_RATING = Column(RATING, "the rating on the source's scale; of events, the damped sum of their weights")
_TIMESTAMP = Column(TIME, "when the rating was given, UTC")
_ROW = Column(nw.Int64(), "position of the rating in its source, from 0", low=0)
_TITLE = Column(nw.String(), "title")
_SEGMENT = Column(COUNT, "number of the LDA segment, from 0", low=0)
_CLUSTER = Column(COUNT, "number of the K-means cluster, from 0", low=0)

_ITEM_FACTS = {
    "title": Column(nw.String(), "title without its year", nullable=True),
    "year": Column(COUNT, "year of release", nullable=True),
    "genres": Column(nw.List(nw.String()), "genres", nullable=True),
}
_RATINGS = {
    "user": _USER,
    "item": _ITEM,
    "rating": _RATING,
    "timestamp": _TIMESTAMP,
    "batch": Column(COUNT, "position of the batch in the order of arrival, from 0", low=0),
    "row": _ROW,
}
_SCORES = {
    "protocol": Column(nw.String(), "how train and test were cut"),
    "model": Column(nw.String(), "what predicted"),
    "population": Column(nw.String(), "whose rows are scored"),
    "metric": Column(nw.String(), "what is measured"),
    "value": Column(REAL, "the score"),
    "n": Column(nw.Int64(), "rows the score rests on", low=0),
    "low": Column(REAL, "lower end of the 95 % interval, bootstrap over users"),
    "high": Column(REAL, "upper end of that interval"),
}
_IMPROVEMENT_INTERVAL = {
    name: Column(REAL, f"{end} end of its 95 % interval, paired bootstrap over users", nullable=True)
    for name, end in (("low", "lower"), ("high", "upper"))
}

RATINGS = Table(_RATINGS, key=("user", "item"), open_ended=True, volatile=("batch", "row"))
RATING_PREDICTIONS = Table(
    {
        "user": _USER,
        "item": _ITEM,
        "prediction": Column(RATING, "predicted rating; null: none of its own", True),
    },
    key=("user", "item"),
)
RANKING_PREDICTIONS = Table(
    {
        "user": _USER,
        "item": _ITEM,
        "rank": Column(
            COUNT, "place of this item, from 1, among the items the user has not rated in training", True, low=1
        ),
    },
    key=("user", "item"),
)

# Predictions by task: ratings of the test rows, ranks of the test items, ratings of the responses, their ranks.
PREDICTIONS: Mapping[str, Table] = {
    "time_cut": RATING_PREDICTIONS,
    "top_n": RANKING_PREDICTIONS,
    "latest_rating": RATING_PREDICTIONS,
    "next_item": RANKING_PREDICTIONS,
}

TABLES: Mapping[str, Table] = {
    "raw_ratings": Table(
        {
            "user_id": _RAW_USER_ID,
            "item_id": _RAW_ITEM_ID,
            "rating": _RATING,
            "timestamp": _TIMESTAMP,
            "row": _ROW,
        },
        key=("row",),
        in_source_order=True,
    ),
    "raw_users": Table({"user_id": _USER_ID}, key=("user_id",), open_ended=True, in_source_order=True),
    "raw_items": Table({"item_id": _ITEM_ID, **_ITEM_FACTS}, key=("item_id",), open_ended=True, in_source_order=True),
    "rejected_rows": Table(
        {
            "file": Column(nw.String(), "file inside the batch"),
            "line": Column(nw.Int64(), "line in that file, from 1", low=1),
            "reason": Column(nw.String(), "the rule that the line breaks"),
            "text": Column(nw.String(), "the line as it stands in the file"),
        },
        key=("file", "line"),
        in_source_order=True,
    ),
    "users": Table({"user": _USER, "user_id": _USER_ID}, key=("user",), open_ended=True),
    "items": Table({"item": _ITEM, "item_id": _ITEM_ID, **_ITEM_FACTS}, key=("item",), open_ended=True),
    "ratings": RATINGS,
    "train_ratings": RATINGS,
    "test_ratings": RATINGS,
    "user_partition": Table(
        {"user": _USER, "partition": Column(nw.String(), "train or test")},
        key=("user",),
    ),
    "train_histories": RATINGS,
    "train_responses": RATINGS,
    "test_histories": RATINGS,
    "test_responses": RATINGS,
    "user_features": Table({"user": _USER}, key=("user",), open_ended=True),
    "cluster_sweep": Table(
        {
            "k": Column(COUNT, "number of clusters", low=1),
            "sse": Column(REAL, "sum of squared distances to the cluster centres", low=0),
            "silhouette": Column(REAL, "mean silhouette, -1 to 1; none for one cluster", nullable=True, low=-1, high=1),
        },
        key=("k",),
    ),
    "user_clusters": Table({"user": _USER, "cluster": _CLUSTER}, key=("user",)),
    "cluster_ratings": Table(
        {"cluster": _CLUSTER, "item": _ITEM, "rating": Column(RATING, "rating predicted for the cluster")},
        key=("cluster", "item"),
    ),
    "adjusted_train_ratings": Table(
        {
            "user": _USER,
            "item": _ITEM,
            "rating": _RATING,
            "is_fill": Column(nw.Boolean(), "drawn from the cluster's predictions, not given by the user"),
        },
        key=("user", "item"),
    ),
    "segment_items": Table(
        {
            "segment": _SEGMENT,
            "rank": Column(COUNT, "place by probability among all items of the segment, from 1", low=1),
            "item": _ITEM,
            "title": _TITLE,
            "probability": Column(REAL, "probability of the item in the segment", low=0, high=1),
            "lift_rank": Column(COUNT, "place by lift among all items of the segment, from 1", low=1),
            "lift": Column(
                REAL, "probability in the segment over that in all ratings, shrunk towards 1 for rare items", low=0
            ),
        },
        key=("segment", "rank"),
    ),
    "user_segments": Table(
        {
            "user": _USER,
            "affinity": Column(nw.List(nw.Float32()), "share of each segment, summing to 1"),
            "segment": Column(COUNT, "segment of highest affinity", low=0),
            "partition": Column(nw.String(), "train or test"),
        },
        key=("user",),
    ),
    "segment_ratings": Table(
        {
            "segment": _SEGMENT,
            "item": _ITEM,
            "count": Column(COUNT, "ratings of the item by the segment's train users", low=1),
            "mean": Column(REAL, "their mean rating"),
        },
        key=("segment", "item"),
    ),
    "segment_shares": Table(
        {
            "segment": Column(COUNT, "number of the LDA segment, from 0; null: there before, not now", True, low=0),
            "share": Column(REAL, "mean affinity of the users with a history", True, low=0, high=1),
            "name": Column(nw.String(), "titles of its first items by probability", True),
            "previous_segment": Column(COUNT, "its partner in the fit before; null: none", True, low=0),
            "previous_share": Column(REAL, "the share of that partner then", True, low=0, high=1),
            "previous_name": Column(nw.String(), "titles of the first items of that partner", True),
            "similarity": Column(
                REAL,
                "Bhattacharyya coefficient of the two distributions over the items that both fits know; 1: the same",
                True,
                low=0,
                high=1,
            ),
        },
        key=("segment", "previous_segment"),
        in_source_order=True,
    ),
    "evaluation_scores": Table(_SCORES, key=("protocol", "model", "population", "metric"), open_ended=True),
    "user_scores": Table(
        {
            "protocol": _SCORES["protocol"],
            "model": _SCORES["model"],
            "metric": _SCORES["metric"],
            "user": _USER,
            "value": Column(REAL, "the metric on this user's rows alone"),
            "n": Column(nw.Int64(), "this user's rows that it rests on", low=0),
        },
        key=("protocol", "model", "metric", "user"),
    ),
    "paired_tests": Table(
        {
            **{name: _SCORES[name] for name in ("protocol", "model")},
            "baseline": Column(nw.String(), "the model that it is compared with on the same rows"),
            **{name: _SCORES[name] for name in ("population", "metric")},
            "improvement": Column(REAL, "by how much the model is better than the baseline; below 0: worse"),
            "low": Column(REAL, "lower end of the 95 % interval, paired bootstrap over users"),
            "high": Column(REAL, "upper end of that interval"),
            "p": Column(REAL, "p-value of the paired randomization test over users, two-sided", low=0, high=1),
            "p_holm": Column(REAL, "the same, corrected by Holm for all tests of this metric", low=0, high=1),
            "n_users": Column(nw.Int64(), "users the test rests on", low=0),
        },
        key=("protocol", "model", "baseline", "population", "metric"),
    ),
    "leakage_audit": Table(
        {
            **{name: _SCORES[name] for name in ("protocol", "model", "population", "metric")},
            "value": Column(REAL, "the score under this split"),
            "honest": Column(REAL, "the score under the cut in time: that of `time_cut` or, for rankings, `top_n`"),
            "optimism": Column(REAL, "by how much this split makes the model look better; below 0: worse"),
            "low": Column(REAL, "lower end of the 95 % interval of the optimism, bootstrap over the users of each"),
            "high": Column(REAL, "upper end of that interval"),
        },
        key=("protocol", "model", "population", "metric"),
    ),
    "segment_sweep": Table(
        {
            "n_segments": Column(COUNT, "number of segments", low=2),
            "model": Column(nw.String(), "what is made from them"),
            "metric": Column(nw.String(), "r2, next_item_hit_10, or perplexity: of half of each user's items"),
            "value": Column(REAL, "the metric on train users of case study B who were kept aside"),
            "low": Column(REAL, "lower end of the 95 % interval, bootstrap over users; none for perplexity", True),
            "high": Column(REAL, "upper end of that interval", True),
        },
        key=("n_segments", "model", "metric"),
    ),
    "published_folds": Table(
        {
            "fold": Column(nw.String(), "name of the published split, such as u1"),
            "user": _USER,
            "item": _ITEM,
            "partition": Column(nw.String(), "train or test"),
        },
        key=("fold", "user", "item"),
    ),
    "study_trials": Table(
        {
            "slice": Column(nw.String(), "the protocol on whose training rows the validation slice was cut"),
            "search": Column(nw.String(), "what was searched"),
            "trial": Column(nw.String(), "hash of all that the trial's score depends on"),
            "model": Column(nw.String(), "what predicted"),
            "candidate": Column(nw.String(), "the settings that were tried, as JSON"),
            "metric": Column(nw.String(), "by what is chosen"),
            "population": Column(nw.String(), "on whose validation rows"),
            "value": Column(REAL, "the score; null where there is none", nullable=True),
            "improvement": Column(REAL, "over the built-in settings; null for these, and without score", nullable=True),
            **_IMPROVEMENT_INTERVAL,
            "is_default": Column(nw.Boolean(), "whether these are the built-in settings"),
            "is_chosen": Column(nw.Boolean(), "whether it is what the search chose"),
            "seconds": Column(REAL, "what it took, in seconds", low=0),
            "refusal": Column(nw.String(), "why nothing could be fitted so", nullable=True),
        },
        key=("slice", "search", "trial"),
    ),
    "studied_settings": Table(
        {
            "knob": Column(nw.String(), "the setting: section and name"),
            "chosen": Column(nw.String(), "the value that validation chose, as JSON"),
            "default": Column(nw.String(), "the built-in value, as JSON"),
            "slice": Column(nw.String(), "the protocol on whose training rows it was chosen"),
            "search": Column(nw.String(), "the search that decided"),
            "metric": Column(nw.String(), "by what"),
            "population": Column(nw.String(), "on whose validation rows"),
            "value": Column(REAL, "the score of what was chosen"),
            "value_of_default": Column(REAL, "the score of the built-in value; null where it has none", nullable=True),
            "improvement": Column(REAL, "of the best other candidate over the built-in settings", nullable=True),
            **_IMPROVEMENT_INTERVAL,
            "trials": Column(COUNT, "candidates that were compared", low=1),
        },
        key=("knob",),
    ),
    "study_scores": Table(
        {
            **_SCORES,
            "seeds": Column(COUNT, "number of seeds that value and interval are the mean over", low=1),
            "seed_sd": Column(REAL, "standard deviation of the value over seeds; 0 where none matters", low=0),
        },
        key=("protocol", "model", "population", "metric"),
        open_ended=True,
    ),
    "backtest_scores": Table(
        {"cut_off": Column(REAL, "share of the ratings, in time, that trained", low=0, high=1), **_SCORES},
        key=("cut_off", "protocol", "model", "population", "metric"),
        open_ended=True,
    ),
    "recommendations": Table(
        {
            "user_id": _USER_ID,
            "rank": Column(COUNT, "place, from 1", low=1),
            "item_id": _ITEM_ID,
            "title": Column(nw.String(), "title", nullable=True),
            "score": Column(
                REAL,
                "the model's score: comparable within a user only; null where it knows nothing of the item",
                nullable=True,
            ),
            "because": Column(
                nw.List(nw.String()),
                "titles of up to 3 of the user's own ratings, those that carried the score most; empty where none "
                "does, as for new users: they are shown what people with the same attributes, or of the same cluster, "
                "like",
            ),
        },
        key=("user_id", "rank"),
    ),
    "similar_items": Table(
        {
            "item_id": _ITEM_ID,
            "rank": Column(COUNT, "place, from 1", low=1),
            "similar_item_id": Column(ID, "id of the similar item in the source"),
            "title": Column(nw.String(), "title of the similar item", nullable=True),
            "score": Column(REAL, "similarity: comparable within an item and a value of `by` only", low=0),
            "by": Column(nw.String(), "`ratings`: by the served model; `attributes`: by what is known of the items"),
        },
        key=("item_id", "rank"),
    ),
}

# Tables of relational stages: equal on both engines, row for row. Tables that depend on a model are not listed, because
# only their scores agree.
RELATIONAL = (
    "users",
    "items",
    "ratings",
    "train_ratings",
    "test_ratings",
    "user_partition",
    "train_histories",
    "train_responses",
    "test_histories",
    "test_responses",
    "segment_ratings",
)
