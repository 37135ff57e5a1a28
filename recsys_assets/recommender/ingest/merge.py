"""Batches become one catalogue: dense ids for users and movies, and the latest rating per (user, movie).

Everything here is relational and runs on both engines. How a batch is read is the business of `sources`.
"""

from collections.abc import Sequence

import narwhals as nw

from recsys_assets.recommender.data.frames import distinct, last_rows, numbered
from recsys_assets.recommender.data.tables import ID, RATINGS

# How an id is written that is a whole number in the ratings: "07" is another id than 7.
_WHOLE = r"^(0|[1-9]\d{0,17})$"
# Floats above are whole numbers of which not every digit counts, and in the end too large for an integer.
_LARGEST_EXACT = 2**53

Batches = Sequence[nw.LazyFrame]


def index_users(raw_users: Batches, raw_ratings: Batches) -> nw.LazyFrame:
    """Every user of any batch, numbered by first batch, then id: the table `users`.

    Args:
        raw_users: one frame (user_id, attributes) per batch, in order of arrival.
        raw_ratings: one frame (user_id, …) per batch, in the same order.

    The newest batch that describes a user gives all its attributes. Users who only rated have null attributes.
    """
    return _numbered("user", raw_users, raw_ratings)


def index_movies(raw_movies: Batches, raw_ratings: Batches) -> nw.LazyFrame:
    """Every movie of any batch, rated or not, numbered by first batch, then id: the table `movies`.

    Args:
        raw_movies: one frame (movie_id, title, year, genres) per batch, in order of arrival.
        raw_ratings: one frame (movie_id, …) per batch, in the same order.
    """
    return _numbered("movie", raw_movies, raw_ratings)


def merge_ratings(raw_ratings: Batches, users: nw.LazyFrame, movies: nw.LazyFrame) -> nw.LazyFrame:
    """The latest rating per (user, movie): by timestamp, then batch, then row. The table `ratings`.

    Args:
        raw_ratings: one frame (user_id, movie_id, rating, timestamp, row) per batch, in order of arrival; ids as text
            or as whole numbers.
        users: user, user_id.
        movies: movie, movie_id.
    """
    rated = _stacked(raw_ratings)
    of_known_users = numbered(rated, _as_rated(users.select("user", "user_id"), rated))
    indexed = numbered(of_known_users, _as_rated(movies.select("movie", "movie_id"), rated))
    return last_rows(indexed.select(*RATINGS.columns), RATINGS.key, order_by=["timestamp", "batch", "row"])


def _stacked(frames: Batches) -> nw.LazyFrame:
    """All batches below each other with their sequence number as `batch`; a column missing in one is null there."""
    types: dict[str, nw.dtypes.DType] = {}
    for frame in frames:
        for name, dtype in frame.collect_schema().items():
            known = types.setdefault(name, dtype)
            # One batch gives numbers, another text under the same name: text holds both.
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
    """The value in another type; whole floats become texts without decimals, as people write them."""
    if not (dtype.is_float() and wanted == nw.String()):
        return value.cast(wanted)
    whole = nw.when(value.abs() <= _LARGEST_EXACT).then(value).cast(nw.Int64())
    return nw.when(whole.cast(nw.Float64()) == value).then(whole.cast(wanted)).otherwise(value.cast(wanted))


def _as_rated(index: nw.LazyFrame, rated: nw.LazyFrame) -> nw.LazyFrame:
    """The index (number, id) with ids of the type that the ratings have; null where an id is no such number."""
    number, key = index.collect_schema().names()
    dtype = rated.collect_schema()[key]
    if dtype == ID:
        return index
    return index.select(number, nw.when(nw.col(key).str.contains(_WHOLE)).then(nw.col(key)).cast(dtype))


def _numbered(name: str, described: Batches, rated: Batches) -> nw.LazyFrame:
    key = f"{name}_id"
    facts = _stacked(described)
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
