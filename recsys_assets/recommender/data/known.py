"""Events as they were known at a moment, for splits in time.

A row of a home of events adds up all events of a user with an item, which may lie on both sides of a cut. The row
belongs to the side of its first event. In training it holds the sum up to the cut, which is found in the running sums
that `ingest.merge` keeps for rows with events at several times. Otherwise a weight would tell what comes after the cut.
docs/decisions/events.md has the reason. Rows of ratings, and events that version 0.10 merged, stay as they are.
"""

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import with_integer
from recsys_assets.recommender.data.tables import FIRST_TIME, KNOWN, KNOWN_FROM

_MOMENT, _N_KNOWN = "__moment", "__n_known"


def keeps_times(ratings: nw.LazyFrame) -> bool:
    """Return whether the rows are sums of events with running sums."""
    return KNOWN_FROM in ratings.collect_schema().names()


def time_column(ratings: nw.LazyFrame) -> str:
    """Return the column that orders the rows in time: of events, the time of the first one."""
    return FIRST_TIME if keeps_times(ratings) else "timestamp"


def as_known(rows: nw.LazyFrame, moment: int) -> nw.LazyFrame:
    """Return the rows with the sums of their events before a moment; events of a row's first time always count.

    Args:
        rows: table ratings.
        moment: microseconds since 1970.
    """
    if not keeps_times(rows):
        return rows
    return _as_known(rows.with_columns(nw.lit(moment).cast(nw.Int64()).alias(_MOMENT)))


def as_known_before(rows: nw.LazyFrame, later: nw.LazyFrame) -> nw.LazyFrame:
    """Return the rows with the sums of their events before the first event of another row of the same user.

    Args:
        rows: table ratings.
        later: table ratings, at most one row per user. Rows of users without one stay as they are.
    """
    if not keeps_times(rows):
        return rows
    moments = with_integer(later, FIRST_TIME, _MOMENT).select("user", _MOMENT)
    return _as_known(rows.join(moments, on="user", how="left"))


def at_first_time(rows: nw.LazyFrame) -> nw.LazyFrame:
    """Return test rows with the time of their first event, because a model is asked for them then."""
    return rows.with_columns(timestamp=nw.col(FIRST_TIME)) if keeps_times(rows) else rows


def _as_known(rows: nw.LazyFrame) -> nw.LazyFrame:
    """Return the rows as they were known at their `_MOMENT`, which may be null and is dropped.

    Narwhals has no expressions for lists of this kind.
    """
    if rows.implementation.is_polars():
        times = pl.col(KNOWN_FROM).list.eval(pl.element().dt.timestamp("us"))
        is_before = (times - pl.col(_MOMENT)).list.eval(pl.element() < 0)
        n_known = pl.max_horizontal(is_before.list.sum().cast(pl.Int64), 1)
        counted = rows.to_native().with_columns(
            pl.when(pl.col(_MOMENT).is_not_null() & pl.col(KNOWN_FROM).is_not_null()).then(n_known).alias(_N_KNOWN)
        )
        n = pl.col(_N_KNOWN)
        latest = [pl.coalesce(pl.col(own).list.get(n - 1, null_on_oob=True), name).alias(name) for name, own in KNOWN]
        # Rows of a single time have no running sums, so that nothing tells that there will be other times.
        lists = [
            pl.when(n.is_null()).then(own).otherwise(pl.when(n > 1).then(pl.col(own).list.head(n))).alias(own)
            for _, own in KNOWN
        ]
        return nw.from_native(counted.with_columns(*latest, *lists).drop(_MOMENT, _N_KNOWN))
    from pyspark.sql import functions

    frame = rows.to_native()
    known = functions.filter(KNOWN_FROM, lambda time: functions.unix_micros(time) < functions.col(_MOMENT))
    is_counted = functions.col(_MOMENT).isNotNull() & functions.col(KNOWN_FROM).isNotNull()
    counted = frame.withColumn(
        _N_KNOWN, functions.when(is_counted, functions.greatest(functions.size(known), functions.lit(1)))
    )
    of = functions.col(_N_KNOWN)
    made = {name: functions.coalesce(functions.element_at(own, of), name) for name, own in KNOWN} | {
        own: functions.when(of.isNull(), functions.col(own)).when(of > 1, functions.slice(own, 1, of))
        for _, own in KNOWN
    }
    return nw.from_native(counted.withColumns(made).drop(_MOMENT, _N_KNOWN))
