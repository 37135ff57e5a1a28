"""What a home holds of users who are to be forgotten: landed sources, raw tables, old versions; and how it is erased.

The commands that do it are in `cli/batches.py`. What is computed from the ratings is made anew by a run.
"""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import narwhals as nw
import polars as pl

from recsys_assets.batches import RAW_TABLES, Batch
from recsys_assets.home import Home
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.leaving_out import WITHHELD, withhold
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.settings import DataSettings
from recsys_assets.storage import TABLE_FILE, AssetStore, scan


def rewrite_landed(home: Home, forgotten: Collection[str], settings: DataSettings) -> tuple[list[str], list[str]]:
    """Replace every landed source that names a forgotten user by Parquet files of its good rows without them.

    Returns:
        Names of the batches that were rewritten, and of those that held nothing else and are to be removed.
    """
    rewritten, emptied = [], []
    for name in home.landed_batches():
        with tempfile.TemporaryDirectory(dir=home.scratch) as scratch:
            try:
                batch = Batch.open(home, name, settings, Path(scratch))
                if not _names(batch.tables, forgotten):
                    continue
                kept = _rewritten(batch, Path(scratch) / "new")
            except SourceError:
                # Nothing of it was ever read, and every run says so.
                continue
            if kept is None:
                emptied.append(name)
            else:
                _exchange(kept, home.batch(name))
                rewritten.append(name)
    return rewritten, emptied


def rewrite_stored(home: Home, forgotten: Collection[str]) -> None:
    """Take forgotten users out of raw tables whose source is gone, so that they cannot be read again."""
    store, landed = AssetStore(home.assets), set(home.landed_batches())
    for asset in RAW_TABLES:
        for name in set(store.batches([asset])) - landed:
            rows: pl.LazyFrame = scan(store.current([asset], name)).to_native()
            kept = _without(rows, forgotten)
            if kept is None:
                continue
            version = store.new_version([asset], name, "compact")
            kept.sink_parquet(version / TABLE_FILE)
            store.switch(version)


def is_known_user(home: Home, user_id: str) -> bool:
    """Whether any batch that was read names the user."""
    store = AssetStore(home.assets)
    tables = [
        scan(store.current([asset], name)) for asset in ("raw_users", "raw_ratings") for name in store.batches([asset])
    ]
    return any(len(frame.filter(nw.col("user_id").cast(nw.String()) == user_id).head(1).collect()) for frame in tables)


def _names(tables: SourceTables, forgotten: Collection[str]) -> bool:
    is_one = pl.col("user_id").cast(pl.String).is_in(sorted(forgotten))
    parts = [frame.select(is_one.any().alias("any")) for frame in (tables.ratings, tables.users)]
    withheld = withhold(tables.rejected, forgotten).select((pl.col("text") == WITHHELD).any().alias("any"))
    return any(part["any"][0] for part in pl.collect_all([*parts, withheld], engine="streaming"))


def _rewritten(batch: Batch, folder: Path) -> Path | None:
    """The batch without forgotten users as Parquet files; None if no rating is left."""
    ratings = batch.table("raw_ratings").drop("row").collect(engine="streaming")
    if ratings.is_empty():
        return None
    folder.mkdir()
    ratings.write_parquet(folder / "ratings.parquet")
    for name in ("users", "movies"):
        rows = batch.table(f"raw_{name}").collect(engine="streaming")
        if not rows.is_empty():
            rows.write_parquet(folder / f"{name}.parquet")
    return folder


def _exchange(new: Path, landed: Path) -> None:
    old = new.with_name("old")
    landed.rename(old)
    new.rename(landed)
    shutil.rmtree(old) if old.is_dir() else old.unlink()


def _without(rows: pl.LazyFrame, forgotten: Collection[str]) -> pl.LazyFrame | None:
    """The rows without forgotten users; None if there are none of theirs."""
    names = rows.collect_schema().names()
    if "user_id" in names:
        is_one = pl.col("user_id").cast(pl.String).is_in(sorted(forgotten))
        return rows.filter(~is_one) if rows.select(is_one.any()).collect().item() else None
    if "text" not in names:
        return None
    kept = withhold(rows, forgotten)
    return kept if kept.select((pl.col("text") == WITHHELD).any()).collect().item() else None
