"""The indexed tables of an archive in memory, for the scripts beside it."""

from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.sources import read_source


def indexed(archive: Path, scratch: Path, tenth: int | None = None, **rules: Any) -> dict[str, nw.LazyFrame]:
    """The tables `users`, `items` and `ratings`, of ratings or of events.

    Args:
        archive: any source that can be read.
        scratch: folder for temporary files.
        tenth: seed of a sample of a tenth of the users, with all of their ratings; by default everybody.
        rules: as `read_source` takes them, such as `ignore=("rating",)`.
    """
    source = read_source(archive, scratch=scratch, **rules)
    raw = {name: [lazy(getattr(source, name))] for name in ("ratings", "users", "items")}
    if tenth is not None:
        chosen = (pl.col("user_id").hash(tenth) % 10) == 0
        for name in ("ratings", "users"):
            raw[name] = [lazy(to_polars(table).filter(chosen)) for table in raw[name]]
        rated = to_polars(raw["ratings"][0])["item_id"].unique()
        raw["items"] = [lazy(to_polars(raw["items"][0]).filter(pl.col("item_id").is_in(rated.implode())))]
    users = lazy(to_polars(merge.index_users(raw["users"], raw["ratings"])))
    items = lazy(to_polars(merge.index_items(raw["items"], raw["ratings"])))
    if source.kind is not None and source.kind.is_events:
        merged = merge.add_up_events(raw["ratings"], users, items, damping="log1p")
    else:
        merged = merge.merge_ratings(raw["ratings"], users, items)
    return {"users": users, "items": items, "ratings": lazy(to_polars(merged))}
