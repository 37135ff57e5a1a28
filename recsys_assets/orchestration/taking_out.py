"""Removes a batch from a home: its landed file, its raw tables and its partition.

Landed files are moved by `home.landing`. `planning` merges the remaining batches.
"""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from recsys_assets.home.batches import RAW_TABLES, forget_refusal
from recsys_assets.home.history_database import configure, require_database
from recsys_assets.home.landing import changing, move_out
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets.ingest import rests_on
from recsys_assets.orchestration.partitions import BATCHES


def read_once(home: Home) -> set[str]:
    """The batches that have a raw table in the store, or that `ratings` was merged from.

    Both count, because a removal that was killed may have left only one of these traces.
    """
    stored = {name for asset in RAW_TABLES for name in AssetStore(home.assets).batches([asset])}
    if variable := configure(home):
        require_database(home, variable)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        return stored | {str(name) for name in rests_on(instance).get("batches", ())}


def take_out(home: Home, batch: str, waiting: Callable[[], None] = lambda: None) -> Path | None:
    """Move the landed file aside, delete the batch's raw tables, then delete its partition.

    This order allows an interrupted removal to be repeated. A batch with all raw tables counts as ingested, so their
    deletion comes before that of the partition: the next `run` would add the partition again.

    Args:
        home: the home.
        batch: name of the batch.
        waiting: called if another command changes `landing/`.

    Returns:
        New path of the landed file; None if `landing/` has no file of that name.
    """
    with changing(home, waiting):
        moved_to = move_out(home, batch) if batch in home.landed_batches() else None
    (home.rejected / f"{batch}.csv").unlink(missing_ok=True)
    forget_refusal(home, batch)
    for asset in RAW_TABLES:
        AssetStore(home.assets).remove([asset], batch)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        if batch in instance.get_dynamic_partitions(str(BATCHES.name)):
            instance.delete_dynamic_partition(str(BATCHES.name), batch)
    return moved_to
