"""Splits CSV text with quotes into records, line by line, for files that Polars cannot scan in place.

Storing the records belongs in `records`.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from recsys_assets.recommender.ingest.text import BLANK, Text, open_text

# Line number, text of the line, problem, one value per field.
Record = tuple[int, str, str | None, Sequence[str | None]]
# A record of more lines or characters is taken for a quote that is never closed.
_MOST_LINES, _MOST_CHARACTERS = 1_000, 100_000


def csv_records(text: Text, delimiter: str, width: int, *, is_strict: bool) -> Iterator[Record]:
    """The records of a file in order; a record without the right number of fields has a problem and no values.

    Args:
        text: the file.
        delimiter: delimiter of the fields.
        width: number of fields.
        is_strict: whether a quote inside of an unquoted field is a problem.
    """
    split = _strict(delimiter) if is_strict else _lenient(delimiter)
    with open_text(text.path) as stream:
        ahead: deque[str] = deque()
        line = 1
        while first := ahead.popleft() if ahead else next(stream, ""):
            lines = [first]
            values = split(first)
            if len(values) != width and '"' in first:
                values = _over_lines(lines, ahead, stream, split, width) or values
            shown = "".join(lines).rstrip("\n")
            if shown.strip(BLANK):
                yield _record(line, shown, values, width)
            line += len(lines)


def _record(line: int, shown: str, values: Sequence[str], width: int) -> Record:
    if len(values) == width:
        return line, shown, None, [value.strip() for value in values]
    return line, shown, f"wrong number of fields, expected {width}, or a stray quote", [None] * width


def _over_lines(
    lines: list[str],
    ahead: deque[str],
    stream: Iterator[str],
    split: Callable[[str], list[str]],
    width: int,
) -> list[str] | None:
    """The fields of a record that goes on in the next lines, which are appended to `lines`; None if it does not."""
    if not split(lines[0]):
        ahead.extend(islice(stream, max(_MOST_LINES - len(ahead), 0)))
    joined = lines[0]
    for count, following in enumerate(ahead, 1):
        joined += following
        if len(joined) > _MOST_CHARACTERS:
            return None
        # Only a line with a quote can close the field.
        if '"' in following and len(values := split(joined)) == width:
            lines.extend(ahead.popleft() for _ in range(count))
            return values
    return None


def _lenient(delimiter: str) -> Callable[[str], list[str]]:
    """Splits a record as the standard library does; nothing if a quote is open or misplaced."""

    def split(record: str) -> list[str]:
        if '"' not in record:
            return record.rstrip("\n").split(delimiter)
        for escape in (None, "\\") if '\\"' in record else (None,):
            rows = csv.reader(
                # Unlike str.splitlines, this takes no U+0085 or U+2028 in a title for the end of a line.
                io.StringIO(record),
                delimiter=delimiter,
                escapechar=escape,
                skipinitialspace=True,
                strict=True,
            )
            try:
                found = list(rows)
            except csv.Error:
                continue
            if len(found) == 1:
                return found[0]
        return []

    return split


def _strict(delimiter: str) -> Callable[[str], list[str]]:
    """Splits a record whose quotes enclose whole fields; nothing for any other record."""
    mark = re.escape(delimiter)
    plain = rf'[ ]*(?:"((?:[^"]|"")*)"|([^"{mark}]*?))[ ]*'
    escaped = rf'[ ]*(?:"((?:[^"\\]|""|\\.)*)"|([^"{mark}]*?))[ ]*'

    def fields(record: str, pattern: re.Pattern[str]) -> list[str]:
        values, place = [], 0
        while found := pattern.match(record, place):
            values.append(found[2] if found[1] is None else found[1].replace('""', '"'))
            if found.end() == len(record):
                return values
            place = found.end() + 1
        return []

    patterns = [re.compile(rf"{field}(?={mark}|\Z)", re.DOTALL) for field in (plain, escaped)]

    def split(record: str) -> list[str]:
        whole = record.rstrip("\n")
        if '"' not in whole:
            return whole.split(delimiter)
        return fields(whole, patterns[0]) or [value.replace('\\"', '"') for value in fields(whole, patterns[1])]

    return split
