"""The indexed tables of an archive in memory, for the scripts beside it."""

from pathlib import Path

import narwhals as nw

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.sources import read_source


def indexed(archive: Path, scratch: Path) -> dict[str, nw.LazyFrame]:
    """The tables `users`, `movies` and `ratings`.

    Args:
        archive: any source that can be read.
        scratch: folder for temporary files.
    """
    source = read_source(archive, scratch=scratch)
    raw = {name: [lazy(getattr(source, name))] for name in ("ratings", "users", "movies")}
    users = lazy(to_polars(merge.index_users(raw["users"], raw["ratings"])))
    movies = lazy(to_polars(merge.index_movies(raw["movies"], raw["ratings"])))
    ratings = lazy(to_polars(merge.merge_ratings(raw["ratings"], users, movies)))
    return {"users": users, "movies": movies, "ratings": ratings}
