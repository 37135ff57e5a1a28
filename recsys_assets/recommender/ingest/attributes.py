"""Attributes of items beyond title, year and genres: any column of a file of items, by its values.

Rules in lists are conditions on them (`ranking.rules`), so a text that says true or false becomes a truth value, and a
text of dates becomes a date. Attributes of users belong in `catalogue`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import polars as pl

from recsys_assets.recommender.data.characters import without_controls
from recsys_assets.recommender.ingest.catalogue import is_filled, numeric_attributes

_DATE = r"^\d{4}-\d{2}-\d{2}$"
_TRUTHS = ("true", "false")
_TIME = pl.Datetime("us", "UTC")


def attribute_types(rows: pl.LazyFrame, names: Sequence[str]) -> dict[str, pl.DataType]:
    """The type of each attribute: number, truth value, date, time or text.

    Attributes without a value, and columns that are neither (structures, lists, bytes), have no type and are left out.

    Args:
        rows: texts as they are in the file, or typed columns.
        names: the attributes.
    """
    given = rows.collect_schema()
    typed = {name: _of_typed(given[name]) for name in names if given[name] not in (pl.String, pl.Null)}
    texts = [name for name in names if given[name] == pl.String]
    return {name: dtype for name, dtype in (typed | _of_texts(rows, texts)).items() if dtype is not None}


def agreed(types: Iterable[Mapping[str, pl.DataType]]) -> dict[str, pl.DataType]:
    """The types for all files of a batch: an attribute with two types is text."""

    def joined(known: dict[str, pl.DataType], found: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        both = {name: found[name] if known.get(name, found[name]) == found[name] else pl.String() for name in found}
        return known | both

    return reduce(joined, types, {})


def typed_attributes(types: Mapping[str, pl.DataType], given: pl.Schema) -> list[pl.Expr]:
    """The attributes in their types; a value that is empty is null.

    Args:
        types: type by attribute.
        given: types of the columns in the file.
    """
    return [_as(pl.col(name), given[name], dtype).alias(name) for name, dtype in types.items()]


def _of_typed(dtype: pl.DataType) -> pl.DataType | None:
    if dtype.is_numeric():
        return pl.Float64()
    if isinstance(dtype, pl.Datetime):
        return _TIME
    return dtype if dtype in (pl.Boolean, pl.Date) else None


def _of_texts(rows: pl.LazyFrame, names: Sequence[str]) -> dict[str, pl.DataType | None]:
    if not names:
        return {}
    numbers = numeric_attributes(rows, names)

    def facts(name: str) -> list[pl.Expr]:
        values = pl.col(name).filter(is_filled(name))
        truths = values.str.to_lowercase().is_in(_TRUTHS).all()
        dates = values.str.contains(_DATE).all() & values.str.to_date("%Y-%m-%d", strict=False).is_not_null().all()
        return [fact.alias(f"{name} {what}") for what, fact in (("n", values.len()), ("t", truths), ("d", dates))]

    found = rows.select(fact for name in names for fact in facts(name)).collect(engine="streaming").row(0, named=True)

    def of(name: str) -> pl.DataType | None:
        if not found[f"{name} n"]:
            return None
        if name in numbers:
            return pl.Float64()
        return pl.Boolean() if found[f"{name} t"] else pl.Date() if found[f"{name} d"] else pl.String()

    return {name: of(name) for name in names}


def _as(value: pl.Expr, given: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    if wanted == pl.String:
        return without_controls(value.cast(pl.String)).replace("", None)
    if given == pl.String and wanted == pl.Boolean:
        return value.str.to_lowercase().replace_strict(
            dict(zip(_TRUTHS, (True, False), strict=True)), default=None, return_dtype=pl.Boolean
        )
    if given == pl.String and wanted == pl.Date:
        return value.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(given, pl.Datetime):
        return (value.dt.convert_time_zone("UTC") if given.time_zone else value.dt.replace_time_zone("UTC")).cast(_TIME)
    number = value.cast(wanted, strict=False)
    return pl.when(number.is_finite()).then(number) if wanted == pl.Float64 else number
