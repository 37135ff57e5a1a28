"""Landed files: signature (for changes), completeness and content fingerprint of each batch in `landing/`.

This module only looks at files. `orchestration.landing_watch` decides which batches to ingest.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from recsys_assets.home.layout import Home
from recsys_assets.recommender.ingest.archives import files_in
from recsys_assets.recommender.ingest.errors import SourceError

_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Landed:
    """One landed batch.

    Attributes:
        name: name of the batch.
        path: its file or folder.
        signature: hash of file names, sizes and modification times. It changes with every change of a file, and reads
            no content.
        fault: why the batch may not be opened; empty if it may.
    """

    name: str
    path: Path
    signature: str
    fault: str = ""

    @property
    def files(self) -> list[Path]:
        """The files of the batch, in a fixed order."""
        return files_in(self.path)

    @property
    def is_complete(self) -> bool:
        """Whether the batch has a file, and no zip or Parquet file is truncated."""
        return bool(self.files) and all(map(_has_its_end, self.files))


def landed(home: Home) -> list[Landed]:
    """The landed batches, ordered by name.

    A batch that vanishes or cannot be read during the call is left out.
    """
    found = []
    for name in home.landed_batches():
        path = home.landing / name
        try:
            found.append(Landed(name, path, _signature(home.batch(name))))
        except (SourceError, FileNotFoundError) as error:
            found.append(Landed(name, path, "", str(error)))
        except OSError:
            continue
    return found


def same_content(home: Home, source: Path) -> list[str]:
    """Names of the landed batches that have the content of a source. The source itself is left out.

    Only batches of the size of the source are read.

    Raises:
        SourceError: a file of the source may not be opened.
    """
    size = _size(source)
    others = [each for each in landed(home) if not each.fault and each.path.resolve() != source.resolve()]
    alike = [each for each in others if _size(each.path) == size]
    own = fingerprint(source) if alike else ""
    return [each.name for each in alike if fingerprint(each.path) == own]


def fingerprint(path: Path) -> str:
    """The content fingerprint: SHA-256 over the content of a file, or over names and contents of a folder's files.

    Modification times and the path itself do not count.

    Raises:
        SourceError: a file may not be opened.
    """
    hashed = hashlib.sha256()
    for file in files_in(path):
        inside = file.relative_to(path).as_posix() if path.is_dir() else ""
        with file.open("rb") as stream:
            hashed.update(f"{inside}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return hashed.hexdigest()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in files_in(path))


def _signature(path: Path) -> str:
    stats = [(str(file.relative_to(path)), file.stat()) for file in files_in(path)]
    lines = [f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}" for name, stat in stats]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _has_its_end(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".zip":
        return zipfile.is_zipfile(file)
    if suffix in (".parquet", ".pq"):
        with file.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(stream.tell() - len(_PARQUET_MAGIC), 0))
            return stream.read() == _PARQUET_MAGIC
    return True
