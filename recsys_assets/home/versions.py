"""How assets lie on disk: a folder of versions per asset, or per asset and batch, and a pointer to the present one.

A write makes a new version beside the old ones and then switches the pointer in one step, so a reader never sees half
an asset and keeps the version it began with. Knows nothing of Dagster: an asset is the path of its key.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable
from urllib.parse import quote, unquote

import narwhals as nw
import polars as pl

from recsys_assets.errors import RecsysError
from recsys_assets.recommender.data.frames import conform, in_order
from recsys_assets.recommender.data.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TABLE_FILE = "table.parquet"
STATE_FOLDER = "state"
# As Spark does by itself. Zstandard would save a third of the bytes and cost twice the time of writing.
_COMPRESSION = "snappy"
_VERSIONS_KEPT = 3
_STAMP = "%Y%m%dT%H%M%S%f"


@runtime_checkable
class Model(Protocol):
    """Anything that stores itself in a folder."""

    def save(self, folder: Path) -> None:
        """Write into an existing, empty folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


@dataclass(frozen=True)
class TableWithState:
    """A table, and beside it in the same version what the next version is computed from.

    Who needs the asset as an input gets the table; the state lies in the version's `STATE_FOLDER`.
    """

    table: nw.LazyFrame
    state: Model


class AssetMissingError(RecsysError):
    """An asset is needed that has never been materialized."""


class AssetDamagedError(RecsysError):
    """A stored asset cannot be read: something outside has cut it off or changed it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} cannot be read: it is damaged. Materialize it again: `recsys-assets run` makes what follows from "
            "the ratings; ratings, users and movies come from the sources by `recsys-assets backfill BATCH` before."
        )


class AssetStore:
    """The folders below a home's `assets/`: where versions lie, how they are switched, read and pruned."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, asset: Sequence[str], partition: str | None = None) -> Path:
        """Where the versions of an asset, or of one batch of it, lie."""
        folder = self.root.joinpath(*asset)
        return folder if partition is None else folder / "batches" / _quoted(partition)

    def current(self, asset: Sequence[str], partition: str | None = None) -> Path:
        """The present version. Resolved, so that who holds it keeps it when a newer one comes.

        Raises:
            AssetMissingError: there is none.
        """
        pointer = self.folder(asset, partition) / "current"
        if not pointer.exists():
            key = "/".join(asset)
            name = key + (f" of batch {partition}" if partition else "")
            raise AssetMissingError(
                f"{name} has not been materialized (nothing at {pointer}). "
                f"Run `dg launch --assets '{key}'`, or `recsys-assets run` for everything."
            )
        return pointer.resolve()

    def has(self, asset: Sequence[str], partition: str | None = None) -> bool:
        """Whether there is a present version."""
        return (self.folder(asset, partition) / "current").exists()

    def batches(self, asset: Sequence[str]) -> list[str]:
        """The batches of which a partitioned asset has a present version, by name."""
        return sorted(unquote(pointer.parent.name) for pointer in self.folder(asset).glob("batches/*/current"))

    def new_version(
        self, asset: Sequence[str], partition: str | None, run_id: str, after: datetime | None = None
    ) -> Path:
        """An empty folder to write the next version into; nobody reads it before `switch`.

        Args:
            asset: the path of its key.
            partition: the batch, of an asset that has batches.
            run_id: of the run that writes it.
            after: its time must be later than this one.
        """
        versions = self.folder(asset, partition) / "versions"
        # Versions are pruned by name: where the clock was set back, the newest must not look like the oldest.
        earlier = [*map(written, versions.iterdir())] if versions.is_dir() else []
        earlier += [after] if after else []
        now = max([datetime.now(UTC), *(time + timedelta(microseconds=1) for time in earlier)])
        version = versions / f"{now.strftime(_STAMP)}-{run_id[:8]}"
        version.mkdir(parents=True)
        return version

    def switch(self, version: Path) -> None:
        """Make a written version the present one, in one step, and remove all but the newest few."""
        folder = version.parent.parent
        pointer = folder / f".current-{version.name}"
        pointer.symlink_to(version.relative_to(folder))
        pointer.replace(folder / "current")
        for old in sorted(version.parent.iterdir())[:-_VERSIONS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def remove(self, asset: Sequence[str], partition: str) -> None:
        """Delete all versions of one batch of an asset, first of all the pointer: nobody ever sees half of them."""
        folder = self.folder(asset, partition)
        (folder / "current").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def folders(self) -> Iterator[Path]:
        """Every folder of an asset, or of a batch of one, that has versions; a batch may be called `versions`, too."""
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

    def keep_only_current(self) -> int:
        """Delete every version that is not the present one of its asset or batch; how many there were."""
        deleted = 0
        for folder in self.folders():
            present = (folder / "current").resolve()
            for unfinished in folder.glob(".current-*"):
                unfinished.unlink()
            for version in (folder / "versions").iterdir():
                if version.resolve() != present:
                    shutil.rmtree(version)
                    deleted += 1
        return deleted


def written(version: Path) -> datetime:
    """When a version was begun."""
    return datetime.strptime(f"{version.name.partition('-')[0]}+0000", f"{_STAMP}%z")


def _quoted(name: str) -> str:
    """The name as that of one folder; what it quotes is read by `unquote`."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted


def scan(version: Path, spark: "SparkSession | None" = None) -> nw.LazyFrame:
    """A stored table as a lazy frame: of Spark where a session is given, else of Polars.

    Raises:
        AssetDamagedError: the table is no Parquet any more.
    """
    path = version / TABLE_FILE
    if spark is not None:
        return nw.from_native(spark.read.parquet(str(path)))
    found = pl.scan_parquet(path / "*.parquet" if path.is_dir() else path)
    try:
        found.collect_schema()
    except pl.exceptions.ComputeError as error:
        raise AssetDamagedError(path) from error
    return nw.from_native(found)


def write_table(frame: nw.LazyFrame, table: Table, version: Path) -> None:
    """Store a frame as its table is declared: columns, types, order.

    Raises:
        ValueError: a declared column is missing.
    """
    rows = conform(frame, table)
    ordered = in_order(rows, table.order) if table.order else rows
    path = version / TABLE_FILE
    if not frame.implementation.is_polars():
        ordered.sink_parquet(str(path))
    # Sorting needs all rows in memory; there Polars' streaming engine takes twice as long as the other.
    elif table.order:
        ordered.to_native().collect(engine="in-memory").write_parquet(path, compression=_COMPRESSION)
    else:
        # In no order, the least and the greatest value of a block of rows let no reader pass it over.
        ordered.to_native().sink_parquet(path, compression=_COMPRESSION, statistics=False)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        # Of a full disk, which needs every byte.
        unfinished.unlink(missing_ok=True)
