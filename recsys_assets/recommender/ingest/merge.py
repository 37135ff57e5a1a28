"""Merges batches into one catalogue: dense ids for users and items, the latest rating per (user, item).

All operations are relational and run on both engines. Reading a batch belongs in `sources`.
"""

from collections.abc import Sequence
from typing import Literal

import narwhals as nw

from recsys_assets.recommender.data.frames import distinct, gathered, last_rows, numbered
from recsys_assets.recommender.data.tables import COUNT, FIRST_TIME, ID, KNOWN, N_EVENTS, RATING, RATINGS

# Text form of an integer id: "07" is a different id than 7.
_WHOLE = r"^(0|[1-9]\d{0,17})$"
# Larger floats do not represent every integer exactly, and the largest ones overflow an integer.
_LARGEST_EXACT = 2**53
_MILLION = 1_000_000
# Batch and row of an event in one integer order the events of a time. No batch has so many rows.
_MOST_ROWS = 2**40

Batches = Sequence[nw.LazyFrame]
Damping = Literal["log1p", "none"]


def index_users(raw_users: Batches, raw_ratings: Batches) -> nw.LazyFrame:
    """All users of all batches, numbered by first batch, then id: the table `users`.

    All attributes of a user come from the newest batch that describes the user. Users who only occur in ratings have
    null attributes.

    Args:
        raw_users: one frame (user_id, attributes) per batch, in order of arrival.
        raw_ratings: one frame (user_id, …) per batch, in the same order.
    """
    return _numbered("user", raw_users, raw_ratings)


def index_items(raw_items: Batches, raw_ratings: Batches) -> nw.LazyFrame:
    """All items of all batches, rated or not, numbered by first batch, then id: the table `items`.

    Each attribute comes from the newest batch that gives it, so that a file of items may hold only what has changed.

    Args:
        raw_items: one frame (item_id, title, year, genres, attributes) per batch, in order of arrival.
        raw_ratings: one frame (item_id, …) per batch, in the same order.
    """
    return _numbered("item", raw_items, raw_ratings, keeps_older=True)


def merge_ratings(raw_ratings: Batches, users: nw.LazyFrame, items: nw.LazyFrame) -> nw.LazyFrame:
    """The latest rating per (user, item), by timestamp, then batch, then row: the table `ratings`.

    Args:
        raw_ratings: one frame (user_id, item_id, rating, timestamp, row) per batch, in order of arrival; ids are text
            or integers.
        users: columns user, user_id.
        items: columns item, item_id.
    """
    indexed = _indexed(raw_ratings, users, items)
    return last_rows(indexed.select(*RATINGS.columns), RATINGS.key, order_by=["timestamp", "batch", "row"])


def _indexed(raw_ratings: Batches, users: nw.LazyFrame, items: nw.LazyFrame) -> nw.LazyFrame:
    """The rows of all batches with dense ids, without the rows of unknown users and items."""
    rated = _stacked(raw_ratings)
    of_known_users = numbered(rated, _as_rated(users.select("user", "user_id"), rated))
    return numbered(of_known_users, _as_rated(items.select("item", "item_id"), rated))


def add_up_events(raw_ratings: Batches, users: nw.LazyFrame, items: nw.LazyFrame, *, damping: Damping) -> nw.LazyFrame:
    """The sum of the weights of events per (user, item): the table `ratings` of a home of events.

    The sums are exact, so they do not depend on the order of the rows. `timestamp` is the time of the last event, batch
    and row are those of the first one. Columns n_events and first_timestamp follow, then the running sums `KNOWN`.

    Args:
        raw_ratings: one frame (user_id, item_id, rating, timestamp, row) per batch, in order of arrival; `rating` is
            the weight of an event.
        users: columns user, user_id.
        items: columns item, item_id.
        damping: `log1p` replaces a sum s by sign(s) log(1 + |s|), so that 350,000 plays weigh 18 times as much as one.
    """
    key, time = RATINGS.key, nw.col("timestamp")
    at_once = (
        _indexed(raw_ratings, users, items)
        .with_columns(
            millionths=(nw.col("rating").cast(nw.Float64()) * _MILLION).round().cast(nw.Int64()),
            place=nw.col("batch").cast(nw.Int64()) * _MOST_ROWS + nw.col("row"),
        )
        .group_by(*key, "timestamp")
        .agg(nw.col("millionths").sum(), nw.col("place").min(), n=nw.len().cast(nw.Int64()))
        .with_columns(first=time.min().over(*key), last=time.max().over(*key))
    )
    summed = (
        at_once.with_columns(place=nw.when(time == nw.col("first")).then(nw.col("place")))
        .group_by(*key)
        .agg(nw.col("millionths").sum(), nw.col("place").min(), nw.col("n").sum(), nw.col("first", "last").min())
        .with_columns(row=nw.col("place") % _MOST_ROWS)
    )
    rows = summed.select(
        *key,
        _damped("millionths", damping).alias("rating"),
        nw.col("last").alias("timestamp"),
        # Narwhals divides integers as floats on Spark, which is exact for a multiple of a power of two.
        ((nw.col("place") - nw.col("row")) / _MOST_ROWS).cast(nw.Int32()).alias("batch"),
        "row",
        nw.col("n").cast(COUNT).alias(N_EVENTS),
        nw.col("first").alias(FIRST_TIME),
    )
    return rows.join(_running_sums(at_once, damping), on=list(key), how="left")


def _running_sums(at_once: nw.LazyFrame, damping: Damping) -> nw.LazyFrame:
    """Columns `KNOWN` per (user, item) with events at several times.

    Args:
        at_once: user, item, timestamp, millionths, n; first, last: the first and the last time of the user and item.
        damping: as for `add_up_events`.
    """
    up_to_now = nw.col("millionths", "n").cum_sum().over(*RATINGS.key, order_by="timestamp")
    repeated = at_once.filter(nw.col("first") < nw.col("last")).with_columns(up_to_now)
    sums = {"rating": _damped("millionths", damping), N_EVENTS: nw.col("n").cast(COUNT)}
    return gathered(repeated.with_columns(**sums), RATINGS.key, dict(KNOWN))


def _damped(millionths: str, damping: Damping) -> nw.Expr:
    """The damped weight of a sum in millionths."""
    weight = nw.col(millionths).cast(nw.Float64()) / _MILLION
    damped = nw.when(weight < 0).then(-(1.0 - weight).log()).otherwise((1.0 + weight.abs()).log())
    return (damped if damping == "log1p" else weight).cast(RATING)


def _stacked(frames: Batches) -> nw.LazyFrame:
    """All batches concatenated, with their sequence number as `batch`; missing columns are null."""
    types: dict[str, nw.dtypes.DType] = {}
    for frame in frames:
        for name, dtype in frame.collect_schema().items():
            known = types.setdefault(name, dtype)
            # A column can be numeric in one batch and text in another; text holds both.
            types[name] = known if known == dtype else nw.String()

    def completed(frame: nw.LazyFrame, batch: int) -> nw.LazyFrame:
        present = frame.collect_schema()
        columns = [
            (_as(nw.col(name), present[name], dtype) if name in present else nw.lit(None).cast(dtype)).alias(name)
            for name, dtype in types.items()
        ]
        return frame.select(*columns, batch=nw.lit(batch).cast(nw.Int32()))

    return nw.concat([completed(frame, batch) for batch, frame in enumerate(frames)])


def _as(value: nw.Expr, dtype: nw.dtypes.DType, wanted: nw.dtypes.DType) -> nw.Expr:
    """The value cast to another type; whole floats become text without decimals."""
    if not (dtype.is_float() and wanted == nw.String()):
        return value.cast(wanted)
    whole = nw.when(value.abs() <= _LARGEST_EXACT).then(value).cast(nw.Int64())
    return nw.when(whole.cast(nw.Float64()) == value).then(whole.cast(wanted)).otherwise(value.cast(wanted))


def _as_rated(index: nw.LazyFrame, rated: nw.LazyFrame) -> nw.LazyFrame:
    """The id map with ids cast to the id type of the ratings; null if an id is not a number."""
    number, key = index.collect_schema().names()
    dtype = rated.collect_schema()[key]
    if dtype == ID:
        return index
    return index.select(number, nw.when(nw.col(key).str.contains(_WHOLE)).then(nw.col(key)).cast(dtype))


def _numbered(name: str, described: Batches, rated: Batches, *, keeps_older: bool = False) -> nw.LazyFrame:
    """The table of users or items.

    Args:
        name: `user` or `item`.
        described: one frame (id, attributes) per batch.
        rated: one frame with the id per batch.
        keeps_older: whether a null attribute takes the value of the batch before.
    """
    key = f"{name}_id"
    facts = _stacked(described)
    if keeps_older and len(described) > 1:
        own = [column for column in facts.collect_schema().names() if column not in (key, "batch")]
        facts = facts.with_columns(nw.col(*own).fill_null(strategy="forward").over(key, order_by="batch"))
    rated_ids = [distinct(frame, key).select(nw.col(key).cast(ID)) for frame in rated]
    seen = nw.concat([facts.select(key, "batch"), _stacked(rated_ids)])
    newest = last_rows(facts, [key], order_by=["batch"]).drop("batch")
    return (
        seen.group_by(key)
        .agg(nw.col("batch").min())
        .with_row_index(name, order_by=["batch", key])
        .join(newest, on=key, how="left")
        .select(nw.col(name).cast(nw.Int32()), key, *[c for c in newest.collect_schema().names() if c != key])
    )
