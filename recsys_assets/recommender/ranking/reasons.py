"""Reasons of a recommendation: the user's own ratings that added most to the item's score.

Models compute the contributions of ratings; this module turns them into a table.
"""

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.ranking.rankings import Ranker, rows_of

_SCHEMA = {**dict.fromkeys(("user", "item", "place", "because"), pl.Int32), "rating": pl.Float32, "share": pl.Float64}


def reasons(best: pl.DataFrame, rated: nw.LazyFrame, ranker: Ranker, *, n: int = 3) -> pl.DataFrame:
    """Return the ratings behind each recommendation: user, item, place (from 1), because (item), rating, share.

    A reason is a rating of another item that raises the item's score. A low rating can be one: disliking an unlike
    item raises the score of this one. `share` is the part of all that the user's ratings add to the score. A
    recommendation that no rating raises has no row, such as every recommendation for a new user.

    Args:
        best: user, item; the recommendations.
        rated: user, item, rating.
        ranker: the model that recommends.
        n: reasons per recommendation.
    """
    if ranker.contributions is None:
        return pl.DataFrame(schema=_SCHEMA)
    sought = best.sort("user", "item")
    users, starts = np.unique(sought["user"].to_numpy(), return_index=True)
    items_of = np.split(sought["item"].to_numpy(), starts[1:])
    own = rows_of(users, *user_item_matrix(rated, n_items=len(ranker.item_known)))
    found = []
    for row in np.flatnonzero(np.diff(own.indptr)):
        cells = slice(own.indptr[row], own.indptr[row + 1])
        because, rating, items = own.indices[cells], own.data[cells], items_of[row]
        speaking = np.maximum(ranker.contributions(because, rating, items), 0)
        # An item that comes back is no reason for itself.
        speaking[because[:, None] == items] = 0
        order = np.argsort(-speaking, axis=0, kind="stable")[:n]
        value = np.take_along_axis(speaking, order, axis=0)
        column, place = np.nonzero(value.T > 0)
        reason = order[place, column]
        share = value[place, column] / speaking.sum(axis=0)[column]
        user = np.full(len(place), users[row])
        found.append((user, items[column], place + 1, because[reason], rating[reason], share))
    columns = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pl.DataFrame(dict(zip(_SCHEMA, columns, strict=False)), schema=_SCHEMA)
