"""Rules for rows, and the split of rows into good and rejected ones.

Reading rows belongs in the formats, rules for users and items in `catalogue`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import polars as pl

from recsys_assets.recommender.data.characters import holds_controls
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.text import LINE, PROBLEM, TEXT

# Columns of judged rows: FILE and REASON, and two columns of the readers.
FILE, REASON = "__file", "__reason"
ADDED = (FILE, LINE, TEXT, REASON)
# Column with the number of cleaned texts of a row, for users and items.
CLEANED = "__cleaned"
RESERVED = (*ADDED, CLEANED, PROBLEM)
_SHOWN_ERRORS = 20
_SHOWN_TEXT = 100
_LONGEST_TEXT = 1000

# Formats of times: whole seconds since 1970, as in MovieLens; seconds or finer units, distinguished by size; ISO 8601.
Times = Literal["seconds", "number", "iso"]
# From these sizes on, a number is in the next finer unit. 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
MILLISECONDS_FROM, _MICROSECONDS_FROM, _NANOSECONDS_FROM = 1e11, 1e14, 1e17
_ISO = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?)?\s*(Z|z|[+-]\d{2}:?\d{2})?$"


@dataclass(frozen=True)
class Rules:
    """Format options of a source; see `read_source`."""

    columns: Mapping[str, str]
    delimiter: str | None
    encoding: str | None
    scale: tuple[float, float] | None
    genre_separator: str
    now: datetime | None
    header: tuple[str, ...] = ()
    settings_file: str = "settings.toml"


def judge_ratings(
    rows: pl.LazyFrame,
    file: str,
    *,
    scale: tuple[float, float] | None,
    times: Times,
    now: datetime | None = None,
) -> pl.LazyFrame:
    """Typed ratings with the reason for their rejection, null for good rows.

    Args:
        rows: `user_id`, `item_id`, `rating`, `timestamp` as text or typed, and the columns of the readers.
        file: name of the file inside the source.
        scale: lowest and highest allowed rating; None allows every finite number.
        times: format of times that are text or numbers.
        now: ratings later than one day after this time are rejected; by default the current time.
    """
    types = rows.collect_schema()
    typed = rows.with_columns(
        identifier("user_id", types["user_id"]),
        identifier("item_id", types["item_id"]),
        pl.col("rating").cast(pl.Float32, strict=False),
        _microseconds(types["timestamp"], times).alias("timestamp"),
    )
    rules = {**id_rules("user", "item"), **_rating_rules(scale), **_time_rules(times, now or datetime.now(UTC))}
    time = pl.col("timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return judged(typed, file, rules).with_columns(time)


def judged(rows: pl.LazyFrame, file: str, rules: Mapping[str, pl.Expr]) -> pl.LazyFrame:
    """The rows with the file name and the first broken rule; each expression is true where its rule is broken."""
    broken = [pl.when(expression).then(pl.lit(rule)) for rule, expression in rules.items()]
    reason = pl.coalesce(pl.col(PROBLEM), *broken)
    return rows.with_columns(reason.alias(REASON), pl.lit(file).alias(FILE)).drop(PROBLEM)


def id_rules(*kinds: str) -> dict[str, pl.Expr]:
    """Rules for ids, for `judged`: not missing, and without control characters, which no list of ids can show."""
    ids = {kind: pl.col(f"{kind}_id").cast(pl.String) for kind in kinds}
    missing = {f"missing {kind} id": (text == "").fill_null(True) for kind, text in ids.items()}
    return missing | {f"control character in the {kind} id": holds_controls(text) for kind, text in ids.items()}


def good_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that break no rule, without the added columns."""
    return rows.filter(pl.col(REASON).is_null()).drop(*ADDED, CLEANED, strict=False)


def rejected_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that break a rule: table `rejected_rows`.

    A record that spans several lines, for example because of an unclosed quote, counts once per line.
    """
    lines = pl.col("text").str.split("\n")
    return (
        rows.filter(pl.col(REASON).is_not_null())
        .select(
            pl.col(FILE).alias("file"),
            pl.col(LINE).alias("line"),
            pl.col(REASON).alias("reason"),
            pl.col(TEXT).fill_null("").alias("text"),
        )
        .with_columns(lines, pl.int_ranges(lines.list.len()).alias("offset"))
        .explode("text", "offset")
        .select("file", pl.col("line") + pl.col("offset"), "reason", pl.col("text").str.head(_LONGEST_TEXT))
    )


def check_rejected(
    rejected: pl.DataFrame, rows: int, *, count: int | None = None, max_share: float = 0.01, listed_in: str = ""
) -> None:
    """Refuses a source with too many rejected rows.

    Args:
        rejected: the table `rejected_rows`, or its first rows.
        rows: total number of rows, good and rejected.
        count: number of rejected rows, if `rejected` does not hold all of them.
        max_share: largest accepted share of rejected rows.
        listed_in: where the user finds the whole list, for the message.

    Raises:
        SourceError: the share is larger than `max_share`; the message shows the first 20 rows.
    """
    count = rejected.height if count is None else count
    if count <= max_share * rows:
        return
    shown = "\n".join(
        f"  {file}, line {line}: {reason}: {text[:_SHOWN_TEXT]}"
        for file, line, reason, text in rejected.head(_SHOWN_ERRORS).iter_rows()
    )
    rest = f" The whole list is in {listed_in}." if listed_in else ""
    raise SourceError(
        f"{count:,} of {rows:,} rows are bad ({count / max(rows, 1):.1%}), "
        f"{max_share:.1%} are allowed; mend them or raise the limit.{rest} The first:\n{shown}"
    )


def _rating_rules(scale: tuple[float, float] | None) -> dict[str, pl.Expr]:
    rating = pl.col("rating")
    rules = {"rating is not a number": rating.is_null() | rating.is_nan() | rating.is_infinite()}
    if scale is not None:
        rules[f"rating outside {scale[0]:g} to {scale[1]:g}"] = ~rating.is_between(*scale)
    return rules


def _time_rules(times: Times, now: datetime) -> dict[str, pl.Expr]:
    expected = {"seconds": "a whole number of seconds", "number": "a number", "iso": "ISO 8601"}[times]
    latest = int((now + timedelta(days=1)).timestamp() * 1e6)
    return {
        f"time is missing or not {expected}": pl.col("timestamp").is_null(),
        "time before 1970": pl.col("timestamp") < 0,
        "time in the future": pl.col("timestamp") > latest,
    }


def identifier(column: str, dtype: pl.DataType) -> pl.Expr:
    """An id as text; whole floats lose their decimals and NaN becomes null.

    pandas turns a column of integers with gaps into floats.
    """
    value = pl.col(column)
    if not dtype.is_float():
        return value.cast(pl.String)
    value = value.fill_nan(None)
    whole = value.cast(pl.Int64, strict=False)
    return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String))


def _microseconds(dtype: pl.DataType, times: Times) -> pl.Expr:
    """The column `timestamp` as microseconds since 1970; null if a value is not a time."""
    value = pl.col("timestamp")
    if isinstance(dtype, pl.Datetime):
        utc = value.dt.convert_time_zone("UTC") if dtype.time_zone else value.dt.replace_time_zone("UTC")
        return utc.dt.epoch("us")
    if dtype == pl.Date:
        return value.cast(pl.Datetime("us")).dt.epoch("us")
    if times == "iso":
        return _iso_microseconds(value)
    if times == "seconds":
        seconds = value.cast(pl.Int64, strict=False)
        # Clipping prevents an overflow; the rules for times reject such values anyway.
        return seconds.clip(-MILLISECONDS_FROM, MILLISECONDS_FROM) * 1_000_000
    number = value.cast(pl.Float64, strict=False)
    size = number.abs()
    per_unit = (
        pl.when(size < MILLISECONDS_FROM)
        .then(1e6)
        .when(size < _MICROSECONDS_FROM)
        .then(1e3)
        .when(size < _NANOSECONDS_FROM)
        .then(1.0)
        .otherwise(1e-3)
    )
    return (number * per_unit).round().cast(pl.Int64, strict=False)


def _iso_microseconds(value: pl.Expr) -> pl.Expr:
    """ISO 8601 dates and times; a time without an offset is UTC."""
    parts = value.str.extract_groups(_ISO).struct

    def part(number: int, default: str) -> pl.Expr:
        return pl.coalesce(parts.field(str(number)).replace("", None), pl.lit(default))

    zone = part(4, "+0000").str.replace("^[zZ]$", "+0000")
    text = pl.concat_str([parts.field("1"), pl.lit(" "), part(2, "00:00"), part(3, ":00"), zone])
    return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="us", strict=False).dt.epoch("us")
