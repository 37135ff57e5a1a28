"""Rules for rows, and the split of rows into good and rejected ones.

Reading rows belongs in the formats, rules for users and items in `catalogue`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl

from recsys_assets.recommender.data.characters import holds_controls
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.text import LINE, PROBLEM, TEXT
from recsys_assets.recommender.ingest.times import expected, microseconds

# Columns of judged rows: FILE and REASON, and two columns of the readers.
FILE, REASON = "__file", "__reason"
ADDED = (FILE, LINE, TEXT, REASON)
# Column with the number of cleaned texts of a row, for users and items.
CLEANED = "__cleaned"
RESERVED = (*ADDED, CLEANED, PROBLEM)
# Reason of rows that the settings declare as not rated.
NOT_RATED = "not rated"
_NO_NUMBER = r"^(rating|weight)( \(column .*\))? is not a number$"
_DECIMAL_COMMA = r"^\s*([+-]?\d+),(\d+)\s*$"
# The judged ratings of a source without ratings.
NO_RATINGS = pl.LazyFrame(
    schema={
        "user_id": pl.String,
        "item_id": pl.String,
        "rating": pl.Float32,
        "timestamp": pl.Datetime("us", "UTC"),
        LINE: pl.Int64,
        **dict.fromkeys((TEXT, REASON, FILE), pl.String),
    }
)
_SHOWN_ERRORS = 20
_SHOWN_TEXT = 100
_LONGEST_TEXT = 1000


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
    decimal: str | None = None
    time_format: str | None = None
    not_rated: tuple[float, ...] = ()
    settings_file: str = "settings.toml"
    ignore: tuple[str, ...] = ()
    feedback: Literal["auto", "ratings", "events"] = "auto"
    event_weights: Mapping[str, float] = field(default_factory=dict)
    other_events: Literal["refuse", "count"] = "refuse"

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns that are not read; events have no ratings."""
        return (*self.ignore, "rating") if self.feedback == "events" else self.ignore


def judge_ratings(
    rows: pl.LazyFrame,
    file: str,
    *,
    scale: tuple[float, float] | None,
    times: str,
    now: datetime | None = None,
    decimal_comma: bool = False,
    not_rated: Collection[float] = (),
    noun: str = "rating",
) -> pl.LazyFrame:
    """Typed ratings with the reason for their rejection, null for good rows.

    Args:
        rows: `user_id`, `item_id`, `rating`, `timestamp` as text or typed, and the columns of the readers.
        file: name of the file inside the source.
        scale: lowest and highest allowed rating; None allows every finite number.
        times: form of times that are text or numbers, as `times.form_of` returns it.
        now: ratings later than one day after this time are rejected; by default the current time.
        decimal_comma: whether ratings are written like 4,5.
        not_rated: ratings that mean that nothing was rated; such rows are neither good nor rejected.
        noun: name of the rating in the reasons.
    """
    types = rows.collect_schema()
    typed = rows.with_columns(
        identifier("user_id", types["user_id"]),
        identifier("item_id", types["item_id"]),
        with_point("rating", types["rating"], decimal_comma=decimal_comma).cast(pl.Float32, strict=False),
        microseconds(types["timestamp"], times).alias("timestamp"),
    )
    rules = {
        **id_rules("user", "item"),
        **({NOT_RATED: pl.col("rating").is_in(pl.Series(not_rated, dtype=pl.Float32).implode())} if not_rated else {}),
        **_rating_rules(scale, noun),
        **_time_rules(times, now or datetime.now(UTC)),
    }
    time = pl.col("timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return judged(typed, file, rules).with_columns(time)


def with_own_name(column: str, mapping: Mapping[str, str]) -> str:
    """A standard column for messages, with the name that the file gives it if that is another one.

    Examples:
        >>> with_own_name("rating", {"rating": "stars"}), with_own_name("rating", {"rating": "rating"})
        ('rating (column stars)', 'rating')
    """
    own = mapping.get(column, column)
    return column if own == column else f"{column} (column {own})"


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


def count_not_rated(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Column `len`: the number of rows that the settings declare as not rated."""
    return rows.filter(pl.col(REASON) == NOT_RATED).select(pl.len())


def rejected_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that break a rule: table `rejected_rows`.

    A record that spans several lines, for example because of an unclosed quote, counts once per line.
    """
    lines = pl.col("text").str.split("\n")
    return (
        rows.filter(pl.col(REASON).is_not_null() & (pl.col(REASON) != NOT_RATED))
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
    rejected: pl.DataFrame,
    rows: int,
    *,
    count: int | None = None,
    max_share: float = 0.01,
    listed_in: str = "",
    settings_file: Path | str = "settings.toml",
) -> None:
    """Refuses a source with too many rejected rows.

    Args:
        rejected: the table `rejected_rows`, or its first rows.
        rows: total number of rows, good and rejected.
        count: number of rejected rows, if `rejected` does not hold all of them.
        max_share: largest accepted share of rejected rows.
        listed_in: where the user finds the whole list, for the message.
        settings_file: where the user writes settings, for the message.

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
    ways = "".join(f" {way}" for way in _ways_out(rejected))
    raise SourceError(
        f"{count:,} of {rows:,} rows are bad ({count / max(rows, 1):.1%}), "
        f"{max_share:.1%} are allowed; fix them, or raise max_rejected_share under [data] in "
        f"{settings_file}.{ways}{rest} The first:\n{shown}"
    )


def _ways_out(rejected: pl.DataFrame) -> list[str]:
    """Settings that read rows which look like the rejected ones."""
    reasons = {reason for reason in rejected["reason"].unique() if reason}
    ways = []
    if any(reason.startswith("time is missing or not") for reason in reasons):
        ways.append('Times of another form are read with a line below [data], such as time_format = "%d/%m/%Y".')
    no_numbers = rejected.filter(pl.col("reason").str.contains(_NO_NUMBER))
    if no_numbers["text"].str.contains(r"\d,\d").any():
        ways.append('Decimal commas, as in 4,5, are read with decimal = "," below [data].')
    return ways


def with_point(column: str, dtype: pl.DataType, *, decimal_comma: bool) -> pl.Expr:
    """A column of numbers, whose texts get a decimal point for a decimal comma."""
    numbers = pl.col(column)
    return numbers.str.replace(_DECIMAL_COMMA, "$1.$2") if decimal_comma and dtype == pl.String else numbers


def _rating_rules(scale: tuple[float, float] | None, noun: str) -> dict[str, pl.Expr]:
    rating = pl.col("rating")
    rules = {f"{noun} is not a number": rating.is_null() | rating.is_nan() | rating.is_infinite()}
    if scale is not None:
        rules[f"{noun} outside {scale[0]:g} to {scale[1]:g}"] = ~rating.is_between(*scale)
    return rules


def _time_rules(times: str, now: datetime) -> dict[str, pl.Expr]:
    latest = int((now + timedelta(days=1)).timestamp() * 1e6)
    return {
        f"time is missing or not {expected(times)}": pl.col("timestamp").is_null(),
        "time before 1970": pl.col("timestamp") < 0,
        "time in the future": pl.col("timestamp") > latest,
    }


def identifier(column: str, dtype: pl.DataType) -> pl.Expr:
    """An id as text, as `text_of`; a whole number loses its decimals in text too.

    A column of ids is 1, 2 in one export of pandas, and 1.0, 2.0 in the next one, in which an id is missing.
    """
    text = text_of(column, dtype)
    return text.str.replace(r"^(-?\d+)\.0+$", "$1") if dtype == pl.String else text


def text_of(column: str, dtype: pl.DataType) -> pl.Expr:
    """A value as text; whole floats lose their decimals and NaN becomes null.

    pandas turns a column of integers with gaps into floats.
    """
    value = pl.col(column)
    if not dtype.is_float():
        return value.cast(pl.String)
    value = value.fill_nan(None)
    whole = value.cast(pl.Int64, strict=False)
    return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String))
