"""Stored versions of assets: one folder of versions per asset (or per asset and batch), and a link `current`.

A write makes a new version beside the old ones and then switches the link by an atomic rename. A reader therefore never
sees half an asset, and keeps the version that it started with. This module does not know Dagster: an asset is the path
of its key. The IO manager is in `orchestration.io_managers`.
"""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, runtime_checkable
from urllib.parse import quote, unquote

import narwhals as nw
import polars as pl

from recsys_assets.errors import RecsysError
from recsys_assets.home import remote
from recsys_assets.recommender.data.frames import conform, in_order
from recsys_assets.recommender.data.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TABLE_FILE = "table.parquet"
STATE_FOLDER = "state"
# Spark's default. Zstandard would save a third of the bytes and take twice the time to write.
_COMPRESSION = "snappy"
_VERSIONS_KEPT = 3
_STAMP = "%Y%m%dT%H%M%S%f"
# Errors of a model's `load` if something outside the pipeline has truncated, changed or deleted its files.
_UNREADABLE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    pl.exceptions.PolarsError,
)


@runtime_checkable
class Model(Protocol):
    """A model that saves itself to a folder and loads itself from it."""

    def save(self, folder: Path) -> None:
        """Write the model to an existing, empty folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that `save` wrote."""


ModelType = TypeVar("ModelType", bound=Model)


@dataclass(frozen=True)
class TableWithState:
    """A table and a state that the next version is computed from, stored in the same version.

    Other assets get the table as input. The state is in the version's folder `STATE_FOLDER`.
    """

    table: nw.LazyFrame
    state: Model


class AssetMissingError(RecsysError):
    """A required asset has never been materialized."""


class AssetDamagedError(RecsysError):
    """A stored asset cannot be read, because something outside the pipeline has truncated or changed it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} cannot be read: it is damaged. Materialize it again: `recsys-assets run` makes what depends on "
            "the ratings; before it, `recsys-assets backfill BATCH` makes ratings, users and items from the sources."
        )


class AssetStore:
    """The folder `assets/` of a home: finds, creates, switches and prunes versions of assets."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, asset: Sequence[str], partition: str | None = None) -> Path:
        """The folder with the versions of an asset or of one of its partitions."""
        folder = self.root.joinpath(*asset)
        return folder if partition is None else folder / "batches" / _quoted(partition)

    def current(self, asset: Sequence[str], partition: str | None = None) -> Path:
        """The present version, with the link resolved, so that a reader keeps it when a newer version is stored.

        Raises:
            AssetMissingError: the asset has not been materialized.
        """
        pointer = self.folder(asset, partition) / "current"
        if not pointer.exists():
            key = "/".join(asset)
            name = key + (f" of batch {partition}" if partition else "")
            raise AssetMissingError(
                f"{name} has not been materialized (nothing at {pointer}). `recsys-assets run` makes everything; in "
                f"Dagster, `dg launch --assets '{key}'` makes this alone."
            )
        version = pointer.resolve()
        remote.fetch(version)
        return version

    def has(self, asset: Sequence[str], partition: str | None = None) -> bool:
        """Whether the asset, or the partition, has a present version."""
        return (self.folder(asset, partition) / "current").exists()

    def batches(self, asset: Sequence[str]) -> list[str]:
        """The partitions of an asset that have a present version, ordered by name."""
        return sorted(unquote(pointer.parent.name) for pointer in self.folder(asset).glob("batches/*/current"))

    def new_version(
        self, asset: Sequence[str], partition: str | None, run_id: str, after: datetime | None = None
    ) -> Path:
        """Create an empty folder for the next version. No reader sees it before `switch`.

        Args:
            asset: path of the asset's key.
            partition: partition of a partitioned asset.
            run_id: id of the run that writes the version.
            after: the time of the version must be later than this time.
        """
        versions = self.folder(asset, partition) / "versions"
        # Versions are pruned by name. If the clock was set back, the newest version would look like the oldest.
        earlier = [*map(written, versions.iterdir())] if versions.is_dir() else []
        earlier += [after] if after else []
        now = max([datetime.now(UTC), *(time + timedelta(microseconds=1) for time in earlier)])
        version = versions / f"{now.strftime(_STAMP)}-{run_id[:8]}"
        version.mkdir(parents=True)
        return version

    def switch(self, *versions: Path) -> None:
        """Make each written version the present one by an atomic rename, and delete all but its newest 3 versions.

        One run at a time writes to a home, and names of versions ascend. A version between the previous one and this
        one was therefore left unfinished by a failed run. It does not count and is deleted.

        In a home on an object store, they are present there first, all at once.
        """
        remote.push(self.root.parent, versions)
        for version in versions:
            folder = version.parent.parent
            previous = (folder / "current").readlink().name if (folder / "current").is_symlink() else ""
            pointer = folder / f".current-{version.name}"
            pointer.symlink_to(version.relative_to(folder))
            pointer.replace(folder / "current")
            written_before = sorted(each for each in version.parent.iterdir() if each.name < version.name)
            finished = [each for each in written_before if each.name <= previous]
            for gone in {*written_before} - {*finished[-(_VERSIONS_KEPT - 1) :]}:
                shutil.rmtree(gone, ignore_errors=True)

    def remove(self, asset: Sequence[str], partition: str) -> None:
        """Delete all versions of one partition of an asset. The link goes first, so no reader sees half a version."""
        folder = self.folder(asset, partition)
        (folder / "current").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def folders(self) -> Iterator[Path]:
        """Every folder of an asset or of a partition that has versions. A batch may be named `versions`, too."""
        pending = [self.root]
        while pending:
            folder = pending.pop()
            if (folder / "versions").is_dir():
                yield folder
            for child in sorted(folder.iterdir()) if folder.is_dir() else ():
                if child.name == "batches":
                    yield from (batch for batch in sorted(child.iterdir()) if (batch / "versions").is_dir())
                elif child.name != "versions" and child.is_dir() and not child.is_symlink():
                    pending.append(child)

    def damaged_tables(self) -> Iterator[Path]:
        """The present tables that cannot be read completely: the beginning and end of a file do not show all damage."""
        present = ((folder / "current").resolve() / TABLE_FILE for folder in self.folders())
        return (path for path in present if path.exists() and not _reads_through(path))

    def old_versions(self) -> list[Path]:
        """Every version that is not present any more."""
        return [
            version
            for folder in self.folders()
            for version in (folder / "versions").iterdir()
            if version.resolve() != (folder / "current").resolve()
        ]

    def keep_only_current(self) -> int:
        """Delete every version that is not present any more, and return the number of deleted versions."""
        old = self.old_versions()
        for version in old:
            shutil.rmtree(version)
        for folder in self.folders():
            for unfinished in folder.glob(".current-*"):
                unfinished.unlink()
        return len(old)


def written(version: Path) -> datetime:
    """Time when the write of a version began."""
    return datetime.strptime(f"{version.name.partition('-')[0]}+0000", f"{_STAMP}%z")


def _quoted(name: str) -> str:
    """A partition's name quoted for use as a folder name. `unquote` reverses it."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted


def scan(version: Path, spark: "SparkSession | None" = None) -> nw.LazyFrame:
    """A stored table as a lazy frame, on Spark if a session is given, else on Polars.

    Raises:
        AssetDamagedError: the file is not valid Parquet any more.
    """
    remote.fetch(version)
    path = version / TABLE_FILE
    if spark is not None:
        return nw.from_native(spark.read.parquet(str(path)))
    found = pl.scan_parquet(path / "*.parquet" if path.is_dir() else path)
    try:
        found.collect_schema()
    except pl.exceptions.ComputeError as error:
        raise AssetDamagedError(path) from error
    return nw.from_native(found)


def _reads_through(path: Path) -> bool:
    every_value = pl.scan_parquet(path / "*.parquet" if path.is_dir() else path).select(pl.all().hash().sum())
    try:
        every_value.collect(engine="streaming")
    except pl.exceptions.PolarsError:
        return False
    return True


def load(model_type: type[ModelType], version: Path) -> ModelType:
    """A stored model.

    Raises:
        AssetDamagedError: a file of it is missing or does not hold what `save` wrote.
    """
    try:
        return model_type.load(version)
    except _UNREADABLE as error:
        raise AssetDamagedError(version) from error


def write_table(frame: nw.LazyFrame, table: Table, version: Path) -> None:
    """Store a frame with the declared columns, types and order of its table.

    Raises:
        ValueError: a declared column is missing.
    """
    rows = conform(frame, table)
    path = version / TABLE_FILE
    if not frame.implementation.is_polars() and table.order and not table.volatile:
        # A sort of all rows would compute them twice, because Spark looks for the bounds of its partitions first.
        rows.to_native().sortWithinPartitions(*table.order).write.parquet(str(path))
        return
    ordered = in_order(rows, table.order) if table.order else rows
    if not frame.implementation.is_polars():
        ordered.sink_parquet(str(path))
    # Sorting needs all rows in memory, and Polars' streaming engine takes twice as long to sort as the in-memory one.
    elif table.order:
        ordered.to_native().collect(engine="in-memory").write_parquet(path, compression=_COMPRESSION)
    else:
        # Row-group statistics are useless on unsorted data.
        ordered.to_native().sink_parquet(path, compression=_COMPRESSION, statistics=False)
