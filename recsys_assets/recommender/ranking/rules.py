"""Rules for lists: which items may be shown at all, which rated ones may come back, how many of one value.

Rules change no score. They are read where lists are made, so a changed rule or a changed attribute needs no new fit.
Scores and lists belong in `rankings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.errors import RecsysError
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.splitting import has_times
from recsys_assets.recommender.features.matrices import membership
from recsys_assets.recommender.ranking.rankings import Limits

_WHERE = "[serving] where"
# Columns of the table that number an item and do not describe it.
_NUMBERS = ("item",)


class RuleError(RecsysError):
    """A rule for lists cannot be applied, or leaves no item. The stored lists stay as they are."""


@dataclass(frozen=True)
class Rules:
    """What may be shown in a list.

    Attributes:
        where: SQL condition on the columns of the table `items`; empty allows every item. As in SQL, an item for
            which the condition is unknown, because a value is missing, is not allowed.
        exclude_rated: whether a user's rated items are left out of the user's list.
        exclude_rated_days: only ratings of the last so many days are left out, counted back from the latest rating of
            the home; 0 leaves all of them out.
        blocked: ids of items that are in no list.
        max_per_value: how many items of one value a list may hold, by column of `items`.
    """

    where: str = ""
    exclude_rated: bool = True
    exclude_rated_days: int = 0
    blocked: frozenset[str] = field(default_factory=frozenset)
    max_per_value: Mapping[str, int] = field(default_factory=dict)

    def told(self, ratings: nw.LazyFrame) -> dict[str, object]:
        """The rules for metadata; the number of blocked items in place of their ids.

        Args:
            ratings: table ratings, of all users.
        """
        days: int | str = self.exclude_rated_days
        if days and not has_times(ratings):
            days = f"{days}, without effect: the ratings have no times, so all rated items are left out"
        return {
            "where": self.where,
            "exclude_rated": self.exclude_rated,
            "exclude_rated_days": days,
            "blocked items": len(self.blocked),
            "max_per_value": dict(self.max_per_value),
        }

    def allowed(self, items: pl.DataFrame) -> pl.Series:
        """Whether each item may be shown: a Boolean per row.

        Args:
            items: table items.

        Raises:
            RuleError: the condition names an unknown column, is no condition, or no item is left.
        """
        meets = _meets(self.where, items.drop(_NUMBERS, strict=False))
        shown = meets & ~items["item_id"].is_in(sorted(self.blocked))
        if len(shown) and not shown.any():
            by_block = f" {len(self.blocked):,} are blocked (`recsys-assets blocked`)." if self.blocked else ""
            raise RuleError(
                f"{_WHERE} = {self.where!r} leaves none of the {len(items):,} items to be shown: "
                f"{meets.sum():,} meet it.{by_block} No list was changed. Fix the condition in settings.toml."
            )
        return shown

    def limits(self, items: pl.DataFrame) -> Limits | None:
        """The limits per value; None without any.

        Args:
            items: a row per item of the model, in the order of its dense ids, with the columns of table `items`.

        Raises:
            RuleError: a column does not exist.
        """
        if not self.max_per_value:
            return None
        parts = [membership(_value_lists(items, column)) for column in self.max_per_value]
        most = [np.full(part.shape[1], most) for part, most in zip(parts, self.max_per_value.values(), strict=True)]
        return Limits(sparse.csr_array(sparse.hstack(parts)), np.concatenate(most))

    def excluded(self, ratings: nw.LazyFrame) -> nw.LazyFrame:
        """The ratings whose items are left out of their user's list.

        Args:
            ratings: table ratings, of all users. A rating without a time stays left out.
        """
        if not self.exclude_rated:
            return ratings.head(0)
        if self.excludes_all_rated:
            return ratings
        return ratings.filter(self.is_excluded(ratings))

    @property
    def excludes_all_rated(self) -> bool:
        """Whether every rated item is left out of its user's list."""
        return self.exclude_rated and not self.exclude_rated_days

    def is_excluded(self, ratings: nw.LazyFrame) -> nw.Expr:
        """Whether the item of a rating is left out of its user's list; see `excluded`."""
        if self.exclude_rated and self.exclude_rated_days:
            latest = to_polars(ratings.select(nw.col("timestamp").max()))["timestamp"][0]
            if latest is not None:
                since = latest - timedelta(days=self.exclude_rated_days)
                return nw.col("timestamp").is_null() | (nw.col("timestamp") >= since)
        return nw.lit(self.exclude_rated)


def parsed(condition: str) -> pl.Expr:
    """The expression of an SQL condition.

    Raises:
        ValueError: the text is not one SQL condition.

    Examples:
        >>> parsed("year >= 1990 and available").meta.root_names()
        ['year', 'available']
    """
    try:
        return pl.sql_expr(condition)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"no SQL condition on columns of items, such as \"year >= 1990 and kind = 'book'\": {_first_line(error)}"
        ) from None


def _value_lists(items: pl.DataFrame, column: str) -> pl.Series:
    """The values of a column as lists of texts: one value, or none, where the column holds no lists."""
    if column not in items.columns or column in _NUMBERS:
        raise RuleError(
            f"[serving] max_per_value: there is no column {column!r}. The columns of items are: "
            f"{_described(items.drop(_NUMBERS, strict=False))}."
        )
    value = pl.col(column)
    if isinstance(items.schema[column], pl.List):
        return items.select(value.cast(pl.List(pl.String)))[column]
    return items.select(pl.when(value.is_not_null()).then(pl.concat_list(value.cast(pl.String))))[column]


def _meets(condition: str, items: pl.DataFrame) -> pl.Series:
    """Whether each item meets a condition; false where that is unknown."""
    if not condition.strip():
        return pl.Series([True] * len(items), dtype=pl.Boolean)
    try:
        expression = parsed(condition)
    except ValueError as error:
        raise RuleError(f"{_WHERE} = {condition!r}: {error}") from None
    table = _as_written(items, expression.meta.root_names())
    try:
        found = _evaluated(table, expression)
    except pl.exceptions.ColumnNotFoundError as error:
        raise RuleError(
            f"{_WHERE} = {condition!r}: {_first_line(error).partition(';')[0]}. The columns of items are: "
            f"{_described(items)}. A column comes with a file of items that holds it: `recsys-assets add FILE`."
        ) from None
    except pl.exceptions.PolarsError as error:
        raise RuleError(
            f"{_WHERE} = {condition!r} does not fit the columns of items ({_described(items)}): "
            f"{_first_line(error)}. A text is compared with a text in quotes, a date with DATE '2024-01-31'."
        ) from None
    if found.dtype != pl.Boolean:
        raise RuleError(
            f"{_WHERE} = {condition!r} is {found.dtype}, not true or false. Compare it with something: "
            f"{condition} > 0. The columns of items are: {_described(items)}."
        )
    return found.fill_null(False)


def _evaluated(items: pl.DataFrame, expression: pl.Expr) -> pl.Series:
    """The value of the expression per item; numbers that are all 0 or 1 may also stand where a condition does."""
    numbers = [column for column in items if column.dtype.is_numeric()]
    flags = [column.name for column in numbers if column.drop_nulls().cast(pl.Float64).is_in([0.0, 1.0]).all()]
    try:
        found = items.with_columns(__found=expression)["__found"]
        if found.dtype == pl.Boolean or not flags:
            return found
    except pl.exceptions.ColumnNotFoundError:
        raise
    except pl.exceptions.PolarsError:
        if not flags:
            raise
    return items.with_columns(pl.col(flags).cast(pl.Boolean)).with_columns(__found=expression)["__found"]


def _as_written(items: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """The table with a further column for each name that differs from a column in case only: SQL ignores case."""
    by_lower = {name.lower(): name for name in items.columns}
    more = {name: by_lower[name.lower()] for name in names if name not in items.columns and name.lower() in by_lower}
    return items.with_columns(pl.col(own).alias(name) for name, own in more.items())


def _described(items: pl.DataFrame) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in items.schema.items())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")


def mask_of(allowed_ids: pl.Series, item_ids: pl.Series) -> np.ndarray:
    """Whether each item of a model may be shown, shape (n_items,).

    Args:
        allowed_ids: ids of the allowed items.
        item_ids: ids of the model's items, in the order of their dense ids.
    """
    return item_ids.is_in(allowed_ids.implode()).to_numpy()
