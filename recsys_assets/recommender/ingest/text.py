"""Scans text files as lines and fields with Polars: encodings, line endings, separators.

The meaning of fields belongs in the formats, the rules for values in `validation`.
"""

import codecs
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.errors import SourceError

# Columns that every reader adds: line number, text of the line, problem with the shape of the line.
LINE, TEXT, PROBLEM = "__line", "__text", "__problem"
# Lines of these characters only are skipped everywhere; otherwise a blank first line would be taken for the header.
BLANK = " \t"
_OVERFLOW, _FIELDS = "__overflow", "__fields"
_LINE_END = re.compile(r"\r\n|\n|\r")
# Bytes from the beginning of a file that format detection reads.
_HEAD = 1 << 16
# Small enough to stay in the CPU cache during several passes.
_BLOCK = 1 << 16
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Text:
    """A UTF-8 text file with line endings that Polars knows, and flags for characters that need extra steps."""

    path: Path
    has_quotes: bool
    has_spaces: bool
    has_returns: bool


def utf8_text(source: Source, name: str, encoding: str | None = None) -> Text:
    """The file in UTF-8, converted from another encoding if necessary.

    Args:
        source: the source of the file.
        name: name of the file.
        encoding: encoding of the file; by default UTF-8, or UTF-16 with a byte order mark.

    Raises:
        SourceError: the encoding is unknown, or the file has another encoding.
    """
    codec = _codec(source.head(name, 4), encoding)
    if codec != "utf-8":
        path = source.derived(name, f"utf8-{codec}", lambda out: _convert(source, name, codec, out))
        return _inspected(path, name)
    path = source.file(name)
    if _has_only_carriage_returns(path):
        path = source.derived(name, "utf8-lines", lambda out: _convert(source, name, "utf-8", out))
    return _inspected(path, name)


def utf8_or_latin1_text(source: Source, name: str) -> Text:
    """The file in UTF-8, converted from Latin-1 if it is not UTF-8, as in GroupLens's early releases.

    UTF-8 is tried first, because every sequence of bytes is valid Latin-1.
    """
    try:
        return utf8_text(source, name)
    except SourceError:
        return utf8_text(source, name, "latin-1")


def scan_fields(text: Text, separator: str, fields: Sequence[str]) -> pl.LazyFrame:
    """Scans the lines of a file, split at `separator`; blank lines are skipped.

    Returns:
        One string column per field, `LINE` (from 1), `TEXT` (the unchanged line) and `PROBLEM` (null if the number of
        fields is right).
    """
    names = [*fields, _OVERFLOW]
    cut = pl.col(TEXT).str.splitn(separator, len(names)).struct.rename_fields(names)
    wrong = pl.col(_OVERFLOW).is_not_null() | pl.col(fields[-1]).is_null()
    rows = (
        scan_lines(text)
        .with_columns(cut.alias(_FIELDS))
        .unnest(_FIELDS)
        .with_columns(pl.when(wrong).then(pl.lit(f"wrong number of fields, expected {len(fields)}")).alias(PROBLEM))
        .drop(_OVERFLOW)
    )
    return rows.with_columns(pl.col(fields).str.strip_chars()) if text.has_spaces else rows


def scan_quoted_fields(text: Text, delimiter: str, fields: Sequence[str]) -> pl.LazyFrame:
    """Scans a file like `scan_fields`, with optional quotes around fields; a quoted field ends on its own line.

    After a stray quote, a CSV parser would read everything up to the next quote, possibly thousands of ratings, as one
    field. Here only the line with the stray quote is bad.
    """
    mark = f"\\x{{{ord(delimiter):x}}}"
    blank = "" if delimiter == " " else " *"
    field = rf'{blank}("(?:[^"]|"")*"|[^"{mark}]*){blank}'
    pattern = f"^{mark.join([field] * len(fields))}$"
    wrong = pl.col(fields[0]).is_null()
    rule = f"wrong number of fields, expected {len(fields)}, or a stray quote"
    cut = pl.col(TEXT).str.extract_groups(pattern).struct.rename_fields(list(fields))
    rows = scan_lines(text).with_columns(cut.alias(_FIELDS)).unnest(_FIELDS)
    inside = pl.col(fields).str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"', literal=True)
    trimmed = inside.str.strip_chars() if text.has_spaces else inside
    return rows.with_columns(trimmed, pl.when(wrong).then(pl.lit(rule)).alias(PROBLEM))


def quotes_leave_lines(text: Text) -> bool:
    """Whether a quote may be closed on a later line, or is written as MySQL does (`\\"`)."""
    line = pl.col(TEXT)
    is_open = line.str.count_matches('"', literal=True) % 2 == 1
    is_escaped = line.str.contains('\\"', literal=True)
    return bool(scan_lines(text).select((is_open | is_escaped).any()).collect(engine="streaming").item())


def first_lines(source: Source, name: str, encoding: str | None = None, count: int = 100) -> list[str]:
    """The first complete lines that are not blank, decoded leniently, for format detection only.

    Raises:
        SourceError: the file is empty, or its first line is too long for a table.
    """
    head = source.head(name, _HEAD)
    lines = [line for line in _LINE_END.split(_lenient(head, encoding)) if line.strip(f"\ufeff{BLANK}")]
    if not lines:
        raise SourceError(f"{name}: the file is empty; expected one record per line.")
    if len(head) == _HEAD and len(lines) == 1:
        raise SourceError(f"{name}, line 1: longer than {_HEAD} bytes; expected one record per line.")
    # The last line of a full block is usually incomplete.
    whole = lines[:-1] if len(head) == _HEAD else lines
    return [line.lstrip("\ufeff") for line in whole[:count]]


def line_of_first_nul(source: Source, name: str) -> int:
    """Line number of the first NUL byte in what `first_lines` reads; the number of the last line if there is none."""
    before, _, _ = source.head(name, _HEAD).partition(b"\0")
    return len(_LINE_END.split(before.decode("latin-1")))


def open_text(path: Path) -> IO[str]:
    """Opens the file of a `Text` for reading line by line."""
    return path.open(encoding="utf-8", newline=None)


def scan_lines(text: Text) -> pl.LazyFrame:
    """Scans the lines of a file that are not blank: `LINE` and `TEXT`."""
    lines = pl.scan_lines(text.path, name=TEXT, row_index_name=LINE, row_index_offset=1, glob=False)
    return lines.filter(pl.col(TEXT).str.strip_chars(BLANK) != "").with_columns(pl.col(LINE).cast(pl.Int64))


def _lenient(head: bytes, encoding: str | None) -> str:
    codec = _codec(head, encoding)
    try:
        return head.decode(codec)
    except UnicodeDecodeError:
        return head.decode("utf-16", "replace") if codec == "utf-16" else head.decode("latin-1")


def _codec(head: bytes, encoding: str | None) -> str:
    if encoding is None:
        encoding = "utf-16" if head.startswith(_UTF16_MARKS) else "utf-8"
    try:
        codec = codecs.lookup(encoding).name
    except (LookupError, ValueError) as error:
        raise SourceError(f"{encoding!r} is no known encoding; use a name such as utf-8 or latin-1.") from error
    return "utf-8-sig" if codec == "utf-8" and head.startswith(codecs.BOM_UTF8) else codec


def _convert(source: Source, name: str, codec: str, out: IO[bytes]) -> None:
    with source.open(name) as stream:
        reader = io.TextIOWrapper(stream, encoding=codec, newline=None)
        try:
            while block := reader.read(_BLOCK):
                out.write(block.encode())
        except UnicodeError as error:
            raise SourceError(
                f"{name}: cannot be read as {codec} ({error}); save it as UTF-8 or set the encoding it has."
            ) from error
        finally:
            reader.detach()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _has_only_carriage_returns(path: Path) -> bool:
    first = next(_blocks(path), b"")
    return b"\r" in first and b"\n" not in first


def _inspected(path: Path, name: str) -> Text:
    """Checks in one pass that the bytes are UTF-8 text, and looks for quotes, spaces and carriage returns."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    has_quotes = has_spaces = has_returns = False
    before = 0
    for block in _blocks(path):
        if b"\0" in block:
            line = _line_at(path, before + block.index(b"\0"))
            raise SourceError(f"{name}, line {line}: binary zeros; expected text, one record per line.")
        try:
            if not block.isascii() or decoder.getstate()[0]:
                decoder.decode(block)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, _line_at(path, before + error.start)) from error
        has_quotes = has_quotes or b'"' in block
        has_spaces = has_spaces or b" " in block
        has_returns = has_returns or b"\r" in block
        before += len(block)
    if decoder.getstate()[0]:
        raise _not_utf8(name, _line_at(path, before))
    return Text(path, has_quotes, has_spaces, has_returns)


def _line_at(path: Path, place: int) -> int:
    """Line number of a byte; counted only for error messages, because counting takes longer than the inspection."""
    line = 1
    for block in _blocks(path):
        line += block[:place].count(b"\n")
        place -= len(block)
        if place <= 0:
            break
    return line


def _not_utf8(name: str, line: int) -> SourceError:
    return SourceError(f'{name}, line {line}: not UTF-8; save it as UTF-8 or set its encoding (often "latin-1").')
