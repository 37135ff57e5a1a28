"""A source as a set of named files: a folder, a zip or a single file, gzipped or not.

This module lists files, refuses unsafe archives, reads first bytes, and unpacks files so that Polars can scan them. The
meaning of the files belongs in the formats (`movielens`, `generic`).
"""

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import pyarrow as pa

from recsys_assets.recommender.ingest.errors import SourceError

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC = b"\x1f\x8b"
MAX_UNPACKED_BYTES = 8 * 2**30
# Netflix's ratings are 17,770 files.
_MAX_FILES = 100_000
_BLOCK = 1 << 22
_DAMAGED = (
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
# Packed single files by their first bytes.
_UNPACKERS: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    GZIP_MAGIC: lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda stream: pa.CompressedInputStream(pa.PythonFile(stream), "zstd"),
}
_PACKED_HEAD = max(map(len, _UNPACKERS))


@dataclass(frozen=True)
class Source:
    """The files of a source.

    Attributes:
        path: a folder, a zip or a single file.
        scratch: folder for unpacked and converted copies; each copy is made once, at its first use.
        max_unpacked_bytes: largest unpacked size of a source, in bytes.
    """

    path: Path
    scratch: Path
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files as sorted paths inside the source, with `/`; names that begin with `.` or `_` are left out.

        Raises:
            SourceError: the path does not exist, holds no file, or is an archive that is not safe to unpack.
        """
        if not self.path.exists():
            raise SourceError(f"{self.path}: no such file or folder; check the path.")
        if self.path.is_file() and not self._is_zip:
            return self.all_names
        names = tuple(name for name in self.all_names if not _hidden(name))
        if not names:
            raise SourceError(f"{self.path}: there are no files in it; expected a file of ratings.")
        if len(names) > _MAX_FILES:
            raise SourceError(f"{self.path}: {len(names)} files in it, {_MAX_FILES} are allowed; merge or split it.")
        return names

    @cached_property
    def all_names(self) -> tuple[str, ...]:
        """Like `names`, with hidden files."""
        files = files_in(self.path)
        if self._is_zip:
            return tuple(sorted(self._zip_names()))
        is_file = self.path.is_file()
        return (self.path.name,) if is_file else tuple(sorted(file.relative_to(self.path).as_posix() for file in files))

    def head(self, name: str, size: int = 1 << 16) -> bytes:
        """The first `size` bytes of a file, unpacked."""
        with self.open(name) as stream, self._refusing_damage(name):
            return stream.read(size)

    def file(self, name: str) -> Path:
        """Path of the unpacked file on disk; the first call unpacks it."""
        if not self._is_zip and not self._unpacker(name):
            return self._plain(name)
        return self.derived(name, "unpacked", lambda out: self._unpack(name, out))

    def derived(self, name: str, kind: str, write: Callable[[IO[bytes]], None]) -> Path:
        """Path of a file in scratch that is derived from `name`; the first call writes it with `write`.

        Names inside an archive never become paths on disk, so no name can escape from the folder.
        """
        digest = hashlib.sha256(f"{self._identity(name)}|{name}|{kind}".encode("utf-8", "surrogatepass")).hexdigest()
        target = self.scratch / digest[:32]
        if not target.exists():
            self.scratch.mkdir(parents=True, exist_ok=True)
            with atomic_file(target) as out:
                write(out)
        return target

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The unpacked bytes of a file, as a stream."""
        unpacker = self._unpacker(name)
        with self._packed(name) as stream:
            if unpacker is None:
                yield stream
                return
            with unpacker(stream) as unpacked:
                yield unpacked

    @contextmanager
    def _packed(self, name: str) -> Iterator[IO[bytes]]:
        if not self._is_zip:
            with self._plain(name).open("rb") as stream:
                yield stream
            return
        with self._refusing_damage(name), self._archive.open(name) as stream:
            yield stream

    @contextmanager
    def _refusing_damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except (*_DAMAGED, OSError) as error:
            # EINVAL: in a damaged zip, a member can start at a negative offset, which the system refuses to seek to.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            where = f"{self.path.name}, {name} inside" if self._is_zip else name
            raise SourceError(f"{where}: damaged or cut off ({error}); get or export it again.") from error

    def _unpack(self, name: str, out: IO[bytes]) -> None:
        size = 0
        with self.open(name) as stream, self._refusing_damage(name):
            while block := stream.read(_BLOCK):
                size += len(block)
                self._check_size(size, name)
                out.write(block)

    def _check_size(self, size: int, name: str) -> None:
        if size > self.max_unpacked_bytes:
            raise SourceError(
                f"{name}: unpacks to more than {self.max_unpacked_bytes / 2**30:g} GiB, the limit for one source; "
                "raise the limit (max_unpacked_bytes) if the source is to be trusted."
            )

    def _plain(self, name: str) -> Path:
        return self.path / name if self.path.is_dir() else self.path

    def _identity(self, name: str) -> str:
        """Changes when the file or archive is replaced, so that copies of the old one are not reused."""
        path = self.path if self._is_zip else self._plain(name)
        stat = path.stat()
        return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"

    @cached_property
    def _is_zip(self) -> bool:
        return self.path.is_file() and _starts_with(self.path, *ZIP_MAGIC)

    def _unpacker(self, name: str) -> Callable[[IO[bytes]], Any] | None:
        with self._packed(name) as stream, self._refusing_damage(name):
            head = stream.read(_PACKED_HEAD)
        return next((unpacker for magic, unpacker in _UNPACKERS.items() if head.startswith(magic)), None)

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        # Opened once, because every opening reads the list of members, which can have thousands of entries.
        try:
            return zipfile.ZipFile(self.path)
        except (*_DAMAGED, ValueError, OSError) as error:
            raise SourceError(
                f"{self.path.name}: the zip is truncated or damaged ({error}); get the archive again."
            ) from error

    def _zip_names(self) -> list[str]:
        members = [info for info in self._archive.infolist() if not info.filename.endswith("/")]
        self._check_members(members)
        return [info.filename for info in members]

    def _check_members(self, members: list[zipfile.ZipInfo]) -> None:
        for info in members:
            name = info.filename
            if info.flag_bits & 0x1:
                raise SourceError(f"{self.path.name}, {name} inside: encrypted; unpack it and add the folder.")
            if not name:
                raise SourceError(f"{self.path.name}: the zip is damaged, a file in it has no name; get it again.")
            if _leaves(name):
                raise SourceError(
                    f"{self.path.name}: the path {name!r} leads out of the archive; do not trust this archive."
                )
            if stat.S_ISLNK(info.external_attr >> 16):
                raise SourceError(
                    f"{self.path.name}: a link inside the zip ({name}); put the file itself in its place."
                )
            if name.lower().endswith(".zip"):
                raise SourceError(f"{self.path.name}: a zip inside the zip ({name}); unpack it and add the inner one.")
        if len({info.filename for info in members}) < len(members):
            raise SourceError(f"{self.path.name}: the zip lists a file twice; pack it again.")
        self._check_size(sum(info.file_size for info in members), self.path.name)


def files_in(path: Path) -> list[Path]:
    """A file, or all files of a folder including hidden ones, in a fixed order.

    Raises:
        SourceError: an entry is neither file nor folder, such as a FIFO, which blocks for ever when opened; or a link
            leads out of the folder, to files that its owner may not want to be read.
        OSError: the path does not exist or cannot be read.
    """
    if not path.is_dir():
        _check_kind(path)
        return [path]
    root = Path(os.path.realpath(path))
    found = []
    # Links to folders are not followed: their targets are inside the folder, so their files are listed already.
    for folder, folders, files in os.walk(path, onerror=_raise):
        for entry in (Path(folder, name) for name in (*folders, *files)):
            if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
                raise SourceError(f"{entry}: a link that leads out of its folder; put the file itself in its place.")
            if not entry.is_dir():
                _check_kind(entry)
                found.append(entry)
    return sorted(found)


def _check_kind(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket"}
        kind = next((kind for is_one, kind in kinds.items() if is_one(mode)), "a device")
        raise SourceError(f"{path}: {kind}; expected a file or a folder. Take it away.")


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears under its name only when it is complete."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _starts_with(path: Path, *magics: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(max(map(len, magics))).startswith(magics)


def _leaves(name: str) -> bool:
    windows = PureWindowsPath(name)
    return ".." in windows.parts or bool(windows.anchor)


def _hidden(name: str) -> bool:
    # Spark writes `_SUCCESS` and `.part-0.crc`, Dask `_metadata`, and archives made on macOS hold a `__MACOSX`.
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
