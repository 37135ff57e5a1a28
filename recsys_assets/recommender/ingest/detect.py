"""Detects the kind of a file by its content; file names can be wrong.

Reading belongs in the readers (`text`, `records`, `sheets`).
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from recsys_assets.recommender.ingest.archives import ZIP_MAGIC, Source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.text import first_lines, line_of_first_nul

PARQUET, JSON_LINES, DELIMITED = "Parquet", "JSON lines", "delimited text"
JSON_ARRAY, NETFLIX = "a JSON array", "Netflix Prize text"
# The kinds that have a reader, and the name of the format in `SourceTables`.
FORMATS = {DELIMITED: "csv", JSON_LINES: "jsonl", JSON_ARRAY: "json", PARQUET: "parquet", NETFLIX: "netflix"}
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_NETFLIX_HEAD, _NETFLIX_ROW = re.compile(r"\d+:"), re.compile(r"\d+,\d(\.\d)?,\d{4}-\d{2}-\d{2}")
_BY_SUFFIX = {
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON_LINES,
    ".csv": DELIMITED,
    ".tsv": DELIMITED,
    ".zip": "zip",
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "Zstandard",
}
_TAR_MARK = slice(257, 262)
_DOCUMENTS = re.compile(r"(readme|license|licence|copying|citation|changelog|checksums?)\b.*", re.IGNORECASE)
_DOCUMENT_SUFFIXES = (".md", ".rst", ".html", ".htm", ".pdf", ".md5", ".sha256", ".png", ".jpg")
_MAGICS = {
    b"PAR1": PARQUET,
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7z archive",
    b"Rar!": "RAR archive",
    b"%PDF": "PDF",
    b"\xd0\xcf\x11\xe0": "old Excel workbook",
    b"SQLite": "SQLite database",
    b"\x89HDF": "HDF5",
    **dict.fromkeys(ZIP_MAGIC, "zip"),
}


@dataclass(frozen=True)
class Content:
    """Kind of a file: one of the constants of this module, or a word for a kind without a reader.

    `lines` are the first lines of a text file.
    """

    name: str
    kind: str
    lines: tuple[str, ...] = ()

    @property
    def is_readable(self) -> bool:
        """Whether there is a reader for this kind."""
        return self.kind in FORMATS


def is_document(name: str) -> bool:
    """Whether a file is a document for people, such as a README; no reader opens it."""
    path = PurePosixPath(name)
    return bool(_DOCUMENTS.fullmatch(path.name)) or path.suffix.lower() in _DOCUMENT_SUFFIXES


def content(source: Source, name: str, encoding: str | None = None) -> Content:
    """Detects the kind of a file.

    Raises:
        SourceError: the file is empty, or its name contradicts its content.
    """
    head = source.head(name, _TAR_MARK.stop)
    if head[_TAR_MARK] == b"ustar":
        # A tar has no list of its members: each look at one of them would read the whole archive.
        raise SourceError(
            f"{name}: a tar archive, which is not read here. Unpack it into a folder, and add the folder: "
            f"mkdir unpacked && tar -xf {shlex.quote(source.path.name)} -C unpacked"
        )
    kind = next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), "")
    if kind:
        return _as_named(Content(name, kind))
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        # The whole array may be one line.
        return _as_named(Content(name, JSON_ARRAY))
    lines = tuple(first_lines(source, name, encoding))
    kind = _text_kind(lines) or f"binary data (a NUL byte in line {line_of_first_nul(source, name)})"
    return _as_named(Content(name, kind, lines))


def _text_kind(lines: tuple[str, ...]) -> str:
    """The kind of a text; empty for binary data."""
    first = lines[0].lstrip()
    if any("\0" in line for line in lines):
        return ""
    if first.startswith("{"):
        return JSON_LINES
    if re.match(r"<(!doctype|html|\?xml)", first, re.IGNORECASE):
        return "a web page or XML"
    if _NETFLIX_HEAD.fullmatch(first.rstrip()) and any(map(_NETFLIX_ROW.fullmatch, map(str.rstrip, lines[1:]))):
        return NETFLIX
    return DELIMITED


def _as_named(found: Content) -> Content:
    """Refuses content that contradicts the file name; usual causes are a failed download or a wrong export."""
    path = PurePosixPath(found.name)
    is_packed_name = path.suffix.lower() in _PACKED_SUFFIXES
    inner = path.with_suffix("") if is_packed_name and path.stem else path
    expected = _BY_SUFFIX.get(inner.suffix.lower())
    is_alike = {expected, found.kind} in ({JSON_LINES, JSON_ARRAY}, {DELIMITED, NETFLIX})
    if expected and expected != found.kind and not is_alike:
        shown = f", beginning {found.lines[0][:60]!r}" if found.lines else ""
        raise SourceError(
            f"{found.name}: expected {expected} by its name, found {found.kind}{shown}; export it again or rename it."
        )
    return found
