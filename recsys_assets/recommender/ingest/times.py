"""Reads times: which form the times of a column have, and the times as microseconds since 1970.

Rules for times, such as none in the future, belong in `validation`.
"""

import re
from collections.abc import Sequence

import polars as pl

# The form of a column's times: one of these, or a `strptime` format with `%` from the settings.
SECONDS, NUMBER, ISO, COMPACT, DAY_MONTH, MONTH_DAY, UNDECIDED = (
    "seconds",
    "number",
    "iso",
    "compact",
    "day first",
    "month first",
    "day or month first",
)
_CTIME, _MONTH_NAME, _DAY_NAME = "ctime", "month by name", "day, then month by name"
# From these sizes on, a number is in the next finer unit. 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
MILLISECONDS_FROM, _MICROSECONDS_FROM, _NANOSECONDS_FROM = 1e11, 1e14, 1e17
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CLOCK = r"(?P<clock>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(?:\s?(?P<half>[AaPp])\.?[Mm]\.?)?"
_ZONE = r"(?:\s*(?P<zone>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
_MONTH, _WEEKDAY = r"(?P<name>[A-Za-z]{3})[a-z]{0,6}\.?", r"(?:[A-Za-z]{3,9},?\s+)?"
_REST = rf"(?:[T ,]\s*{_CLOCK})?{_ZONE}$"
_NUMERIC = r"^(?P<{0}>\d{{1,2}})[-/. ](?P<{1}>\d{{1,2}}),?[-/. ](?P<year>\d{{4}})"
_FORMS = {
    ISO: rf"^(?P<year>\d{{4}})[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}}){_REST}",
    COMPACT: r"^(?P<year>(?:19|20)\d{2})(?P<month>0[1-9]|1[0-2])(?P<day>0[1-9]|[12]\d|3[01])(?:\.0)?$",
    DAY_MONTH: _NUMERIC.format("day", "month") + _REST,
    MONTH_DAY: _NUMERIC.format("month", "day") + _REST,
    _CTIME: rf"^{_WEEKDAY}{_MONTH}\s+(?P<day>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?P<year>\d{{4}})$",
    _MONTH_NAME: rf"^{_WEEKDAY}{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}}){_REST}",
    _DAY_NAME: rf"^{_WEEKDAY}(?P<day>\d{{1,2}})[ -]{_MONTH},?[ -](?P<year>\d{{4}}){_REST}",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# What the values of a column are compared with in messages.
_EXPECTED = {
    SECONDS: "a whole number of seconds",
    NUMBER: "a number",
    ISO: "ISO 8601",
    COMPACT: "like 20191231",
    DAY_MONTH: "like 31/12/2019",
    MONTH_DAY: "like 12/31/2019",
    _CTIME: "like Tue Dec 31 10:00:00 -0700 2019",
    _MONTH_NAME: "like Dec 31, 2019",
    _DAY_NAME: "like 31 Dec 2019",
}


def form_of(sample: Sequence[str]) -> str:
    """The form of times, by majority of the first values; `UNDECIDED` where day and month look alike."""
    values = [value.strip() for value in sample]
    shares = {form: sum(re.match(pattern, value) is not None for value in values) for form, pattern in _FORMS.items()}
    numbers = sum(_NUMBER.fullmatch(value) is not None for value in values)
    form = max(shares, key=lambda name: shares[name])
    # Days such as 20191231 are numbers too: as seconds they would all lie in August 1970.
    if 2 * numbers >= len(values) and 2 * shares[COMPACT] < len(values):
        return NUMBER
    if not shares[form]:
        return ISO
    return UNDECIDED if form == DAY_MONTH else form


def decided(values: pl.LazyFrame) -> tuple[str | None, str]:
    """Whether days or months come first in a whole column of times, by the numbers above 12.

    Args:
        values: one text column, `timestamp`.

    Returns:
        The form, None if no number is above 12 or some say this and some that; and one of the values.
    """
    parts = pl.col("timestamp").str.strip_chars().str.extract_groups(_FORMS[DAY_MONTH]).struct
    above = [parts.field(name).cast(pl.Int64, strict=False) > 12 for name in ("day", "month")]
    facts = values.select(
        above[0].any().alias("day first"),
        above[1].any().alias("month first"),
        pl.col("timestamp").filter(parts.field("year").is_not_null()).first().alias("example"),
    )
    day_first, month_first, example = facts.collect(engine="streaming").row(0)
    if bool(day_first) == bool(month_first):
        return None, str(example)
    return (DAY_MONTH if day_first else MONTH_DAY), str(example)


def formats_for(example: str) -> tuple[str, str]:
    """The `strptime` formats of a time such as 05/04/2019 10:00: day first, and month first."""
    dated = re.sub(r"^\s*\d{1,2}(\D)\d{1,2}(\D+)\d{4}", r"%A\1%B\2%Y", example)
    clock = re.sub(r"\d{1,2}:\d{2}(:\d{2})?", lambda found: "%H:%M:%S" if found[1] else "%H:%M", dated)
    whole = re.sub(
        r"[AaPp]\.?[Mm]\.?$", "%p", clock.replace("%H", "%I") if re.search(r"[AaPp]\.?[Mm]", clock) else clock
    )
    return whole.replace("%A", "%d").replace("%B", "%m"), whole.replace("%A", "%m").replace("%B", "%d")


def expected(form: str) -> str:
    """What a time of this form is, for messages: "time is missing or not …"."""
    return _EXPECTED.get(form, form)


def microseconds(dtype: pl.DataType, form: str) -> pl.Expr:
    """The column `timestamp` as microseconds since 1970; null if a value is not a time.

    Args:
        dtype: type of the column; times and dates are read by their type, whatever the form.
        form: form of times that are text or numbers.
    """
    value = pl.col("timestamp")
    if isinstance(dtype, pl.Datetime):
        utc = value.dt.convert_time_zone("UTC") if dtype.time_zone else value.dt.replace_time_zone("UTC")
        return utc.dt.epoch("us")
    if dtype == pl.Date:
        return value.cast(pl.Datetime("us")).dt.epoch("us")
    if form == SECONDS:
        seconds = value.cast(pl.Int64, strict=False)
        # Clipping prevents an overflow; the rules for times reject such values anyway.
        return seconds.clip(-MILLISECONDS_FROM, MILLISECONDS_FROM) * 1_000_000
    if form == NUMBER:
        return _of_numbers(value.cast(pl.Float64, strict=False))
    text = value.cast(pl.String).str.strip_chars()
    if form in _FORMS:
        return _of_parts(text, _FORMS[form])
    # Python's %f takes what chrono takes as %.f after a dot.
    return text.str.to_datetime(form.replace(".%f", "%.f"), time_unit="us", strict=False).dt.epoch("us")


def _of_numbers(number: pl.Expr) -> pl.Expr:
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


def _of_parts(text: pl.Expr, pattern: str) -> pl.Expr:
    """Times by the named groups of a pattern; a time without an offset is UTC."""
    groups = text.str.extract_groups(pattern).struct
    present = re.compile(pattern).groupindex

    def part(name: str, default: str) -> pl.Expr:
        return (
            pl.coalesce(groups.field(name).replace("", None), pl.lit(default)) if name in present else pl.lit(default)
        )

    if "name" in present:
        numbers = {month: f"{number:02}" for number, month in enumerate(_MONTHS, 1)}
        month = groups.field("name").str.to_lowercase().replace_strict(numbers, default=None, return_dtype=pl.String)
    else:
        month = groups.field("month")
    clock = part("clock", "00:00")
    clock = pl.when(clock.str.count_matches(":", literal=True) == 1).then(clock + ":00").otherwise(clock)
    zone = part("zone", "+0000").str.replace("^(?:[zZ]|UTC|GMT)$", "+0000").str.replace(r"^([+-]\d{2})$", "${1}00")
    day = pl.concat_str([groups.field("year"), pl.lit("-"), month, pl.lit("-"), groups.field("day"), pl.lit(" ")])
    full = pl.concat_str([day, clock, zone])
    read = full.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="us", strict=False).dt.epoch("us")
    if "half" not in present:
        return read
    half = part("half", "").str.to_lowercase()
    twelve = clock.str.starts_with("12:")
    hours = pl.when((half == "p") & ~twelve).then(12).when((half == "a") & twelve).then(-12).otherwise(0)
    return read + hours * 3_600_000_000
