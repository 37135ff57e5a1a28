"""Suggests column names for delimited text without a header, by the values of its first records.

Reading files with the names of `[data] header` belongs in `sheets`.
"""

import re
from collections.abc import Sequence

from recsys_assets.recommender.ingest.names import EVENT_COLUMNS, ITEM_COLUMNS, RATING_COLUMNS

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)")
# A date, or seconds since 1973 or finer.
_TIME = re.compile(r"\d{4}[-/.]\d\d?[-/.]\d\d?.*|\d\d?[-/.]\d\d?[-/.]\d{4}.*|\d{9,}(\.\d*)?")
_TITLE = re.compile(r".+\((18|19|20)\d\d\)")
_YEAR = re.compile(r"(18|19|20)\d\d")
_TO_FILL_IN = "…"
CHOICE = tuple(dict.fromkeys((*RATING_COLUMNS, *EVENT_COLUMNS, *ITEM_COLUMNS)))
"""The names to choose from where the values leave open what a column holds."""


def likely_names(records: Sequence[Sequence[str]], genre_separator: str) -> list[str]:
    """The likely name of each column: standard names, "" without use, "…" for all columns if the values leave it open.

    Args:
        records: values of the first records; the first record has all columns.
        genre_separator: separator of the genres of an item.
    """
    first = records[0]
    names = _of_ratings(first) or _of_items(records, genre_separator)
    return [*names, *[""] * len(first)][: len(first)] if names else [_TO_FILL_IN] * len(first)


def _of_ratings(first: Sequence[str]) -> Sequence[str]:
    """The columns of ratings, or of pairs of users and items; empty if the values do not fit."""
    if len(first) < 3:
        return RATING_COLUMNS if len(first) == 2 and not _TITLE.fullmatch(first[1]) else ()
    # A number beside three others may be a time of another unit.
    has_time = len(first) == 3 or _TIME.fullmatch(first[3]) or all(map(_NUMBER.fullmatch, first[:4]))
    return RATING_COLUMNS if _NUMBER.fullmatch(first[2]) and has_time else ()


def _of_items(records: Sequence[Sequence[str]], genre_separator: str) -> Sequence[str]:
    """The id, then title, year and genres where they stand; empty without a title that ends with a year, or genres."""
    first = records[0]
    if len({record[0] for record in records}) < len(records) or any(map(_TIME.fullmatch, first)):
        return ()
    names = ["item_id", *[""] * (len(first) - 1)]
    # A later record may have more values than the first one.
    values = [(place, value) for record in records for place, value in enumerate(record[: len(first)]) if place]
    lists = {place for place, value in values if genre_separator in value}
    texts = [place for place, value in enumerate(first) if place and value and not _NUMBER.fullmatch(value)]
    with_year = [place for place in texts if _TITLE.fullmatch(first[place])]
    if not (with_year or lists):
        return ()
    found = {
        "title": with_year or [place for place in texts if place not in lists],
        "genres": sorted(lists.difference(with_year)),
        "year": [place for place in range(1, len(first)) if _YEAR.fullmatch(first[place])],
    }
    for name, places in found.items():
        if places:
            names[places[0]] = name
    return names
