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
# And lists, null for events of a single time: the times, ascending, and what `rating` and `n_events` were from each of
# them on. Splits in time look up in them what was known at a cut.
KNOWN_FROM = "known_timestamps"
KNOWN = (("timestamp", KNOWN_FROM), ("rating", "known_ratings"), (N_EVENTS, "known_n_events"))


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
        """Columns that a stored table is sorted by, so that equal content gives equal files; empty for source order.

        Spark sorts within each of its files.
        """
        return () if self.in_source_order else self.key


_USER = Column(INDEX, "dense index of the user, 0 to number of users - 1", refers_to="users")
_ITEM = Column(INDEX, "dense index of the item, 0 to number of items - 1", refers_to="items")
_USER_ID = Column(ID, "id of the user in the source")
_ITEM_ID = Column(ID, "id of the item in the source")
_RAW_USER_ID = Column(ID, "id of the user in the source; an integer if every id is one", or_dtype=WHOLE_ID)
_RAW_ITEM_ID = Column(ID, "id of the item in the source; an integer if every id is one", or_dtype=WHOLE_ID)
_RATING = Column(RATING, "rating on the scale of the source; for events, the damped sum of their weights")
_TIMESTAMP = Column(TIME, "time of the rating, UTC")
_ROW = Column(nw.Int64(), "position of the rating in its source, from 0", low=0)
_TITLE = Column(nw.String(), "title of the item")
_SEGMENT = Column(COUNT, "number of the LDA segment, from 0", low=0)
_CLUSTER = Column(COUNT, "number of the K-means cluster, from 0", low=0)

_ITEM_FACTS = {
    "title": Column(nw.String(), "title without the year", nullable=True),
    "year": Column(COUNT, "year of release", nullable=True),
    "genres": Column(nw.List(nw.String()), "genres of the item", nullable=True),
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
    "protocol": Column(nw.String(), "protocol: how the ratings are split into training and test rows"),
    "model": Column(nw.String(), "model that is scored"),
    "population": Column(nw.String(), "users whose rows are scored, such as all or unseen"),
    "metric": Column(nw.String(), "name of the metric"),
    "value": Column(REAL, "score of the model"),
    "n": Column(nw.Int64(), "number of rows behind the score", low=0),
    "low": Column(REAL, "lower end of the 95 % interval, bootstrap over users"),
    "high": Column(REAL, "upper end of the 95 % interval, bootstrap over users"),
}
_IMPROVEMENT_INTERVAL = {
    name: Column(REAL, f"{end} end of the 95 % interval of the improvement, paired bootstrap over users", nullable=True)
    for name, end in (("low", "lower"), ("high", "upper"))
}

RATINGS = Table(_RATINGS, key=("user", "item"), open_ended=True, volatile=("batch", "row"))
RATING_PREDICTIONS = Table(
    {
        "user": _USER,
        "item": _ITEM,
        "prediction": Column(RATING, "predicted rating; null: the model has no prediction", True),
    },
    key=("user", "item"),
)
RANKING_PREDICTIONS = Table(
    {
        "user": _USER,
        "item": _ITEM,
        "rank": Column(
            COUNT, "rank of the item, from 1, among the items that the user has not rated in training", True, low=1
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
            "line": Column(nw.Int64(), "number of the line in the file, from 1", low=1),
            "reason": Column(nw.String(), "rule that the line breaks"),
            "text": Column(nw.String(), "text of the line"),
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
            "silhouette": Column(REAL, "mean silhouette, -1 to 1; null for one cluster", nullable=True, low=-1, high=1),
        },
        key=("k",),
    ),
    "user_clusters": Table({"user": _USER, "cluster": _CLUSTER}, key=("user",)),
    "cluster_ratings": Table(
        {"cluster": _CLUSTER, "item": _ITEM, "rating": Column(RATING, "predicted rating of the item by the cluster")},
        key=("cluster", "item"),
    ),
    "adjusted_train_ratings": Table(
        {
            "user": _USER,
            "item": _ITEM,
            "rating": _RATING,
            "is_fill": Column(nw.Boolean(), "whether the rating is drawn from the predictions of the cluster"),
        },
        key=("user", "item"),
    ),
    "segment_items": Table(
        {
            "segment": _SEGMENT,
            "rank": Column(COUNT, "rank by probability among all items of the segment, from 1", low=1),
            "item": _ITEM,
            "title": _TITLE,
            "probability": Column(REAL, "probability of the item in the segment", low=0, high=1),
            "lift_rank": Column(COUNT, "rank by lift among all items of the segment, from 1", low=1),
            "lift": Column(REAL, "P(item | segment) / P(item), shrunk towards 1 for rare items", low=0),
        },
        key=("segment", "rank"),
    ),
    "user_segments": Table(
        {
            "user": _USER,
            "affinity": Column(nw.List(nw.Float32()), "affinity of the user to each segment; sums to 1"),
            "segment": Column(COUNT, "segment of highest affinity", low=0),
            "partition": Column(nw.String(), "train or test"),
        },
        key=("user",),
    ),
    "segment_ratings": Table(
        {
            "segment": _SEGMENT,
            "item": _ITEM,
            "count": Column(COUNT, "number of ratings of the item by train users of the segment", low=1),
            "mean": Column(REAL, "mean rating of the item by train users of the segment"),
        },
        key=("segment", "item"),
    ),
    "segment_shares": Table(
        {
            "segment": Column(
                COUNT, "number of the LDA segment, from 0; null: a segment of the previous fit alone", True, low=0
            ),
            "share": Column(REAL, "mean affinity to the segment, of the users with a history", True, low=0, high=1),
            "name": Column(nw.String(), "titles of the first items of the segment by probability", True),
            "previous_segment": Column(COUNT, "matching segment of the previous fit; null: no match", True, low=0),
            "previous_share": Column(REAL, "share of the matching segment in the previous fit", True, low=0, high=1),
            "previous_name": Column(
                nw.String(), "titles of the first items of the matching segment by probability", True
            ),
            "similarity": Column(
                REAL,
                "Bhattacharyya coefficient of both item distributions, over the items that both fits know; 1: equal",
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
            "value": Column(REAL, "score on the rows of the user alone"),
            "n": Column(nw.Int64(), "number of rows of the user behind the score", low=0),
        },
        key=("protocol", "model", "metric", "user"),
    ),
    "paired_tests": Table(
        {
            **{name: _SCORES[name] for name in ("protocol", "model")},
            "baseline": Column(nw.String(), "model that the model is compared with on the same rows"),
            **{name: _SCORES[name] for name in ("population", "metric")},
            "improvement": Column(REAL, "improvement over the baseline; below 0: worse"),
            "low": Column(REAL, "lower end of the 95 % interval of the improvement, paired bootstrap over users"),
            "high": Column(REAL, "upper end of the 95 % interval of the improvement, paired bootstrap over users"),
            "p": Column(REAL, "p-value of the paired randomization test over users, two-sided", low=0, high=1),
            "p_holm": Column(REAL, "p-value after Holm's correction for all tests of the metric", low=0, high=1),
            "n_users": Column(nw.Int64(), "number of users in the test", low=0),
        },
        key=("protocol", "model", "baseline", "population", "metric"),
    ),
    "leakage_audit": Table(
        {
            **{name: _SCORES[name] for name in ("protocol", "model", "population", "metric")},
            "value": Column(REAL, "score under the protocol of the row"),
            "honest": Column(REAL, "score under the cut in time: `time_cut`, `top_n` or `latest_rating_time_cut`"),
            "optimism": Column(REAL, "improvement of the score over the cut in time, which is leakage; below 0: worse"),
            "low": Column(REAL, "lower end of the 95 % interval of the optimism, bootstrap over users"),
            "high": Column(REAL, "upper end of the 95 % interval of the optimism, bootstrap over users"),
        },
        key=("protocol", "model", "population", "metric"),
    ),
    "segment_sweep": Table(
        {
            "n_segments": Column(COUNT, "number of segments", low=2),
            "model": Column(nw.String(), "model that uses the segments"),
            "metric": Column(nw.String(), "r2, next_item_hit_10, or perplexity of half of the items of each user"),
            "value": Column(REAL, "score on held-out train users of case study B"),
            "low": Column(REAL, "lower end of the 95 % interval, bootstrap over users; null for perplexity", True),
            "high": Column(REAL, "upper end of the 95 % interval, bootstrap over users; null for perplexity", True),
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
            "validation_split": Column(
                nw.String(), "validation split: the protocol whose training rows are split once more"
            ),
            "search": Column(nw.String(), "name of the search"),
            "trial": Column(nw.String(), "hash of everything that the score of the trial depends on"),
            "model": Column(nw.String(), "model whose score decides"),
            "candidate": Column(nw.String(), "values of the settings in the trial, as JSON"),
            "metric": Column(nw.String(), "metric that decides"),
            "population": Column(nw.String(), "users whose validation rows decide"),
            "value": Column(REAL, "score of the trial; null: no score", nullable=True),
            "improvement": Column(
                REAL,
                "improvement over the built-in settings; null for the built-in settings and without a score",
                nullable=True,
            ),
            **_IMPROVEMENT_INTERVAL,
            "is_default": Column(nw.Boolean(), "whether the candidate is the built-in settings"),
            "is_chosen": Column(nw.Boolean(), "whether the search chose the candidate"),
            "seconds": Column(REAL, "duration of the trial, in seconds", low=0),
            "refusal": Column(
                nw.String(), "reason why the model cannot be fitted with these settings; null: it can", nullable=True
            ),
        },
        key=("validation_split", "search", "trial"),
    ),
    "tuned_settings": Table(
        {
            "setting": Column(nw.String(), "section and name of the setting"),
            "chosen": Column(nw.String(), "chosen value, as JSON"),
            "default": Column(nw.String(), "built-in value, as JSON"),
            "validation_split": Column(
                nw.String(), "validation split that decided: the protocol whose training rows are split once more"
            ),
            "search": Column(nw.String(), "name of the search that decided"),
            "metric": Column(nw.String(), "metric that decided"),
            "population": Column(nw.String(), "users whose validation rows decide"),
            "value": Column(REAL, "score of the chosen value"),
            "value_of_default": Column(REAL, "score of the built-in value; null: no score", nullable=True),
            "improvement": Column(
                REAL, "improvement of the best other candidate over the built-in settings", nullable=True
            ),
            **_IMPROVEMENT_INTERVAL,
            "trials": Column(COUNT, "number of candidates", low=1),
        },
        key=("setting",),
    ),
    "study_scores": Table(
        {
            **_SCORES,
            "seeds": Column(COUNT, "number of seeds; value and interval are means over the seeds", low=1),
            "seed_sd": Column(
                REAL, "standard deviation of the value over seeds; 0 if the model depends on no seed", low=0
            ),
        },
        key=("protocol", "model", "population", "metric"),
        open_ended=True,
    ),
    "backtest_scores": Table(
        {
            "cut_off": Column(REAL, "share of the ratings, in time, that models are trained on", low=0, high=1),
            **_SCORES,
        },
        key=("cut_off", "protocol", "model", "population", "metric"),
        open_ended=True,
    ),
    "recommendations": Table(
        {
            "user_id": _USER_ID,
            "rank": Column(COUNT, "place in the list, from 1", low=1),
            "item_id": _ITEM_ID,
            "title": Column(nw.String(), "title of the item", nullable=True),
            "score": Column(
                REAL,
                "score of the model, comparable within a user only; null: the model does not know the item",
                nullable=True,
            ),
            "because": Column(
                nw.List(nw.String()),
                "titles of up to 3 items that the user has rated, whose ratings add most to the score; empty if no "
                "rating adds to it, as for a new user, whose list is what people with the same attributes (with "
                "implicit ALS: of the same cluster) like",
            ),
        },
        key=("user_id", "rank"),
    ),
    "similar_items": Table(
        {
            "item_id": _ITEM_ID,
            "rank": Column(COUNT, "place in the list, from 1", low=1),
            "similar_item_id": Column(ID, "id of the similar item in the source"),
            "title": Column(nw.String(), "title of the similar item", nullable=True),
            "score": Column(REAL, "similarity, comparable within an item and a value of `by` only", low=0),
            "by": Column(
                nw.String(), "`ratings`: similar by the served model; `attributes`: similar by genres, decade and texts"
            ),
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
