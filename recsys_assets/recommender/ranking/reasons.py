"""Reasons of a recommendation: the user's own ratings that added most to the item's score.

Models compute the contributions of ratings; this module turns them into a table.
"""

from collections.abc import Iterator
from itertools import pairwise

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.threads import in_threads
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.ranking.rankings import Contributions, Ranker, pairs, rows_of

_SCHEMA = {**dict.fromkeys(("user", "item", "place", "because"), pl.Int32), "rating": pl.Float32, "share": pl.Float64}
# Pairs of a rating and a recommendation per block: 8 MB for each array of float32.
_PAIRS_PER_BLOCK = 2_000_000


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
    nothing = pl.DataFrame(schema=_SCHEMA)
    if ranker.contributions is None:
        return nothing
    contributions = ranker.contributions
    sought = best.sort("user", "item")
    users, row = np.unique(sought["user"].to_numpy(), return_inverse=True)
    own = rows_of(users, *user_item_matrix(rated, n_items=len(ranker.item_known)))
    has_rated = np.diff(own.indptr)[row] > 0
    row, items = row[has_rated], sought["item"].to_numpy()[has_rated]

    def of_block(block: slice) -> pl.DataFrame:
        first, last = row[block][[0, -1]]
        return _of_block(
            users[first : last + 1], own[first : last + 1], row[block] - first, items[block], contributions, n
        )

    return pl.concat([nothing, *in_threads(of_block, _blocks(np.diff(own.indptr)[row]))])


def _blocks(n_ratings: np.ndarray) -> Iterator[slice]:
    """Yield slices of recommendations, given the number of ratings of the user of each."""
    block = np.cumsum(n_ratings) // _PAIRS_PER_BLOCK
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1), len(block)]
    return (slice(start, end) for start, end in pairwise(bounds) if start < end)


def _of_block(
    users: np.ndarray, own: sparse.csr_array, row: np.ndarray, items: np.ndarray, contributions: Contributions, n: int
) -> pl.DataFrame:
    """Return the reasons of the recommendations of `items` to the users of these rows, each with a rating."""
    cell, recommended = pairs(own, row)
    speaking = np.maximum(contributions(own, row, items), 0)
    # An item that comes back is no reason for itself.
    speaking[own.indices[cell] == items[recommended]] = 0
    counts = np.diff(own.indptr)[row]
    starts = np.cumsum(counts) - counts
    totals = np.add.reduceat(speaking, starts, dtype=np.float64)
    found = []
    for place in range(1, n + 1):
        value = np.maximum.reduceat(speaking, starts)
        at_top = np.flatnonzero(speaking == np.repeat(value, counts))
        # Of equal ratings, the one of the item with the lowest dense id.
        pair = at_top[np.searchsorted(at_top, starts)]
        speaking[pair] = 0
        of = np.flatnonzero(value > 0)
        reason = cell[pair[of]]
        columns = (users[row[of]], items[of], np.full(len(of), place), own.indices[reason], own.data[reason])
        found.append((*columns, value[of] / totals[of]))
    table = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pl.DataFrame(dict(zip(_SCHEMA, table, strict=True)), schema=_SCHEMA).sort("user", "item", "place")
