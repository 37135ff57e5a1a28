"""What lies in landing/: whether it has stopped growing, whether it is complete, and a fingerprint of its content.

Looks at files only. Which batches are known, and what to run for them, is decided in `sensors`.
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
    """One entry of landing/.

    Attributes:
        name: of the batch.
        path: a file or a folder.
        signature: changes whenever a file of it is added, removed, written or resized; cheap.
        fault: why it may not even be opened, if it may not.
    """

    name: str
    path: Path
    signature: str
    fault: str = ""

    @property
    def files(self) -> list[Path]:
        """Its files, in a fixed order."""
        return files_in(self.path)

    @property
    def is_complete(self) -> bool:
        """Whether there is something in it, and no archive or Parquet file lacks its end."""
        return bool(self.files) and all(map(_has_its_end, self.files))


def landed(home: Home) -> list[Landed]:
    """The batches that lie in landing/, by name.

    An entry that vanishes or cannot be read while it is looked at is left out, and looked at again the next time.
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


def fingerprint(path: Path) -> str:
    """SHA-256 over the names and contents of a file or of all files of a folder; times and places do not count.

    Raises:
        SourceError: something in it may not be opened.
    """
    hashed = hashlib.sha256()
    for file in files_in(path):
        inside = file.relative_to(path).as_posix() if path.is_dir() else ""
        with file.open("rb") as stream:
            hashed.update(f"{inside}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return hashed.hexdigest()


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
