"""Searches every file of a home for forgotten users, including packed and compressed files.

Tables are searched by their columns of user ids. Everything else is searched for the id as a whole word. An id that is
too short to be told from other numbers and words is searched in columns of user ids only; other files that could hold
it must then be newer than the exclusion list. docs/how-to/erase-a-user.md gives the reasons. Erasing is in `erase`.
"""

import bz2
import gzip
import lzma
import os
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from recsys_assets.home.layout import Home
from recsys_assets.recommender.ingest.user_words import NEIGHBOURS, in_bytes, names_one, spellings
from recsys_assets.recommender.ingest.validation import identifier

# Shorter numbers are parts of dates, counts and sizes; shorter words are common words. Every log and page has them.
_SHORTEST_NUMBER, _SHORTEST_WORD = 8, 4
_USER_ID = "user_id"
NAMED = "names a forgotten user"
_CHUNK = 1 << 24
# Bytes of the zeros of 7.0, as pandas writes them.
_LONGEST_DECIMALS = 16
_ROWS = 1000
_PARQUET, _ZIP, _GZIP, _BZIP = b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"BZh"
_XZ, _ZSTANDARD = b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_NUMPY, _SQLITE = b"\x93NUMPY", b"SQLite format 3\x00"
# Formats that this module cannot unpack, by their first bytes.
_SEALED = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR", b"\x04\x22\x4d\x18": "LZ4"}
_NUMBERS = "biufc"
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    sqlite3.Error,
    pl.exceptions.PolarsError,
)


class SealedError(ValueError):
    """The content of a file cannot be searched."""


@dataclass(frozen=True)
class Hit:
    """A file that names a forgotten user, or that cannot be searched; `what` says which in words."""

    path: Path
    what: str


class _Zstandard(RawIOBase):
    """The unpacked bytes of a file that is packed with Zstandard. A seek goes to their beginning and nowhere else."""

    def __init__(self, packed: IO[bytes]) -> None:
        # An unpacker that is thrown away closes the packed file.
        self._packed, self._unpackers = packed, list[pa.CompressedInputStream]()
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """The next bytes, all if the size is negative."""
        return bytes(self._unpackers[-1].read(None if size < 0 else size))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go back to the beginning."""
        if offset or whence:
            raise SealedError("it is an archive inside of Zstandard; unpack it")
        self._packed.seek(0)
        self._unpackers.append(pa.CompressedInputStream(pa.PythonFile(self._packed, mode="r"), "zstd"))
        return 0


class ByteSearch:
    """A search for user ids.

    Args:
        ids: all ids to search; each is searched in columns of user ids.
        words: the ids that are also searched everywhere else, as words.
    """

    def __init__(self, ids: Collection[str], words: Iterable[str]) -> None:
        self._ids, self._words = sorted(ids), sorted(words)

    @cached_property
    def _texts(self) -> list[str]:
        return sorted({text for word in self._words for text in spellings(word)})

    @cached_property
    def _spellings(self) -> dict[bytes, str]:
        """The words as bytes with their encoding, the longest first: as in text, JSON, HTML and folder names."""
        latin = {word for word in self._words if all(ord(letter) < 256 for letter in word)}
        encoded = {word.encode("latin-1"): "latin-1" for word in latin}
        encoded |= {text.encode(form): form for text in self._texts for form in ("utf-16-le", "utf-16-be", "utf-8")}
        return {word: encoded[word] for word in sorted(encoded, key=len, reverse=True)}

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        return in_bytes(self._spellings.items())

    def file(self, path: Path, named: Path) -> str | None:
        """Why a file is a hit, by its name or its content; None if it names no forgotten user."""
        names = "\n".join(name for part in named.parts for name in (part, Path(part).stem))
        try:
            with path.open("rb") as stream:
                is_named = self.names_one(os.fsencode(names)) or self._stream(stream, path)
        except FileNotFoundError:
            # The file was a log or a lock of a process that has just ended.
            return None
        except _DAMAGED as error:
            return f"cannot be searched ({error})"
        return NAMED if is_named else None

    def names_one(self, content: bytes) -> bool:
        """Whether bytes contain one of the words."""
        return any(True for _ in self._matches(content))

    def values(self, stored: Iterable[object]) -> bool:
        """Whether one of the values of a database contains one of the words. Packed values are unpacked."""
        return self.names_one(b"\n".join(map(_unpacked, stored)))

    def _matches(self, content: bytes) -> Iterator[re.Match[bytes]]:
        if not self._words:
            return
        # This filter searches for all spellings at once. The pattern alone would try them in turn and take minutes.
        text = pl.Series([content.decode("latin-1")])
        if text.str.contains_any([spelling.decode("latin-1") for spelling in self._spellings]).item():
            yield from self._pattern.finditer(content)

    def _stream(self, stream: IO[bytes], path: Path | None = None) -> bool:
        head = stream.read(16)
        stream.seek(0)
        for magic, kind in _SEALED.items():
            if head.startswith(magic):
                raise SealedError(f"it is packed with {kind}; unpack or delete it")
        if head.startswith(_PARQUET):
            return self._table(pl.scan_parquet(path or BytesIO(stream.read())))
        if head.startswith(_ZIP):
            return self._zip(stream)
        if head.startswith(_GZIP):
            return self._stream(cast("IO[bytes]", gzip.open(stream)))
        if head.startswith(_BZIP):
            return self._stream(bz2.BZ2File(stream))
        if head.startswith(_XZ):
            return self._stream(lzma.LZMAFile(stream))
        if head.startswith(_ZSTANDARD):
            return self._stream(cast("IO[bytes]", _Zstandard(stream)))
        if head.startswith(_NUMPY) and _dtype(stream).kind in _NUMBERS:
            # Arrays of numbers are indexed by dense ids and never contain user ids of the source.
            return False
        if head.startswith(_SQLITE) and path and self._database(path):
            return True
        stream.seek(0)
        return self._bytes(stream)

    def _bytes(self, stream: IO[bytes]) -> bool:
        """Whether a stream contains one of the words. The stream is read in overlapping blocks."""
        if not self._words:
            return False
        overlap = 2 * NEIGHBOURS + _LONGEST_DECIMALS + max(map(len, self._spellings))
        block, is_first = stream.read(_CHUNK), True
        while block:
            following = stream.read(_CHUNK)
            # A word at the edge of a block lacks its neighbours. The next block contains it with its neighbours.
            low, high = 0 if is_first else NEIGHBOURS, len(block) - (NEIGHBOURS if following else 0)
            if any(low <= match.start() and match.end() <= high for match in self._matches(block)):
                return True
            block, is_first = block[-overlap:] + following if following else b"", False
        return False

    def _zip(self, stream: IO[bytes]) -> bool:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                if self.names_one(member.filename.encode()):
                    return True
                if not member.is_dir():
                    with archive.open(member) as inside:
                        if self._stream(inside):
                            return True
        return False

    def _table(self, rows: pl.LazyFrame) -> bool:
        """Whether a table names a forgotten user: as a value of its id column, or as a word of another text column."""
        schema = rows.collect_schema()
        if _USER_ID in schema:
            is_one = identifier(_USER_ID, schema[_USER_ID]).is_in(self._ids)
            if rows.select(is_one.any()).collect().item():
                return True
        if not self._words:
            return False
        texts = [
            (pl.col(name).explode() if isinstance(dtype, pl.List) else pl.col(name)).cast(pl.String)
            for name, dtype in schema.items()
            if name != _USER_ID and (dtype.inner if isinstance(dtype, pl.List) else dtype) in _TEXTS
        ]
        for text in texts:
            alike = rows.select(text.alias("text")).filter(pl.col("text").str.contains_any(self._texts))
            if alike.select(names_one(pl.col("text"), self._words).any()).collect(engine="streaming").item():
                return True
        return False

    def _database(self, path: Path) -> bool:
        """Whether a value in a SQLite database contains one of the words.

        A search of the file alone would miss long texts, which SQLite stores in pieces, and compressed values.
        """
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                rows = database.execute(f'SELECT * FROM "{table}"')
                while part := rows.fetchmany(_ROWS):
                    if self.values(value for row in part for value in row):
                        return True
        return False


_TEXTS = (pl.String, pl.Categorical)


def _dtype(stream: IO[bytes]) -> np.dtype[Any]:
    of_version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if of_version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)[2]


def is_distinctive(user_id: str) -> bool:
    """Whether an id is so long that, as a word in any file, it can only mean the user."""
    return len(user_id) >= (_SHORTEST_NUMBER if user_id.isdigit() else _SHORTEST_WORD)


def catalogue_words(tables: Collection[pl.LazyFrame]) -> set[str]:
    """All words in the text columns of tables, except user ids. A user id among these words is ambiguous."""
    words = set[str]()
    for rows in tables:
        for name, dtype in rows.collect_schema().items():
            if name == _USER_ID or dtype not in (pl.String, pl.List(pl.String)):
                continue
            text = pl.col(name).explode() if isinstance(dtype, pl.List) else pl.col(name)
            for value in rows.select(text).unique().collect()[name].drop_nulls():
                words.update((value, *re.findall(r"[\w@.+-]+", value), *re.findall(r"\w+", value)))
    return words


def files_of(home: Home) -> Iterator[Path]:
    """Every file of a home except the exclusion list. Links are not followed, except for `landing/` itself."""
    roots = [home.path, *([home.landing.resolve()] if home.landing.is_symlink() else [])]
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in sorted(names):
                path = Path(folder) / name
                if path != home.forgotten and path.is_file() and not path.is_symlink():
                    yield path


def _unpacked(value: object) -> bytes:
    """A value of a database as bytes. Values that Dagster has compressed are unpacked, too."""
    if not isinstance(value, bytes):
        return str(value).encode("utf-8", "surrogatepass")
    try:
        return value + zlib.decompress(value)
    except zlib.error:
        return value
