"""The indexed tables of an archive in memory, for the scripts beside it."""

from pathlib import Path

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.sources import read_source


def indexed(archive: Path, scratch: Path, tenth: int | None = None) -> dict[str, nw.LazyFrame]:
    """The tables `users`, `items` and `ratings`.

    Args:
        archive: any source that can be read.
        scratch: folder for temporary files.
        tenth: seed of a sample of a tenth of the users, with all of their ratings; by default everybody.
    """
    source = read_source(archive, scratch=scratch)
    raw = {name: [lazy(getattr(source, name))] for name in ("ratings", "users", "items")}
    if tenth is not None:
        chosen = (pl.col("user_id").hash(tenth) % 10) == 0
        for name in ("ratings", "users"):
            raw[name] = [lazy(to_polars(table).filter(chosen)) for table in raw[name]]
        rated = to_polars(raw["ratings"][0])["item_id"].unique()
        raw["items"] = [lazy(to_polars(raw["items"][0]).filter(pl.col("item_id").is_in(rated.implode())))]
    users = lazy(to_polars(merge.index_users(raw["users"], raw["ratings"])))
    items = lazy(to_polars(merge.index_items(raw["items"], raw["ratings"])))
    ratings = lazy(to_polars(merge.merge_ratings(raw["ratings"], users, items)))
    return {"users": users, "items": items, "ratings": ratings}
