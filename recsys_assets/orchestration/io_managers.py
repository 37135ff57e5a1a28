"""The IO manager: stores the results of assets and loads them for other assets.

Narwhals lazy frames are stored as Parquet; models save and load themselves. A `TableWithState` is a table for other
assets plus a state for the asset itself. The annotated type decides the form; a `dict` holds one value per partition.
Each write records rows, size, path and data version. The layout of versions and the switch of `current` are in
`home.versions`.
"""

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import dagster as dg
import narwhals as nw
import polars as pl
from dagster_pyspark import LazyPySparkResource

from recsys_assets.home.exclusions import last_forgotten
from recsys_assets.home.id_map import record_id_map, require_id_map
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import (
    STATE_FOLDER,
    TABLE_FILE,
    AssetDamagedError,
    AssetMissingError,
    AssetStore,
    Model,
    TableWithState,
    load,
    scan,
    write_table,
)
from recsys_assets.orchestration.resources import session_of
from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.tables import PREDICTIONS, TABLES, Table

_RATINGS = dg.AssetKey("ratings")

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def table_of(key: dg.AssetKey) -> Table | None:
    """The declared table of an asset; None if the asset is not a table."""
    if key.path[0] == "predictions":
        return PREDICTIONS[key.path[1]]
    return TABLES.get(key.path[-1])


def digest(version: Path, table: Table | None) -> str:
    """A hash of the stored content, which becomes the data version.

    Equal content has the same hash on both engines and for any order of the source's rows. Columns that only record
    where a row came from (`volatile`) do not count. Tables with such columns are hashed column by column, because they
    are stored in the order of their key; everything else is hashed file by file. The columns of events, which only some
    homes have, count too: splits in time depend on them.
    """
    hashed = hashlib.blake2b(digest_size=16)
    if table and table.volatile:
        stored = _polars_scan(version).collect_schema().names()
        for name in (name for name in stored if name not in table.volatile):
            column = _polars_scan(version).select(name).collect().to_series()
            column = column.explode() if isinstance(column.dtype, pl.List) else column
            hashed.update(column.to_physical().to_numpy().tobytes())
        return hashed.hexdigest()
    for file in sorted(path for path in version.rglob("*") if path.is_file() and not path.name.startswith(".")):
        with file.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()


def _inputs_of_step(context: dg.InputContext) -> Collection[dg.AssetKey]:
    """The assets that the step of this input loads; outside a run, the asset of this input alone."""
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:
        return [context.asset_key]
    asset = step.job_def.asset_layer.get_assets_def_for_node(step.node_handle)
    return list(asset.keys_by_input_name.values()) if asset else [context.asset_key]


@lru_cache(maxsize=10_000)
def _rows_of(version: Path) -> int:
    if not (version / TABLE_FILE).exists():
        return 0
    try:
        return row_count(scan(version))
    except AssetDamagedError:
        # Rows only decide about the engine. A step that reads the table fails with this error; the steps that make it
        # again must not.
        return 0


def _polars_scan(version: Path) -> pl.LazyFrame:
    return scan(version).to_native()


class AssetIOManager(dg.ConfigurableIOManager):
    """Stores the results of assets in the home, and loads tables as lazy frames of one engine per step.

    With the engine `auto`, the step's largest table decides.
    """

    root: str
    engine: str = "polars"
    spark_from_rows: int = 0
    spark: dg.ResourceDependency[LazyPySparkResource]

    @property
    def store(self) -> AssetStore:
        """The asset store behind this IO manager."""
        return AssetStore(Path(self.root))

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write a new version per partition, switch to it, and record rows, size, path and data version.

        Raises:
            ValueError: the value does not have exactly the partitions of the run.
            TypeError: the value is neither a declared table nor a model.
        """
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
        self.store.switch(*versions.values())
        self._record(context, versions)

    def _write(self, context: dg.OutputContext, value: object, partition: str | None) -> Path:
        forgotten = last_forgotten(Home(Path(self.root).parent))
        version = self.store.new_version(context.asset_key.path, partition, context.run_id, forgotten)
        if isinstance(value, TableWithState):
            (version / STATE_FOLDER).mkdir()
            value.state.save(version / STATE_FOLDER)
            value = value.table
        if isinstance(value, nw.LazyFrame):
            table = table_of(context.asset_key)
            if table is None:
                raise TypeError(
                    f"{context.asset_key.to_user_string()} has no declaration in recommender/data/tables.py"
                )
            write_table(value, table, version)
            record_id_map(self.store, version, context.asset_key.to_user_string(), table)
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
                # A text, because the UI plots every number.
                "size": f"{sum(file.stat().st_size for file in version.rglob('*') if file.is_file()):,} bytes",
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
        """The upstream asset as the annotated type: a lazy frame, a model, or a dict of them by batch.

        Raises:
            AssetMissingError: the asset was not materialized, or the Dagster instance knows no batch.
            AssetDamagedError: the files of the asset are not what was written.
            IndexMismatchError: the table was built with another id map than the present one.
            TypeError: the annotated type is neither `nw.LazyFrame` nor a model.
        """
        wanted, session = context.dagster_type.typing_type, self._session(context)
        if get_origin(wanted) is dict:
            if not context.asset_partition_keys:
                # Only the home's own Dagster instance knows its batches. A foreign DAGSTER_HOME leads here.
                home = Path(self.root).parent
                raise AssetMissingError(
                    f"This Dagster instance knows no batch of {context.asset_key.to_user_string()}. Land one with "
                    f"`recsys-assets add PATH --home {home}` and run `recsys-assets run --home {home}`. If that was "
                    f"done, start Dagster with RECSYS_HOME={home} and DAGSTER_HOME={home / 'dagster'}."
                )
            item = get_args(wanted)[1]
            return {key: self._read(context.asset_key, key, item, session) for key in context.asset_partition_keys}
        return self._read(context.asset_key, None, wanted, session)

    def _session(self, context: dg.InputContext) -> "SparkSession | None":
        """The session if Spark computes the step that loads this input."""
        if self.engine == "auto" and not any(self._is_large(key) for key in _inputs_of_step(context)):
            return None
        return None if self.engine == "polars" else session_of(self.spark)

    def session_of_checks(self) -> "SparkSession | None":
        """The session if Spark checks the tables of this home."""
        return session_of(self.spark) if self.engine != "polars" and self._is_large(_RATINGS) else None

    def _is_large(self, key: dg.AssetKey) -> bool:
        return self._n_rows(key) >= self.spark_from_rows

    def _n_rows(self, key: dg.AssetKey) -> int:
        """Rows of a stored table, or of all its batches; 0 for a model."""
        batches = self.store.batches(key.path)
        present = [partition for partition in (None, *batches) if self.store.has(key.path, partition)]
        return sum(_rows_of(self.store.current(key.path, partition)) for partition in present)

    def _read(self, key: dg.AssetKey, partition: str | None, wanted: Any, session: "SparkSession | None") -> object:
        version = self.store.current(key.path, partition)
        if wanted is nw.LazyFrame:
            require_id_map(self.store, version, key.to_user_string())
            return scan(version, session)
        if isinstance(wanted, type) and issubclass(wanted, Model):
            return load(wanted, version)
        raise TypeError(f"{key.to_user_string()}: annotate the input as nw.LazyFrame or a model type, not {wanted}")


def column_schema(table: Table) -> dg.TableSchema:
    """The column schema of a declared table, for the UI."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name,
                " or ".join(map(str, column.dtypes)),
                column.meaning,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for name, column in table.columns.items()
        ]
    )


def stored_schema(version: Path, table: Table) -> dg.TableSchema:
    """The column schema of a stored table, including its undeclared columns."""
    declared = column_schema(table).columns
    names = {column.name for column in declared}
    found = scan(version).collect_schema().items()
    return dg.TableSchema(
        columns=[*declared, *(dg.TableColumn(name, str(dtype)) for name, dtype in found if name not in names)]
    )
