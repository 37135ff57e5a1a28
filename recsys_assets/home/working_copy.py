"""The working copy of a home on an object store, and how it is brought to the state of the store and back.

`object_store` knows the store. What the rest of the package calls is in `remote`.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recsys_assets.home.object_store import (
    COMMITS,
    Commit,
    Listing,
    Lock,
    Store,
    StoreConflictError,
    StoreError,
    StoreLockedError,
    commit_key,
)
from recsys_assets.home.unfinished import left_behind, write_atomically

# Folder of a working copy with what is known of the store.
OWN = ".store"
# File in the folder of a version whose files are still in the store alone.
ABSENT = ".not-here-yet"
# Set while this process, or the process that started it, holds the lock of the home in the store.
OWNER = "RECSYS_STORE_LOCK"
# Landed files and settings are stored as they are, because people read and write these objects; everything else that is
# not of this machine alone is in commits.
_LANDING, _ASSETS, _SETTINGS = "landing", "assets", "settings.toml"
_LOCAL = (_ASSETS, _LANDING, "dagster", "logs", "scratch", _SETTINGS)
_IDENTITY = "dagster/identity"
# Replaced batches on their way into the store, one archive each: not below landing/, where others may write.
_EXCHANGING = f"{COMMITS}/exchanging"
# First parts of the keys that homes have. Other objects below the URL are of somebody else, such as a home below it.
_RECORDS = frozenset({"failures.log", "promotions", "rejected", "removed", "report", "study"})
_FACTS = frozenset({"blocked", "dagster", "forgotten", "format", "kind.json", "tuned.toml"})
_VERSION_KEY, _FILE_KEY = re.compile(r"assets/.+/versions/[^/]+/.+"), re.compile(r"(.+)@[0-9a-f]{16}")
_COMMITS_KEPT = 20
_LONGEST_NAME_BYTES = 255
_BEATS_EVERY_SECONDS, _EXPIRES_AFTER = 60.0, timedelta(minutes=5)


@dataclass(frozen=True)
class Base:
    """The state of the store that a working copy was last brought to.

    Attributes:
        number: number of the commit.
        commit: the commit.
        seen: size and modification time (ns) of each file of the commit, as it is here.
        plain: what each plain object was in the store, and its file here.
    """

    number: int = 0
    commit: Commit = field(default_factory=Commit)
    seen: Listing = field(default_factory=dict)
    plain: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkingCopy:
    """The working copy of a home on a store."""

    folder: Path

    @cached_property
    def store(self) -> Store:
        """The store of the home."""
        return Store((self._own / "url").read_text())

    @property
    def name(self) -> str:
        """A random name, which tells this copy from those of other machines."""
        return (self._own / "copy").read_text()

    @property
    def _own(self) -> Path:
        return self.folder / OWN

    def begin(self, url: str) -> None:
        """Give a new working copy its name and its store. Of two commands at once, one does it."""
        with self._alone():
            if not (self._own / "url").exists():
                write_atomically(self._own / "copy", uuid.uuid4().hex.encode())
                write_atomically(self._own / "url", url.encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and processes of this machine from changing the base."""
        with FileLock(self._own / "lock"):
            yield

    @property
    def base(self) -> Base:
        """The state that this copy was last brought to."""
        path = self._own / "base.json"
        if not path.exists():
            return Base()
        content = json.loads(path.read_text())
        return Base(**{**content, "commit": Commit.read(json.dumps(content["commit"]))})

    def _keep(self, base: Base) -> None:
        write_atomically(self._own / "base.json", json.dumps(asdict(base)).encode())

    @property
    def _is_at_work(self) -> bool:
        """Whether a process of this machine holds the lock of the folder."""
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                return False
        except Timeout:
            return True

    def _holds(self, commit: Commit) -> bool:
        """Whether this process, or the one that started it, holds the lock."""
        return commit.lock is not None and commit.lock.owner == os.environ.get(OWNER)

    def pull(self, *, landing: bool) -> None:
        """Bring this copy to the state of the store, unless a process of this machine works on it."""
        if os.environ.get(OWNER) or self._is_at_work:
            return
        with self._alone():
            # A run may have begun while this process waited: what the run writes is in no commit yet.
            if self._is_at_work:
                return
            self._sweep()
            # Landed files first: the reason of a refusal counts if it is later than its batch.
            base = self._exchanged(self.base, landing=landing, heal=True)
            self._keep(base if landing else self._without_gone(base))
            while True:
                number, commit = self._newest()
                try:
                    self._keep(self._checked_out(self.base, number, commit, heal=True))
                except StoreError:
                    # A writer deletes what its commit replaces, possibly while this process downloads it.
                    if self.store.newest()[0] == number:
                        raise
                else:
                    return

    def _sweep(self) -> None:
        """Delete what killed processes have left half downloaded: it may name a user who was erased since."""
        for left in left_behind(self._own.iterdir()):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _without_gone(self, base: Base) -> Base:
        """Delete landed files that are gone in the store: they may name a user whom another machine has erased."""
        theirs = self._landed_objects() if base.plain.keys() - {_SETTINGS} else {}
        gone = [name for name in base.plain if name != _SETTINGS and name not in theirs]
        for name in gone:
            if _state(self.folder / name) == base.plain[name][1]:
                (self.folder / name).unlink()
        return replace(base, plain={name: both for name, both in base.plain.items() if name not in gone})

    def _newest(self) -> tuple[int, Commit]:
        """Number and content of the newest commit.

        Raises:
            StoreConflictError: commits are missing. Taken for an empty home, the store would empty this copy.
        """
        number, commit = self.store.newest()
        if number < (last := self.base.number):
            raise StoreConflictError(
                f"{self.store.url} has lost commits: the newest is {number}, and this machine has seen {last}. Restore "
                f"the objects. Or delete {self.folder}, the working copy, to take the home as it is in the store."
            )
        return number, commit

    def _checked_out(self, base: Base, number: int, commit: Commit, *, heal: bool) -> Base:
        """Apply a commit to this copy, and return the new base. The files of versions are not fetched.

        Args:
            base: the base so far.
            number: number of the commit.
            commit: the commit.
            heal: whether to restore what is missing here, too. Otherwise it counts as deleted on purpose.

        Raises:
            StoreConflictError: a file was changed both here and in the store.
        """
        seen, wanted = {}, {}
        for name, entry in commit.files.items():
            path, is_same = self.folder / name, base.commit.files.get(name) == entry
            here = _state(path)
            is_changed = here is not None and here != base.seen.get(name)
            if is_same and (here is not None or not heal):
                seen[name] = base.seen.get(name, [])
            elif is_changed and _key(name, path) != entry[0]:
                raise StoreConflictError(self._both_changed(name))
            else:
                wanted[name] = entry
        for name in base.commit.files.keys() - commit.files.keys():
            if _state(self.folder / name) == base.seen.get(name):
                (self.folder / name).unlink(missing_ok=True)
        self._receive({name: key for name, (key, *_) in wanted.items()})
        for name, (_, _, modified) in wanted.items():
            os.utime(self.folder / name, ns=(modified, modified))
            seen[name] = _state(self.folder / name) or []
        for folder in base.commit.assets.keys() - commit.assets.keys():
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        for folder, asset in commit.assets.items():
            if heal or base.commit.assets.get(folder) != asset:
                self._place(self.folder / folder, asset)
        return replace(base, number=number, commit=commit, seen=seen)

    def _place(self, folder: Path, asset: Mapping[str, Any]) -> None:
        """Give an asset's folder the versions and the link of a commit."""
        versions = folder / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        for gone in [each for each in versions.iterdir() if each.name not in asset["versions"]]:
            shutil.rmtree(gone, ignore_errors=True)
        for version in [versions / name for name in asset["versions"]]:
            if not version.exists():
                # Moved as a whole: a version without this mark counts as complete.
                unfinished = self._own / f"new-{uuid.uuid4().hex}-{os.getpid()}"
                unfinished.mkdir()
                (unfinished / ABSENT).touch()
                unfinished.rename(version)
        link, target = folder / "current", Path("versions", asset["current"])
        if not link.is_symlink() or link.readlink() != target:
            unfinished = folder / f".current-{asset['current']}"
            unfinished.unlink(missing_ok=True)
            unfinished.symlink_to(target)
            unfinished.replace(link)

    def fetch(self, version: Path) -> None:
        """Fetch the files of a version."""
        with self._alone():
            if not (version / ABSENT).exists():
                return
            folder = version.parent.parent.relative_to(self.folder).as_posix()
            asset = self.base.commit.assets.get(folder, {"versions": {}})
            files = asset["versions"].get(version.name)
            if files is None:
                raise StoreError(f"{version} was replaced in the store meanwhile. Repeat the command.")
            names = {version.relative_to(self.folder).joinpath(name).as_posix(): size for name, size in files.items()}
        # Outside of the lock of this machine, which the renewal of the lock in the store needs.
        with self._received({name: name for name in names}, sizes=names) as received, self._alone():
            if (version / ABSENT).exists():
                self._move_in(received)
                (version / ABSENT).unlink()

    def fetch_all(self) -> None:
        """Fetch every present version that is in the store alone."""
        for link in [*(self.folder / _ASSETS).rglob("current")]:
            self.fetch(link.resolve())

    def _receive(self, keys: Mapping[str, str]) -> None:
        """Download objects, given by the paths that they get here, and move each into place when all are complete."""
        with self._received(keys) as files:
            self._move_in(files)

    @contextmanager
    def _received(self, keys: Mapping[str, str], sizes: Mapping[str, int] | None = None) -> Iterator[dict[str, Path]]:
        """Download objects, given by the paths that they get here, to a folder that goes when the context ends."""
        with tempfile.TemporaryDirectory(suffix=f"-{os.getpid()}", dir=self._own) as incoming:
            files = {name: Path(incoming, str(number)) for number, name in enumerate(keys)}
            self.store.get({keys[name]: path for name, path in files.items()})
            for name, size in (sizes or {}).items():
                if files[name].stat().st_size != size:
                    raise StoreError(f"{self.store.url}/{keys[name]} is damaged: it should have {size:,} bytes.")
            yield files

    def _move_in(self, files: Mapping[str, Path]) -> None:
        """Move downloaded files to their paths."""
        for name, path in files.items():
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
            path.replace(target)

    def push(self, switched: Sequence[Path] = (), *, unlock: bool = False) -> None:
        """Bring what has changed here to the store: first the objects, then one commit that names them.

        Landed objects are deleted last, because the commit may name the copy of a removed batch. Without the lock,
        nothing counts as deleted.

        Args:
            switched: written versions that become the present ones.
            unlock: whether to release the lock.

        Raises:
            StoreConflictError: another machine has changed the same file, or has taken the lock.
        """
        sent: set[str] = set()
        while True:
            with self._alone():
                if not switched and not os.environ.get(OWNER) and self._is_at_work:
                    # The command at work has moved files away on purpose. Its own last push sends everything.
                    return
                base = self.base
                if os.environ.get(OWNER) and not self._holds(base.commit):
                    raise StoreConflictError(self._lock_lost())
                wanted, sources, seen = self._present(base, switched)
                pending = {key: path for key, path in sources.items() if key not in sent}
                if not pending:
                    self._keep(self._exchanged(base, landing=True, heal=False))
                    is_new = replace(wanted, lock=None) != replace(base.commit, lock=None)
                    if is_new and not self._added(self.base, wanted, seen):
                        continue
                    if self._holds(base.commit):
                        self._keep(self._exchanged(self.base, landing=True, heal=False, delete=True))
                    if not unlock or self._added(self.base, replace(self.base.commit, lock=None), self.base.seen):
                        break
                    continue
            self.store.put(pending)
            sent |= pending.keys()
        self._delete_if_possible(base.commit.keys - wanted.keys, earlier=unlock)

    def _added(self, base: Base, wanted: Commit, seen: Listing) -> bool:
        """Write a commit after the base and make it the base. If another machine was faster, apply its commit."""
        new = replace(wanted, id=uuid.uuid4().hex)
        # The number may be free because a commit of it was written and deleted since.
        if self.store.last() == base.number and self.store.add(base.number + 1, new):
            self._keep(replace(base, number=base.number + 1, commit=new, seen=seen))
            return True
        number, theirs = self._newest()
        if self._holds(base.commit) and not self._holds(theirs):
            raise StoreConflictError(self._lock_lost())
        self._keep(self._checked_out(base, number, theirs, heal=False))
        return False

    def _present(self, base: Base, switched: Sequence[Path]) -> tuple[Commit, dict[str, Path], Listing]:
        """What is here as a commit; the files of objects that it needs, by key; and the state of its files."""
        is_held = self._holds(base.commit)
        files: Listing = {} if is_held else dict(base.commit.files)
        seen: Listing = {} if is_held else dict(base.seen)
        sources: dict[str, Path] = {}
        stored = base.commit.keys
        for path in self._small_files():
            name, state = path.relative_to(self.folder).as_posix(), _state(path)
            if state is None:
                continue
            if state != base.seen.get(name) or name not in base.commit.files:
                key = _key(name, path)
                files[name], seen[name] = [key, *state], state
                if key not in stored:
                    sources[key] = path
            else:
                files[name], seen[name] = base.commit.files[name], state
        assets = {}
        for folder, asset in base.commit.assets.items():
            kept = self._kept(folder, asset) if is_held else asset
            if kept:
                assets[folder] = kept
        for version in switched:
            folder = version.parent.parent.relative_to(self.folder).as_posix()
            written = {file.relative_to(version).as_posix(): file for file in version.rglob("*") if file.is_file()}
            sizes = {name: file.stat().st_size for name, file in written.items()}
            before = assets.get(folder, {"versions": {}})
            assets[folder] = {"current": version.name, "versions": {**before["versions"], version.name: sizes}}
            sources |= {f"{folder}/versions/{version.name}/{name}": file for name, file in written.items()}
        lock = self._new_lock(base.commit.lock) if is_held else base.commit.lock
        return Commit(base.commit.id, files, assets, lock), sources, seen

    def _kept(self, folder: str, asset: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is left here of an asset in the store; None if it was deleted."""
        link = self.folder / folder / "current"
        if not link.is_symlink():
            return None
        versions = link.parent / "versions"
        left = {name: files for name, files in asset["versions"].items() if (versions / name).is_dir()}
        return {"current": link.readlink().name, "versions": left}

    def _small_files(self) -> Iterator[Path]:
        """The files of a home that are neither assets nor plain objects, and are not of this machine alone."""
        for each in sorted(self.folder.iterdir()):
            if each.name.startswith(".") or each.name in _LOCAL:
                continue
            for path in [each] if each.is_file() else sorted(each.rglob("*")):
                if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                    yield path
        if (identity := self.folder / _IDENTITY).exists():
            yield identity

    def _exchanged(self, base: Base, *, landing: bool, heal: bool, delete: bool = False) -> Base:
        """Bring landed files and the settings to the same state here and in the store.

        People and programs write both, here and there, so each side is compared with the last common state.

        Args:
            base: the last common state.
            landing: whether to look at landed files, too.
            heal: whether to restore what is missing here. It is always restored if the lock is not held.
            delete: whether to delete in the store what is missing here. The caller holds the lock.

        Raises:
            StoreConflictError: an object was changed both here and in the store.
        """
        known = {name: both for name, both in base.plain.items() if landing or name == _SETTINGS}
        mine = self._plain_files(landing=landing)
        if not heal and mine == {name: here for name, (_, here) in known.items()}:
            return base
        theirs = self._landed_objects() if landing else {}
        # An object store may have both a file and a folder of one name: the folder counts.
        folders = {str(parent) for name in theirs for parent in Path(name).parents}
        theirs = {name: found for name, found in theirs.items() if name not in folders and _is_plain(name)}
        if settings := self.store.look(_SETTINGS):
            theirs[_SETTINGS] = settings
        replaced = _replaced_batches(known, mine)
        waiting = set() if delete else replaced
        down, up, gone_there = {}, {}, []
        for name in {*known, *mine, *theirs}:
            there, here = known.get(name, [None, None])
            is_mine_new, is_theirs_new = mine.get(name) != here, theirs.get(name) != there
            if is_mine_new and (mine.get(name) or _batch(name) in replaced) and is_theirs_new and theirs.get(name):
                if there is None and mine[name][0] == theirs[name][0] and self._is_same(name):
                    continue
                raise StoreConflictError(self._both_changed(name))
            if _batch(name) in waiting:
                continue
            if name in theirs and (is_theirs_new or (name not in mine and (heal or not self._holds(base.commit)))):
                down[name] = name
            elif name in mine and is_mine_new:
                up[name] = self.folder / name
            elif name in mine and name not in theirs:
                (self.folder / name).unlink()
            elif name in theirs and name not in mine:
                gone_there.append(name)
        for name in down:
            _out_of_the_way(self.folder, name)
        self._receive(down)
        staged = self._staged(replaced, mine) if delete else []
        if delete:
            self.store.delete(gone_there)
        self.store.put({name: path for name, path in up.items() if name in theirs})
        self.store.put({name: path for name, path in up.items() if name not in theirs}, new=True)
        self.store.delete(staged)
        # What was changed here meanwhile stays a change.
        mine |= {name: state for name, state in self._plain_files(landing=landing).items() if name in down}
        if up:
            theirs |= {name: mark for name in up if (mark := self.store.look(name))}
        both = {name: [theirs[name], mine[name]] for name in theirs.keys() & mine.keys() if _batch(name) not in waiting}
        to_delete = set() if delete else set(gone_there)
        rest = {name for name in base.plain if name not in known or name in to_delete or _batch(name) in waiting}
        return replace(base, plain={**{name: base.plain[name] for name in rest}, **both})

    def _staged(self, batches: Collection[str], names: Collection[str]) -> list[str]:
        """Upload batches as they are here, each as one archive, and return the keys of the archives.

        A file and a folder of one name cannot be in every store at once, so the objects of a replaced batch have to be
        deleted before the new ones are uploaded. Until both is done, the archive holds the batch.
        """
        keys: list[str] = []
        with tempfile.TemporaryDirectory(suffix=f"-{os.getpid()}", dir=self._own) as folder:
            for batch in sorted(batches):
                packed, key = Path(folder, str(len(keys))), f"{_EXCHANGING}/{batch}.zip"
                with zipfile.ZipFile(packed, "w", strict_timestamps=False) as archive:
                    for name in names:
                        if _batch(name) == batch:
                            archive.write(self.folder / name, name)
                self.store.put({key: packed})
                keys.append(key)
        return keys

    def complete_exchanges(self) -> None:
        """Complete the exchange of batches that a command on any machine has begun. The caller holds the lock."""
        keys = [*self.store.objects(_EXCHANGING)]
        if not keys:
            return
        # Outside of the lock of this machine, which the renewal of the lock in the store needs.
        with self._received({key: key for key in keys}) as received, self._alone():
            for packed in received.values():
                unpacked = packed.with_name(f"{packed.name}-unpacked")
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(unpacked)
                for path in unpacked.rglob("*"):
                    path.chmod(stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR)
                for batch in (unpacked / _LANDING).iterdir():
                    target = self.folder / _LANDING / batch.name
                    _remove(target)
                    target.parent.mkdir(exist_ok=True)
                    batch.rename(target)
        self.push()
        self.store.delete(keys)

    def _landed_objects(self) -> Listing:
        """The objects in landing/. An object may also have the name of the folder itself."""
        return {name: mark for name, mark in self.store.objects(_LANDING).items() if name.startswith(f"{_LANDING}/")}

    def _is_same(self, name: str) -> bool:
        return self.store.read(name) == (self.folder / name).read_bytes()

    def _plain_files(self, *, landing: bool) -> Listing:
        paths = [self.folder / _SETTINGS, *((self.folder / _LANDING).rglob("*") if landing else ())]
        names = {path.relative_to(self.folder).as_posix(): path for path in paths if path.is_file()}
        return {name: state for name, path in names.items() if _is_plain(name) and (state := _state(path))}

    def take_lock(self) -> None:
        """Bring this copy to the state of the store, and take the lock there.

        Raises:
            StoreLockedError: a process of another machine holds it.
        """
        own = self.name
        with self._alone():
            self._sweep()
            while True:
                number, commit = self._newest()
                # The caller holds the lock of the folder, so a lock of this copy is that of a killed process.
                if commit.lock and commit.lock.is_live and commit.lock.copy != own:
                    raise StoreLockedError(
                        f"Another run works on this home ({self.store.url}): {commit.lock.told}. Wait until it has "
                        f"ended, and run this again. If it was killed, its lock expires at "
                        f"{commit.lock.until[:19]} UTC."
                    )
                base = self._exchanged(self.base, landing=True, heal=True)
                base = self._checked_out(base, number, commit, heal=True)
                self._keep(base)
                owner = uuid.uuid4().hex
                told = f"process {os.getpid()} on {socket.gethostname()}"
                new = replace(commit, id=uuid.uuid4().hex, lock=self._new_lock(Lock(owner, own, told, "")))
                # As in `_added`: a lock that another machine took and released meanwhile may be deleted by now.
                if self.store.last() == number and self.store.add(number + 1, new):
                    break
            self._keep(replace(base, number=number + 1, commit=new))
        # Child processes that work for this one inherit it.
        os.environ[OWNER] = owner

    def keep_lock(self, ended: threading.Event) -> None:
        """Renew the lock until the event is set."""
        while not ended.wait(_BEATS_EVERY_SECONDS):
            with self._alone():
                base = self.base
                if not self._holds(base.commit):
                    # The next `push` says so.
                    return
                try:
                    self._added(base, replace(base.commit, lock=self._new_lock(base.commit.lock)), base.seen)
                except Exception:
                    # A full disk, or a store that is away for a moment: the next beat tries again. If the lock expires
                    # and another machine takes it, `push` says so.
                    continue

    def _new_lock(self, lock: Lock | None) -> Lock:
        assert lock is not None
        return replace(lock, until=(datetime.now(UTC) + _EXPIRES_AFTER).isoformat())

    def _lock_lost(self) -> str:
        return (
            f"{self.store.url}: another machine has taken over this home, because the lock of this run was not renewed "
            "in time. What this run made since is not stored. Run it again."
        )

    def _both_changed(self, name: str) -> str:
        return (
            f"{name} was changed in {self.store.url} and in its working copy, {self.folder / name}. Move the latter "
            "away to take the former, or make both equal."
        )

    def delete_unnamed(self, keys: Sequence[str]) -> None:
        """Delete earlier commits, and those of the home's objects that the newest commit does not name."""
        base = self.base
        tops = _RECORDS | _FACTS | {name.partition("/")[0] for name in base.commit.files}
        named = base.commit.keys
        earlier = [commit_key(number) for number in self.store.commits() if number < base.number]
        unnamed = [key for key in keys if key not in named and _is_of_a_home(key, tops)]
        self.store.delete([*earlier, *unnamed])

    def never_read(self) -> list[str]:
        """Landed objects that no command reads: hidden names, and names that a folder has too."""
        theirs = self._landed_objects()
        folders = {str(parent) for name in theirs for parent in Path(name).parents}
        unread = [name for name in theirs if name in folders or not _is_plain(name)]
        # A listing of the folder holds an object of its name only if the folder is empty.
        return [_LANDING, *unread] if self.store.look(_LANDING) else unread

    def _delete_if_possible(self, keys: Collection[str], *, earlier: bool) -> None:
        """Delete objects that no commit names any more, and earlier commits; what cannot be deleted stays."""
        try:
            old = [commit_key(number) for number in self.store.commits()[:-_COMMITS_KEPT]] if earlier else []
            self.store.delete([*keys, *old])
        except StoreError:
            # The commit is written. Nothing names these objects any more, and `compact` deletes them.
            return


def _is_of_a_home(key: str, tops: Collection[str]) -> bool:
    """Whether a key is one that a home gives to a file, with one of some first parts, or to a file of a version."""
    file = _FILE_KEY.fullmatch(key)
    return _VERSION_KEY.fullmatch(key) is not None or (file is not None and file[1].partition("/")[0] in tops)


def _state(path: Path) -> list[Any] | None:
    """Size and modification time (ns) of a file; None if there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _key(name: str, path: Path) -> str:
    """The key of a file's content: an object is never overwritten, so an earlier commit stays what it was."""
    with path.open("rb") as stream:
        return f"{name}@{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


def _is_plain(name: str) -> bool:
    """Whether a key or path is the settings file or of a landed batch, and can be a file here.

    Everybody who may land data chooses keys: .. in one must not lead out of the home.
    """
    parts = name.split("/")
    return all(part and not part.startswith(".") and len(part.encode()) <= _LONGEST_NAME_BYTES for part in parts)


def _batch(name: str) -> str:
    """The landed batch that a plain object is of; empty for the settings."""
    return name.split("/")[1] if name.startswith(f"{_LANDING}/") else ""


def _replaced_batches(known: Mapping[str, list[Any]], mine: Listing) -> set[str]:
    """Batches that lack files of the last common state here, have other files, and no file of then as it was.

    `compact` leaves such batches. A batch of which a person has deleted one file is none.
    """
    gone = {_batch(name) for name in known if name not in mine}
    new = {_batch(name) for name, here in mine.items() if name not in known or known[name][1] != here}
    same = {_batch(name) for name, here in mine.items() if name in known and known[name][1] == here}
    return (gone & new) - same - {""}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _out_of_the_way(root: Path, name: str) -> None:
    """Delete a file where a folder is to come, and a folder where a file is to come."""
    for parent in [*Path(name).parents][:-1]:
        if (root / parent).is_file():
            (root / parent).unlink()
    if (root / name).is_dir():
        shutil.rmtree(root / name)
