"""Runs of parts of the graph in a home of the test's own."""

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.orchestration.assets import ASSETS
from recsys_assets.orchestration.build import build_defs


def copied(home: Home, folder: Path) -> Home:
    """The home again, in another folder, to change at will."""
    beside_a_database = shutil.ignore_patterns("*.db-wal", "*.db-shm", "*.db-journal")
    shutil.copytree(home.path, folder, symlinks=True, ignore=beside_a_database, copy_function=_copy)
    return Home(folder)


def _copy(source: str, target: str) -> None:
    """A file; a database as SQLite copies it, as another worker may have it open and its log can go at any time."""
    if not source.endswith(".db"):
        shutil.copy2(source, target)
        return
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(target)) as copy:
        database.backup(copy)


def materialize(home: Home, selection: str, run_config: Mapping[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    """Materialize a selection of assets in this process; what is upstream of it must be there."""
    defs = build_defs(home=home)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("batches", AssetStore(home.assets).batches(["raw_ratings"]))
        return dg.materialize(
            ASSETS,
            selection=dg.AssetSelection.from_string(selection),
            resources=dict(defs.resources or {}),
            instance=instance,
            run_config=run_config,
        )


def table(home: Home, *asset: str) -> pl.DataFrame:
    """What an asset holds."""
    return scan(AssetStore(home.assets).current(asset)).collect().to_native()


def files(home: Home, *asset: str) -> dict[str, bytes]:
    """The files of an asset's present version, to the letter."""
    version = AssetStore(home.assets).current(asset)
    return {str(path.relative_to(version)): path.read_bytes() for path in version.rglob("*") if path.is_file()}
