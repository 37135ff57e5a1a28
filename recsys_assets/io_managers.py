"""Storage of what assets hold: one folder of versions per asset, or per asset and batch, and a pointer to the present one.

A write makes a new version beside the old ones and then switches the pointer in one step, so a reader never sees half
an asset and keeps the version it began with. The annotated type decides the form: Narwhals lazy frames are Parquet,
models save and load themselves, `dict` means one value per batch.
"""

import hashlib
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args, get_origin, runtime_checkable
from urllib.parse import quote

import dagster as dg
import narwhals as nw
import polars as pl
from dagster_pyspark import LazyPySparkResource

from recsys_assets.recommender.frames import conform
from recsys_assets.recommender.tables import PREDICTIONS, TABLES, Table

_TABLE_FILE = "table.parquet"
_VERSIONS_KEPT = 3


@runtime_checkable
class Model(Protocol):
    """Anything that stores itself in a folder."""

    def save(self, folder: Path) -> None:
        """Write into an existing, empty folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


class AssetMissingError(Exception):
    """An asset is needed that has never been materialized."""


def table_of(key: dg.AssetKey) -> Table | None:
    """The declaration of the table that an asset holds; None for an asset that is no table."""
    if key.path[0] == "predictions":
        return PREDICTIONS[key.path[1]]
    return TABLES.get(key.path[-1])


class AssetStore:
    """The folders below a home's `assets/`: where versions lie, how they are switched, read and pruned."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: dg.AssetKey, partition: str | None = None) -> Path:
        """Where the versions of an asset, or of one batch of it, lie."""
        folder = self.root.joinpath(*key.path)
        return folder if partition is None else folder / "batches" / quote(partition, safe="")

    def current(self, key: dg.AssetKey, partition: str | None = None) -> Path:
        """The present version. Resolved, so that who holds it keeps it when a newer one comes.

        Raises:
            AssetMissingError: there is none.
        """
        pointer = self.folder(key, partition) / "current"
        if not pointer.exists():
            name = key.to_user_string() + (f" of batch {partition}" if partition else "")
            raise AssetMissingError(
                f"{name} has not been materialized (nothing at {pointer}). "
                f"Run `dg launch --assets '{key.to_user_string()}'`, or `recsys-assets run` for everything."
            )
        return pointer.resolve()

    def new_version(self, key: dg.AssetKey, partition: str | None, run_id: str) -> Path:
        """An empty folder to write the next version into; nobody reads it before `switch`."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        version = self.folder(key, partition) / "versions" / f"{now}-{run_id[:8]}"
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


def scan(version: Path, engine: Literal["polars", "spark"], spark: LazyPySparkResource | None) -> nw.LazyFrame:
    """A stored table as a lazy frame of the engine."""
    path = version / _TABLE_FILE
    if engine == "spark" and spark is not None:
        return nw.from_native(spark.spark_session.read.parquet(str(path)))
    return nw.from_native(pl.scan_parquet(path / "*.parquet" if path.is_dir() else path))


def digest(version: Path, table: Table | None) -> str:
    """A hash of the content: equal content gives the same on either engine, whatever the order of the source's rows.

    Columns that only say where a row came from (`volatile`) do not count. Tables are stored in the order of their key,
    so columns of numbers are hashed as they lie; anything else by its files.
    """
    hashed = hashlib.blake2b(digest_size=16)
    columns = [name for name in table.columns if name not in table.volatile] if table else []
    if table and table.volatile:
        for name in columns:
            column = _polars_scan(version).select(name).collect().to_series()
            hashed.update(column.to_physical().to_numpy().tobytes())
        return hashed.hexdigest()
    for file in sorted(path for path in version.rglob("*") if path.is_file() and not path.name.startswith(".")):
        with file.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()


def _polars_scan(version: Path) -> pl.LazyFrame:
    return scan(version, "polars", None).to_native()


class AssetIOManager(dg.ConfigurableIOManager):
    """Hands assets lazy frames of the configured engine, and models."""

    root: str
    engine: str = "polars"
    spark: dg.ResourceDependency[LazyPySparkResource]

    @property
    def store(self) -> AssetStore:
        """The folders behind it."""
        return AssetStore(Path(self.root))

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write a new version per partition, switch to it, record rows, bytes, place and data version."""
        if obj is None:
            return
        if isinstance(obj, Mapping):
            expected = set(context.asset_partition_keys)
            if set(obj) != expected:
                raise ValueError(f"{context.asset_key.to_user_string()}: batches {set(obj)}, expected {expected}")
            parts = dict(obj)
        else:
            parts = {None: obj}
        versions = {partition: self._write(context, value, partition) for partition, value in parts.items()}
        for version in versions.values():
            self.store.switch(version)
        self._record(context, versions)

    def _write(self, context: dg.OutputContext, value: object, partition: str | None) -> Path:
        version = self.store.new_version(context.asset_key, partition, context.run_id)
        if isinstance(value, nw.LazyFrame):
            table = table_of(context.asset_key)
            if table is None:
                raise TypeError(f"{context.asset_key.to_user_string()} has no declaration in recommender/tables.py")
            frame = conform(value, table)
            (frame.sort(*table.order) if table.order else frame).sink_parquet(version / _TABLE_FILE)
        elif isinstance(value, Model):
            value.save(version)
        else:
            raise TypeError(f"{context.asset_key.to_user_string()}: cannot store a {type(value).__name__}")
        return version

    def _record(self, context: dg.OutputContext, versions: Mapping[str | None, Path]) -> None:
        table = table_of(context.asset_key)
        digests = {partition: digest(version, table) for partition, version in versions.items()}
        for partition, version in versions.items():
            facts: dict[str, Any] = {
                "dagster/uri": version.as_uri(),
                "bytes": sum(file.stat().st_size for file in version.rglob("*") if file.is_file()),
            }
            if table:
                facts["dagster/row_count"] = int(_polars_scan(version).select(pl.len()).collect().item())
            if table and table.open_ended:
                facts["dagster/column_schema"] = stored_schema(version, table)
            if partition is None:
                context.add_output_metadata(facts)
            else:
                context.step_context.add_asset_metadata(facts, asset_key=context.asset_key, partition_key=partition)
        combined = "".join(value for _, value in sorted(digests.items(), key=lambda item: str(item[0])))
        version_hash = combined if len(digests) == 1 else hashlib.sha256(combined.encode()).hexdigest()
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(version_hash))

    def load_input(self, context: dg.InputContext) -> object:
        """The upstream asset as the annotated type: a lazy frame, a model, or a dict of them by batch."""
        wanted = context.dagster_type.typing_type
        if get_origin(wanted) is dict:
            item = get_args(wanted)[1]
            return {key: self._read(context.asset_key, key, item) for key in context.asset_partition_keys}
        return self._read(context.asset_key, None, wanted)

    def _read(self, key: dg.AssetKey, partition: str | None, wanted: Any) -> object:
        version = self.store.current(key, partition)
        if wanted is nw.LazyFrame:
            return scan(version, "spark" if self.engine == "spark" else "polars", self.spark)
        if isinstance(wanted, type) and issubclass(wanted, Model):
            return wanted.load(version)
        raise TypeError(f"{key.to_user_string()}: annotate the input as nw.LazyFrame or a model type, not {wanted}")


def column_schema(table: Table) -> dg.TableSchema:
    """A table's declaration as the UI shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name,
                str(column.dtype),
                column.meaning,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for name, column in table.columns.items()
        ]
    )


def stored_schema(version: Path, table: Table) -> dg.TableSchema:
    """The schema of a stored table that has columns beyond the declared ones."""
    declared = column_schema(table).columns
    names = {column.name for column in declared}
    found = scan(version, "polars", None).collect_schema().items()
    return dg.TableSchema(
        columns=[*declared, *(dg.TableColumn(name, str(dtype)) for name, dtype in found if name not in names)]
    )
