"""Takes a batch out of a home: its source, its raw tables, and what Dagster knows of it."""

from pathlib import Path

import dagster as dg

from recsys_assets.home.batches import RAW_TABLES
from recsys_assets.home.landing import changing, move_out
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets.ingest import rests_on
from recsys_assets.orchestration.partitions import BATCHES


def read_once(home: Home) -> set[str]:
    """The batches of which any raw table is stored, or which `ratings` was merged from.

    A removal that was killed on its way may leave no more than one of these.
    """
    stored = {name for asset in RAW_TABLES for name in AssetStore(home.assets).batches([asset])}
    home.prepare()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        return stored | {str(name) for name in rests_on(instance).get("batches", ())}


def take_out(home: Home, batch: str) -> Path | None:
    """Move what landed aside, make Dagster forget the batch, delete its raw tables; in this order, so that what is
    interrupted can be done again.

    Returns:
        Where lies what landed; None where nothing of that name lay in landing/.
    """
    with changing(home):
        moved_to = move_out(home, batch) if batch in home.landed_batches() else None
    (home.rejected / f"{batch}.csv").unlink(missing_ok=True)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        if batch in instance.get_dynamic_partitions(str(BATCHES.name)):
            instance.delete_dynamic_partition(str(BATCHES.name), batch)
    for asset in RAW_TABLES:
        AssetStore(home.assets).remove([asset], batch)
    return moved_to
