"""An object store as homes use it: objects below one URL, and the chain of commits that are the states of a home.

No other module knows fsspec. Why two writers never both win is in docs/decisions/object-stores.md.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from recsys_assets.errors import RecsysError

_EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
COMMITS = "commits"
_COMMIT_KEY = re.compile(rf"{COMMITS}/(\d{{12}})\.json")
# Deletions at once.
_AT_ONCE = 8

Listing = dict[str, list[Any]]


class StoreError(RecsysError):
    """The store cannot be reached, or does not hold what is needed. The next attempt may succeed."""

    permanent: ClassVar[bool] = False


class StoreConflictError(RecsysError):
    """Another machine has changed the same thing, or works on the home."""


class StoreLockedError(StoreConflictError):
    """Another machine works on the home. It is worth waiting."""


@dataclass(frozen=True)
class Lock:
    """The lock of a home in the store.

    Attributes:
        owner: random name of the process that took it.
        copy: random name of its working copy.
        told: machine and process, for people.
        until: time when it expires unless it is renewed, ISO 8601, UTC.
    """

    owner: str
    copy: str
    told: str
    until: str

    @property
    def is_live(self) -> bool:
        """Whether it has not expired."""
        return datetime.fromisoformat(self.until) > datetime.now(UTC)


@dataclass(frozen=True)
class Commit:
    """One state of a home in the store: what `commits/NUMBER.json` holds.

    Attributes:
        id: random name, by which a writer knows its own commit.
        files: key, size and modification time (ns) of each file, by its path below the home.
        assets: present version and all versions of an asset or of a batch of it, by its folder. A version is the size
            of each of its files.
        lock: the lock, while a run or a command works on the home.
    """

    id: str = ""
    files: Listing = field(default_factory=dict)
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: Lock | None = None

    @classmethod
    def read(cls, text: str | bytes) -> "Commit":
        """The commit in a JSON text."""
        content = json.loads(text)
        commit = cls(**{**content, "lock": Lock(**content["lock"]) if content["lock"] else None})
        if any(".." in name.split("/") or name.startswith("/") for name in (*commit.files, *commit.keys)):
            raise StoreConflictError(f"Commit {commit.id} names files outside of the home. Restore the home.")
        return commit

    @property
    def keys(self) -> set[str]:
        """The keys of all objects that it names."""
        of_assets = (
            f"{folder}/versions/{version}/{name}"
            for folder, asset in self.assets.items()
            for version, names in asset["versions"].items()
            for name in names
        )
        return {key for key, *_ in self.files.values()} | set(of_assets)


class Store:
    """The objects below one URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        with self._explained():
            system, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
            return system, root.rstrip("/")

    @property
    def _system(self) -> Any:
        return self._opened[0]

    def _place(self, key: str) -> str:
        return f"{self._opened[1]}/{key}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of the drivers, each of which has its own, into one line with the way out."""
        try:
            yield
        except RecsysError:
            raise
        except Exception as error:
            raise StoreError(_told(error, self.url)) from error

    def objects(self, folder: str) -> Listing:
        """Size and content mark of each object in a folder, by its key."""
        with self._explained():
            found = self._system.find(self._place(folder), detail=True)
        start = len(self._opened[1].lstrip("/")) + 1
        objects = {place.lstrip("/")[start:]: info for place, info in found.items() if info["type"] == "file"}
        return {key: [info["size"], _mark(info)] for key, info in objects.items() if not key.endswith("/")}

    def look(self, key: str) -> list[Any] | None:
        """Size and content mark of an object; None if there is none."""
        with self._explained():
            try:
                info = self._system.info(self._place(key))
            except FileNotFoundError:
                return None
        return [info["size"], _mark(info)] if info["type"] == "file" else None

    def put(self, files: Mapping[str, Path], *, new: bool = False) -> None:
        """Upload files, each under its key.

        Args:
            files: the files by key.
            new: whether none of the objects may exist yet.

        Raises:
            StoreConflictError: one exists that may not.
        """
        if not files:
            return
        mode = "create" if new else "overwrite"
        with self._explained():
            try:
                self._system.put([str(path) for path in files.values()], [self._place(key) for key in files], mode=mode)
            except FileExistsError as error:
                raise StoreConflictError(
                    f"{self.url}: another machine has just stored {', '.join(files)}, or a part of it. Repeat the "
                    "command."
                ) from error

    def create(self, key: str, content: bytes) -> bool:
        """Write an object that must not exist yet; False if it does. The store decides, so one of two writers wins."""
        with self._explained():
            try:
                self._system.pipe_file(self._place(key), content, mode="create")
            except FileExistsError:
                return False
        return True

    def get(self, files: Mapping[str, Path]) -> None:
        """Download objects, each to its path."""
        if files:
            for path in files.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            with self._explained():
                self._system.get([self._place(key) for key in files], [str(path) for path in files.values()])

    def read(self, key: str) -> bytes:
        """The content of an object."""
        with self._explained():
            return bytes(self._system.cat_file(self._place(key)))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, unless they are gone already."""

        def delete(key: str) -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._place(key))

        # The drivers' deletion of a list takes * and ? in a key for a pattern.
        with self._explained(), ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(delete, keys))

    def newest(self) -> tuple[int, Commit]:
        """Number and content of the newest commit; 0 and an empty one if there is none."""
        numbers = self.commits()
        if not numbers:
            # A bucket that does not exist looks empty.
            with self._explained():
                self._system.ls(self._opened[1].lstrip("/").partition("/")[0])
            return 0, Commit()
        return numbers[-1], self.commit(numbers[-1])

    def commit(self, number: int) -> Commit:
        """The commit of a number."""
        return Commit.read(self.read(commit_key(number)))

    def commits(self) -> list[int]:
        """Numbers of the commits that are kept, in order."""
        return sorted(int(found[1]) for key in self.objects(COMMITS) if (found := _COMMIT_KEY.fullmatch(key)))

    def last(self) -> int:
        """Number of the newest commit; 0 if there is none."""
        return max(self.commits(), default=0)

    def add(self, number: int, commit: Commit) -> bool:
        """Write the commit of a number; False if another writer has written one."""
        if self.create(commit_key(number), json.dumps(asdict(commit)).encode()):
            return True
        # The answer to the first attempt may have been lost, and the driver has tried again.
        return self.commit(number).id == commit.id


def commit_key(number: int) -> str:
    """The key of a commit."""
    return f"{COMMITS}/{number:012}.json"


def _mark(info: Mapping[str, Any]) -> str:
    """What changes with the content of an object, under the name that the driver gives to it."""
    names = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
    return str(next((info[name] for name in names if info.get(name)), ""))


def _told(error: Exception, url: str) -> str:
    scheme, _, rest = url.partition("://")
    kind, told = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(scheme)
        way_out = f"`pip install 'recsys_assets[{extra}]'` installs what it needs" if extra else "Install its driver"
        return f"{url}: homes on {scheme}:// need another package ({told}). {way_out}."
    if isinstance(error, ValueError) and "rotocol" in told:
        return (
            f"{url}: {scheme}:// is no kind of store that is known here. A home is a folder, or s3://, gs:// or az://."
        )
    if isinstance(error, PermissionError) or "Credentials" in kind or "credential" in told.lower():
        return (
            f"{url}: the store refuses access ({told or kind}). Set the credentials in the environment, as for any "
            "other tool of this store, and check what they allow."
        )
    if isinstance(error, FileNotFoundError):
        bucket = rest.partition("/")[0]
        return f"{url}: not found ({told}). Does the bucket {bucket} exist? Create it, or correct the URL."
    return (
        f"{url} cannot be used ({kind}: {told}). The last complete state is in place; repeat the command when the "
        "store is reachable."
    )
