"""Published splits: reads the five folds of MovieLens 100K, so that scores are comparable with published ones.

All other splits belong in `data.splitting`.
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
_FIELDS = ("user_id", "item_id", "rating", "timestamp")


def published_folds(source: Source, users: nw.LazyFrame, items: nw.LazyFrame) -> pl.DataFrame | None:
    """The folds u1 to u5 of a source (files u1.base, u1.test, …) with dense ids: table `published_folds`.

    Args:
        source: a landed source.
        users: table users.
        items: table items.

    Returns:
        One row per fold and (user, item) pair. Pairs with an unknown user or item are left out, for example in a
        sample. None if the source has no such files.

    Raises:
        SourceError: a file of the folds cannot be read.
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
        .join(to_polars(items, "item", "item_id"), on="item_id")
    )
    table = TABLES["published_folds"]
    return to_polars(conform(lazy(known), table)).sort(table.order)


def _pairs(source: Source, name: str) -> pl.DataFrame:
    """The user and item ids in one file."""
    schema = dict.fromkeys(_FIELDS, pl.String)
    try:
        rows = pl.read_csv(source.file(name), separator="\t", has_header=False, schema=schema, quote_char=None)
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{name}: not lines such as {_EXAMPLE!r} ({error}); get the archive again.") from error
    gap = rows.select(pl.any_horizontal(pl.all().is_null())).to_series().arg_true()
    if len(gap):
        raise SourceError(f"{name}, line {gap[0] + 1}: expected a line such as {_EXAMPLE!r}; get the archive again.")
    return rows.select("user_id", "item_id")
