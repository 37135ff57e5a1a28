"""Splits that come with the data: MovieLens 100K's five folds, so that scores can be put beside published ones.

Splits that are drawn here are in `recommender.splitting`.
"""

from pathlib import PurePosixPath

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.errors import SourceError

_SIDES = {"train": "base", "test": "test"}
_FOLDS = ("u1", "u2", "u3", "u4", "u5")
_EXAMPLE = "1<tab>6<tab>5<tab>887431973"
_FIELDS = ("user_id", "movie_id", "rating", "timestamp")


def published_folds(source: Source, users: nw.LazyFrame, movies: nw.LazyFrame) -> pl.DataFrame | None:
    """The folds u1 to u5 (files u1.base and u1.test, and so on) of a source, by dense ids: table `published_folds`.

    Args:
        source: a landed source.
        users: table users.
        movies: table movies.

    Returns:
        A row per fold and pair of user and movie; pairs with a user or movie that the tables do not have, such as those
        of a sample, are left out. None where the source has no such files.

    Raises:
        SourceError: a file is there and cannot be read.
    """
    names = {PurePosixPath(name).name: name for name in source.names}
    whole = [fold for fold in _FOLDS if all(f"{fold}.{ending}" in names for ending in _SIDES.values())]
    if not whole:
        return None
    parts = [
        _pairs(source, names[f"{fold}.{ending}"]).with_columns(fold=pl.lit(fold), partition=pl.lit(side))
        for fold in whole
        for side, ending in _SIDES.items()
    ]
    known = (
        pl.concat(parts)
        .join(to_polars(users, "user", "user_id"), on="user_id")
        .join(to_polars(movies, "movie", "movie_id"), on="movie_id")
    )
    table = TABLES["published_folds"]
    return to_polars(conform(lazy(known), table)).sort(table.order)


def _pairs(source: Source, name: str) -> pl.DataFrame:
    """The ids of users and movies of one file."""
    schema = dict.fromkeys(_FIELDS, pl.String)
    try:
        rows = pl.read_csv(source.file(name), separator="\t", has_header=False, schema=schema, quote_char=None)
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{name}: not lines such as {_EXAMPLE!r} ({error}); get the archive again.") from error
    gap = rows.select(pl.any_horizontal(pl.all().is_null())).to_series().arg_true()
    if len(gap):
        raise SourceError(f"{name}, line {gap[0] + 1}: expected a line such as {_EXAMPLE!r}; get the archive again.")
    return rows.select("user_id", "movie_id")
