"""Validates users and items of all formats: attributes and their types, titles, years and genres.

Rules for ratings belong in `validation`.
"""

import re
from collections.abc import Collection, Iterable, Sequence

import polars as pl

from recsys_assets.recommender.data.characters import holds_controls, without_controls
from recsys_assets.recommender.ingest.validation import ADDED, CLEANED, id_rules, identifier, judged, text_of

# Postal codes are categories, even if they consist of digits.
_POSTAL_CODE = re.compile(r"zip|post(al)?_?code|^plz$")
_LEADING_ZERO = r"^[+-]?0\d"
# NumPy writes unknown numbers as NaN; here they are null.
_NAN_AS_GAP = pl.selectors.float().fill_nan(None)
NO_GENRES = "(no genres listed)"
NO_USERS = pl.LazyFrame(schema={"user_id": pl.String})
NO_ITEMS = pl.LazyFrame(
    schema={"item_id": pl.String, "title": pl.String, "year": pl.Int32, "genres": pl.List(pl.String)}
)
# "Toy Story (1995)", "Fawlty Towers (1975-1979)", "Land Before Time III (1995) (V)"
_YEAR = r"\s*\((\d{4})(?:[-–]\d{0,4})?\)(\s*\([A-Z]+\))?\s*$"


def judge_users(rows: pl.LazyFrame, file: str, *, numbers: Collection[str], texts: Collection[str]) -> pl.LazyFrame:
    """Typed users with the reason for their rejection, null for good rows.

    Args:
        rows: `user_id`, attributes and the columns of the readers.
        file: name of the file inside the source.
        numbers: attributes whose values must be numbers or empty.
        texts: attributes that are categories.
    """
    values = {name: pl.col(name).cast(pl.Float64, strict=False) for name in numbers}
    rules = id_rules("user") | {
        f"{name} is not a number": is_filled(name) & ~value.is_finite().fill_null(False)
        for name, value in values.items()
    }
    types = rows.collect_schema()
    given = {name: text_of(name, types[name]) for name in texts}
    kept = [without_controls(text).replace("", None).alias(name) for name, text in given.items()]
    typed = [value.alias(name) for name, value in values.items()]
    attributes = [name for name in types.names() if name in {*numbers, *texts}]
    identified = rows.with_columns(_NAN_AS_GAP).with_columns(identifier("user_id", types["user_id"]))
    return (
        judged(identified, file, rules)
        .with_columns(_cleaned(map(holds_controls, given.values())))
        .with_columns(*typed, *kept)
        .select("user_id", *attributes, CLEANED, *ADDED)
    )


def judge_items(
    rows: pl.LazyFrame, file: str, genre_separator: str = "|", attributes: Sequence[pl.Expr] = ()
) -> pl.LazyFrame:
    """Typed items with the reason for their rejection, null for good rows.

    Args:
        rows: `item_id`, any of `title`, `year`, `genres`, and the columns of the readers. Without `year`, the year is
            extracted from titles such as "Toy Story (1995)".
        file: name of the file inside the source.
        genre_separator: separator of genres in text columns.
        attributes: further columns, typed; no value of them makes a row bad.
    """
    types = rows.collect_schema()
    given = pl.col("title").cast(pl.String) if "title" in types else pl.lit(None, pl.String)
    title, genres = without_controls(given), _genres(types, genre_separator)
    rules = id_rules("item")
    if "year" in types:
        number = pl.col("year").cast(pl.Float64, strict=False)
        year = number.cast(pl.Int32, strict=False)
        rules["year is not a whole number"] = is_filled("year") & (year != number).fill_null(True)
    else:
        year = title.str.extract(_YEAR, 1).cast(pl.Int32)
        title = title.str.replace(_YEAR, "$2").str.strip_chars()
    identified = rows.with_columns(_NAN_AS_GAP).with_columns(identifier("item_id", types["item_id"]))
    return judged(identified, file, rules).select(
        "item_id",
        title.replace("", None).alias("title"),
        year.alias("year"),
        genres.list.eval(without_controls(pl.element())).list.filter(pl.element() != "").alias("genres"),
        *attributes,
        _cleaned([holds_controls(given), genres.list.eval(holds_controls(pl.element())).list.any().fill_null(False)]),
        *ADDED,
    )


def _cleaned(texts: Iterable[pl.Expr]) -> pl.Expr:
    """Number of cleaned texts in a row; each expression is true where its text needs cleaning."""
    return pl.sum_horizontal(pl.lit(0, pl.Int32), *(text.cast(pl.Int32) for text in texts)).alias(CLEANED)


def is_filled(column: str) -> pl.Expr:
    """True where a value is neither null nor empty."""
    return (pl.col(column).cast(pl.String) != "").fill_null(False)


def _genres(types: pl.Schema, separator: str) -> pl.Expr:
    if "genres" not in types:
        return pl.lit(None, pl.List(pl.String))
    genres = pl.col("genres")
    if not isinstance(types["genres"], pl.List):
        genres = genres.cast(pl.String).str.split(separator)
    return genres.list.eval(pl.element().cast(pl.String).str.strip_chars()).list.filter(
        ~pl.element().is_in(["", NO_GENRES])
    )


def numeric_attributes(rows: pl.LazyFrame, names: Sequence[str]) -> set[str]:
    """The text attributes that are numeric: every value is a number, and none is a code with a leading zero."""

    def is_numeric(name: str) -> pl.Expr:
        values = pl.col(name).filter(is_filled(name))
        are_numbers = values.cast(pl.Float64, strict=False).is_finite().fill_null(False).all()
        return are_numbers & ~values.str.contains(_LEADING_ZERO).any() & (values.len() > 0)

    candidates = [name for name in names if not _POSTAL_CODE.search(name)]
    if not candidates:
        return set()
    found = rows.select(is_numeric(name).alias(name) for name in candidates).collect(engine="streaming")
    return {name for name, numeric in found.row(0, named=True).items() if numeric}
