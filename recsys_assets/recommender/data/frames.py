"""Helpers on Narwhals lazy frames that several stages share: casting, hashing, sorting, dense ids, collecting.

Only helpers that give the same result on Polars and PySpark belong here. `tables` declares the meaning of each table.
"""

import hashlib
from collections.abc import Mapping, Sequence

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.tables import Table

# Largest prime below 2**31. A product of two residues stays below 2**62, so int64 does not overflow: Spark raises on
# overflow, Polars wraps.
_PRIME = 2**31 - 1
_MULTIPLIERS = (1_540_483_477, 668_265_263)
# Default seeds of the settings. Their draws must not change, because the published scores in docs/ were computed with
# them. The draws of the two seeds differ by an offset only.
_PUBLISHED_SEEDS = (0, 1234)
_PLACE, _KEY, _GATHERED = "__place", "__key", "__gathered"
# Largest key for which `numbered` makes a lookup array: 200 MB of int32.
_LARGEST_TABLE = 50_000_000


def to_polars(frame: nw.LazyFrame, *columns: str) -> pl.DataFrame:
    """Collect the frame, or only `columns` of it, into memory from either engine."""
    chosen = frame.select(*columns) if columns else frame
    return chosen.collect(backend="polars").to_native()


def lazy(frame: pl.DataFrame | pl.LazyFrame) -> nw.LazyFrame:
    """Wrap a Polars frame as the Narwhals lazy frame that tables travel in."""
    return nw.from_native(frame.lazy())


def in_memory(frame: nw.LazyFrame) -> nw.LazyFrame:
    """Bring a Spark frame into the memory of this process, because it is read several times; Polars frames stay lazy.

    For frames whose size a setting bounds, such as the rows of a sample of the users, and for charts.
    """
    return frame if frame.implementation.is_polars() else lazy(to_polars(frame))


def held(frame: nw.LazyFrame) -> nw.LazyFrame:
    """Compute a Polars frame now, because it is read several times; a Spark frame stays lazy."""
    return lazy(to_polars(frame)) if frame.implementation.is_polars() else frame


def conform(frame: nw.LazyFrame, table: Table) -> nw.LazyFrame:
    """Cast the declared columns to their types and put them first, in declared order.

    Args:
        frame: any columns. Undeclared ones follow if the table is open-ended; otherwise they are dropped.
        table: the declaration.

    Raises:
        ValueError: a declared column is missing.
    """
    types = frame.collect_schema()
    names = types.names()
    missing = [name for name in table.columns if name not in names]
    if missing:
        raise ValueError(f"columns missing: {', '.join(missing)}; found: {', '.join(names)}")
    extra = [name for name in names if name not in table.columns] if table.open_ended else []
    declared = [
        nw.col(name) if types[name] in column.dtypes else nw.col(name).cast(column.dtype)
        for name, column in table.columns.items()
    ]
    return frame.select(*declared, *extra)


def empty(table: Table) -> pl.DataFrame:
    """Return an empty frame with the declared columns."""
    return to_polars(conform(lazy(pl.DataFrame(schema=list(table.columns))), table))


def pseudo_random(seed: int, columns: Sequence[str], *, stream: int = 0) -> nw.Expr:
    """Hash the seed and integer columns of each row to an integer in [0, 2**31 - 1).

    The draw does not depend on row order, engine or number of threads. Each column is mixed in by two rounds of
    multiplying and squaring modulo a prime. Linear rounds alone would draw points of one lattice for all users.

    Args:
        seed: draws with different seeds are unrelated, except for the default seeds 0 and 1234.
        columns: names of one or more integer columns with values from 0 to 2**31 - 1.
        stream: number of the draw, if one seed serves several draws; a small integer.
    """
    multiplier_of_seed, offset = _of_seed(seed)
    state: nw.Expr = nw.lit((offset + stream) % _PRIME).cast(nw.Int64())
    for column in columns:
        state = state + nw.col(column).cast(nw.Int64()) * multiplier_of_seed
        for multiplier in _MULTIPLIERS:
            state = (state % _PRIME * multiplier + multiplier) % _PRIME
            state = (state * state + multiplier) % _PRIME
    return state


def drawn(share: float, seed: int, columns: Sequence[str], *, stream: int = 0) -> nw.Expr:
    """Whether a row is in a sample of a share of all rows, 0 to 1; see `pseudo_random` for the other arguments."""
    return pseudo_random(seed, columns, stream=stream) < int(share * _PRIME)


def _of_seed(seed: int) -> tuple[int, int]:
    """Return the multiplier of the ids and the offset that belong to a seed.

    With an offset alone, user 0 with seed 1 would draw the same number as user 1 with seed 0.
    """
    if seed in _PUBLISHED_SEEDS:
        return 1, seed
    digest = hashlib.sha256(str(seed).encode()).digest()
    first, second = (int.from_bytes(part) for part in (digest[:16], digest[16:]))
    return 1 + first % (_PRIME - 1), second % _PRIME


def with_integer(frame: nw.LazyFrame, column: str, name: str) -> nw.LazyFrame:
    """Add a column as integers; times become microseconds since 1970.

    Args:
        frame: holds the column, integers or times.
        column: name of the column.
        name: name of the new column.
    """
    if not isinstance(frame.collect_schema()[column], nw.Datetime):
        return frame.with_columns(nw.col(column).cast(nw.Int64()).alias(name))
    if frame.implementation.is_polars():
        return frame.with_columns(nw.col(column).dt.timestamp("us").alias(name))
    from pyspark.sql import functions

    # Narwhals has no such expression for Spark.
    return nw.from_native(frame.to_native().withColumn(name, functions.unix_micros(column)))


def distinct(frame: nw.LazyFrame, column: str) -> nw.LazyFrame:
    """Return the distinct values of a column.

    On Polars this collects at once with the streaming engine, which takes a third of the time.
    """
    values = frame.select(column).unique()
    return lazy(values.to_native().collect(engine="streaming")) if frame.implementation.is_polars() else values


def last_rows(frame: nw.LazyFrame, key: Sequence[str], order_by: Sequence[str]) -> nw.LazyFrame:
    """Keep the last row of each key.

    Args:
        frame: rows whose key columns are not null.
        key: columns that identify a row of the result.
        order_by: columns that order the rows of a key without ties.
    """
    if not frame.implementation.is_polars():
        return frame.unique(list(key), keep="last", order_by=list(order_by))

    def newest(sorted_rows: pl.DataFrame) -> pl.DataFrame:
        """Keep the rows with a unique key, and the last row of each other key."""
        is_last = sorted_rows.select(_differs_from_next(by)).to_series()
        if is_last.all():
            return sorted_rows
        shared = (~is_last | ~is_last.shift(1, fill_value=True)).arg_true()
        candidates = sorted_rows[shared].with_columns(shared.alias(_PLACE)).sort(*by, *order_by)
        kept = candidates.filter(_differs_from_next(by))[_PLACE]
        return sorted_rows.filter(is_last.scatter(shared, False).scatter(kept, True))

    # Comparing neighbours after a sort by key is three times as fast as a lookup of every key, and the stored table is
    # sorted by key anyway. Most keys occur once, so only the rows of the other keys are sorted by `order_by` as well.
    rows, by = _in_order(frame.to_native(), key)
    return nw.from_native(rows.map_batches(newest, schema=rows.collect_schema()).drop(_KEY, strict=False))


def in_order(frame: nw.LazyFrame, key: Sequence[str]) -> nw.LazyFrame:
    """Sort the rows by their key; Polars skips the sort of rows that are already in order."""
    if not frame.implementation.is_polars():
        return frame.sort(*key)
    return nw.from_native(_in_order(frame.to_native(), key)[0].drop(_KEY, strict=False))


def _in_order(rows: pl.LazyFrame, key: Sequence[str]) -> tuple[pl.LazyFrame, list[str]]:
    """Return the sorted rows and the names of the columns that they are sorted by.

    Two int32 columns are packed into one int64 key, which halves the time of the sort.
    """
    by = list(key)
    types = rows.collect_schema()
    if [types[name] for name in by] == [pl.Int32, pl.Int32]:
        rows = rows.with_columns((pl.col(by[0]).cast(pl.Int64) * 2**32 + pl.col(by[1])).alias(_KEY))
        by = [_KEY]

    def ordered(unsorted: pl.DataFrame) -> pl.DataFrame:
        is_sorted = len(by) == 1 and unsorted[by[0]].is_sorted()
        return unsorted if is_sorted else unsorted.sort(by)

    return rows.map_batches(ordered, schema=rows.collect_schema()), by


def _differs_from_next(by: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(-1)) for name in by)


def gathered(frame: nw.LazyFrame, key: Sequence[str], names: Mapping[str, str]) -> nw.LazyFrame:
    """Gather columns into lists per key, each in the order of the first of them.

    Args:
        frame: rows with the columns.
        key: columns that identify a row of the result.
        names: name of the list by column. The values of the first column differ within a key.
    """
    first = next(iter(names))
    if frame.implementation.is_polars():
        lists = [pl.col(column).sort_by(first).alias(name) for column, name in names.items()]
        return nw.from_native(frame.to_native().group_by(*key).agg(*lists))
    from pyspark.sql import functions

    # Structs are sorted by their first field.
    rows = functions.array_sort(functions.collect_list(functions.struct(*names))).alias(_GATHERED)
    lists = [functions.col(_GATHERED)[column].alias(name) for column, name in names.items()]
    return nw.from_native(frame.to_native().groupBy(*key).agg(rows).select(*key, *lists))


def numbered(frame: nw.LazyFrame, index: nw.LazyFrame) -> nw.LazyFrame:
    """Add the dense id of each row's key, and drop the rows whose key has none.

    Args:
        frame: rows with the key; an integer key must not be negative.
        index: dense id (int32) and key, in this order, each key once. Rows with a null key are ignored.
    """
    number, key = index.collect_schema().names()
    if not frame.implementation.is_polars() or frame.collect_schema()[key] != nw.Int64():
        return frame.join(index, on=key)
    known = to_polars(index).drop_nulls(key)
    largest = known[key].max()
    if not isinstance(largest, int) or largest >= _LARGEST_TABLE:
        return frame.join(index, on=key)
    numbers = np.full(largest + 1, -1, np.int32)
    numbers[known[key].to_numpy()] = known[number].to_numpy()
    table = pl.Series(numbers)

    def look_up(keys: pl.Series) -> pl.Series:
        return table.gather(keys, null_on_oob=True)

    # A lookup array takes a sixth of the time of an in-memory join.
    found = pl.col(key).map_batches(look_up, return_dtype=pl.Int32, is_elementwise=True).alias(number)
    return nw.from_native(frame.to_native().with_columns(found).filter(pl.col(number) >= 0))


def same_engine(template: nw.LazyFrame, small: pl.DataFrame) -> nw.LazyFrame:
    """Move a small in-memory table to the engine of `template`, so that the two can be joined.

    Args:
        template: a frame on Polars or PySpark.
        small: the table to move; it is copied through Arrow for Spark.
    """
    if template.implementation.is_polars():
        return lazy(small)
    session = template.to_native().sparkSession
    return nw.from_native(session.createDataFrame(small.to_arrow()))


def row_count(frame: nw.LazyFrame) -> int:
    """Return the number of rows; a stored table is counted from its metadata, without reading rows."""
    return int(to_polars(frame.select(nw.len().alias("n")))["n"][0])
