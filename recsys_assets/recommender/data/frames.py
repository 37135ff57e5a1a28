"""Small helpers on Narwhals lazy frames that several stages share.

Only what is the same on both engines (Polars and PySpark) belongs here; what a table means is in `tables`.
"""

import hashlib
from collections.abc import Sequence

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.tables import Table

# Largest prime below 2**31: a product of two residues stays below 2**62, so int64 never overflows (Spark raises, Polars
# would wrap).
_PRIME = 2**31 - 1
_MULTIPLIERS = (1_540_483_477, 668_265_263)
# The defaults of settings: draws with them stay what they were when the scores in docs/ were computed, an offset apart.
_PUBLISHED_SEEDS = (0, 1234)
_PLACE, _KEY = "__place", "__key"
# Keys that an array is made for: 200 MB.
_LARGEST_TABLE = 50_000_000


def to_polars(frame: nw.LazyFrame, *columns: str) -> pl.DataFrame:
    """The frame (or only `columns` of it) in memory, whichever engine computes it."""
    chosen = frame.select(*columns) if columns else frame
    return chosen.collect(backend="polars").to_native()


def lazy(frame: pl.DataFrame | pl.LazyFrame) -> nw.LazyFrame:
    """A Polars frame as the type that tables travel in."""
    return nw.from_native(frame.lazy())


def conform(frame: nw.LazyFrame, table: Table) -> nw.LazyFrame:
    """The frame with the declared columns first, in order and cast to their types.

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
    """No rows, with the declared columns."""
    return to_polars(conform(lazy(pl.DataFrame(schema=list(table.columns))), table))


def pseudo_random(seed: int, columns: Sequence[str], *, stream: int = 0) -> nw.Expr:
    """An integer in [0, 2**31 - 1) that looks random but depends only on the seed and the rows' integer columns.

    Row order, engine and number of threads do not matter. Each column is mixed in by two rounds of multiplying and
    squaring modulo a prime: linear rounds alone would draw one lattice for all users.

    Args:
        seed: what is drawn with one seed says nothing of what is drawn with another.
        columns: at least one, of integers from 0 to 2**31 - 1.
        stream: number of the draw, where one seed is for several; small.
    """
    multiplier_of_seed, offset = _of_seed(seed)
    state: nw.Expr = nw.lit((offset + stream) % _PRIME).cast(nw.Int64())
    for column in columns:
        state = state + nw.col(column).cast(nw.Int64()) * multiplier_of_seed
        for multiplier in _MULTIPLIERS:
            state = (state % _PRIME * multiplier + multiplier) % _PRIME
            state = (state * state + multiplier) % _PRIME
    return state


def _of_seed(seed: int) -> tuple[int, int]:
    """What ids are multiplied by, and what is added to them.

    An offset alone would draw for user 0 and seed 1 what it draws for user 1 and seed 0.
    """
    if seed in _PUBLISHED_SEEDS:
        return 1, seed
    digest = hashlib.sha256(str(seed).encode()).digest()
    first, second = (int.from_bytes(part) for part in (digest[:16], digest[16:]))
    return 1 + first % (_PRIME - 1), second % _PRIME


def distinct(frame: nw.LazyFrame, column: str) -> nw.LazyFrame:
    """The different values of a column; on Polars worked out here and now, block by block, in a third of the time."""
    values = frame.select(column).unique()
    return lazy(values.to_native().collect(engine="streaming")) if frame.implementation.is_polars() else values


def last_rows(frame: nw.LazyFrame, key: Sequence[str], order_by: Sequence[str]) -> nw.LazyFrame:
    """Of the rows that share a key, which must not be null, the last in an order that leaves no ties."""
    if not frame.implementation.is_polars():
        return frame.unique(list(key), keep="last", order_by=list(order_by))

    def newest(sorted_rows: pl.DataFrame) -> pl.DataFrame:
        """Of rows in the order of their keys, those that are alone with theirs, and the last of the others."""
        is_last = sorted_rows.select(_differs_from_next(by)).to_series()
        if is_last.all():
            return sorted_rows
        shared = (~is_last | ~is_last.shift(1, fill_value=True)).arg_true()
        candidates = sorted_rows[shared].with_columns(shared.alias(_PLACE)).sort(*by, *order_by)
        kept = candidates.filter(_differs_from_next(by))[_PLACE]
        return sorted_rows.filter(is_last.scatter(shared, False).scatter(kept, True))

    # Neighbours after a sort by the key, in which the table is stored anyway: three times as fast as looking every key
    # up. Keys mostly occur once, so only the few others are sorted by everything.
    rows, by = _in_order(frame.to_native(), key)
    return nw.from_native(rows.map_batches(newest, schema=rows.collect_schema()).drop(_KEY, strict=False))


def in_order(frame: nw.LazyFrame, key: Sequence[str]) -> nw.LazyFrame:
    """The rows sorted by their key; where Polars sees at a glance that they are in order, they are not sorted again."""
    if not frame.implementation.is_polars():
        return frame.sort(*key)
    return nw.from_native(_in_order(frame.to_native(), key)[0].drop(_KEY, strict=False))


def _in_order(rows: pl.LazyFrame, key: Sequence[str]) -> tuple[pl.LazyFrame, list[str]]:
    """The sorted rows, and the columns that give the order: two indices make one number, which takes half the time."""
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


def numbered(frame: nw.LazyFrame, index: nw.LazyFrame) -> nw.LazyFrame:
    """The frame with the number of its key from an index; rows whose key is not in the index are left out.

    Args:
        frame: with the key, which is not below 0 where it is an integer.
        index: number, an int32, and key, each key once; null keys stand for nothing.
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

    # A sixth of the time of a join in memory.
    found = pl.col(key).map_batches(look_up, return_dtype=pl.Int32, is_elementwise=True).alias(number)
    return nw.from_native(frame.to_native().with_columns(found).filter(pl.col(number) >= 0))


def same_engine(template: nw.LazyFrame, small: pl.DataFrame) -> nw.LazyFrame:
    """A small in-memory table as a lazy frame of the engine that computes `template`, so that the two can be joined."""
    if template.implementation.is_polars():
        return lazy(small)
    session = template.to_native().sparkSession
    return nw.from_native(session.createDataFrame(small.to_arrow()))


def row_count(frame: nw.LazyFrame) -> int:
    """Number of rows; for a stored table read from its metadata, not from its rows."""
    return int(to_polars(frame.select(nw.len().alias("n")))["n"][0])
