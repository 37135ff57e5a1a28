"""Applies a function to blocks of users on either engine.

On Polars the function gets all users at once and uses threads itself. On Spark the rows are partitioned by user, Python
workers call the function block by block, and neither rows nor results pass through the driver.
"""

from collections.abc import Callable, Iterator, Mapping

import narwhals as nw
import polars as pl
import pyarrow as pa

from recsys_assets.recommender.data.frames import lazy, to_polars

# From the users of a block, ascending, and their rows, in any order, to rows of the result.
Work = Callable[[pl.DataFrame, nw.LazyFrame], pl.DataFrame]
_MARK = "__has_row"
_TEXTS, _REALS = pl.List(pl.String), pl.List(pl.Float32)
# Types of results, by what Spark and Arrow call them.
_SPARK_TYPES: Mapping[pl.DataType, tuple[str, pa.DataType]] = {
    pl.Int32(): ("int", pa.int32()),
    pl.Float64(): ("double", pa.float64()),
    pl.String(): ("string", pa.string()),
    _TEXTS: ("array<string>", pa.list_(pa.string())),
    _REALS: ("array<float>", pa.list_(pa.float32())),
}


def by_user(
    work: Work,
    rows: nw.LazyFrame,
    users: nw.LazyFrame,
    *,
    schema: Mapping[str, pl.DataType],
    users_per_block: int,
) -> nw.LazyFrame:
    """Return the results of `work` for all users, on the engine of `rows`.

    Args:
        work: the function. Spark broadcasts it with all that it holds, such as a model, to Python workers, which need
            this package.
        rows: user, and further columns.
        users: user, and further columns that `work` takes; also the users without a row.
        schema: columns and types of the results: int32, float64, text, lists of texts or of float32.
        users_per_block: least number of users per call on Spark, except for the last call of a partition.
    """
    if rows.implementation.is_polars():
        return lazy(work(to_polars(users).sort("user"), rows))
    return nw.from_native(_on_spark(work, rows, users, schema, users_per_block))


def _on_spark(
    work: Work,
    rows: nw.LazyFrame,
    users: nw.LazyFrame,
    schema: Mapping[str, pl.DataType],
    users_per_block: int,
) -> object:
    marked = rows.with_columns(nw.lit(value=True).alias(_MARK))
    everybody = users.join(marked, on="user", how="left").to_native()
    of_user, of_row = users.collect_schema().names(), rows.collect_schema().names()
    columns = {name: _SPARK_TYPES[dtype] for name, dtype in schema.items()}
    arrow = pa.schema([(name, dtype) for name, (_, dtype) in columns.items()])

    def of_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for block in whole_users(map(pl.DataFrame, batches), users_per_block):
            found = work(block.select(of_user).unique("user").sort("user"), lazy(block.filter(_MARK).select(of_row)))
            yield from found.select(*schema).to_arrow().cast(arrow).to_batches()

    ddl = ", ".join(f"`{name}` {spark}" for name, (spark, _) in columns.items())
    return everybody.repartition("user").sortWithinPartitions("user").mapInArrow(of_partition, ddl)


def whole_users(batches: Iterator[pl.DataFrame], users_per_block: int) -> Iterator[pl.DataFrame]:
    """Yield blocks that hold all rows of their users.

    Args:
        batches: rows sorted by user; a user may begin in one batch and end in a later one.
        users_per_block: least number of users of a block, except for the last one.

    Examples:
        >>> batches = [pl.DataFrame({"user": [0, 0, 1]}), pl.DataFrame({"user": [1, 2]})]
        >>> [block["user"].to_list() for block in whole_users(iter(batches), 2)]
        [[0, 0, 1, 1], [2]]
    """
    held: list[pl.DataFrame] = []
    n_held = 0
    for batch in batches:
        if batch.is_empty():
            continue
        continues = bool(held) and held[-1]["user"][-1] == batch["user"][0]
        n_held += batch["user"].n_unique() - continues
        held.append(batch)
        # The last user may go on in the next batch, and so does not count.
        if n_held > users_per_block:
            together = pl.concat(held)
            goes_on = pl.col("user") == together["user"][-1]
            complete = together.filter(~goes_on)
            held, n_held = [together.filter(goes_on)], 1
            yield complete
    if held:
        yield pl.concat(held)
