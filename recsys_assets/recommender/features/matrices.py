"""Builds CSR matrices from tables: the only place where ratings leave the relational world for SciPy.

The caller chooses the rows and works with the matrix.
"""

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars


def user_item_matrix(
    ratings: nw.LazyFrame, *, n_items: int, values: str = "rating"
) -> tuple[np.ndarray, sparse.csr_array]:
    """Return the column `values` as a CSR matrix of users by items.

    Args:
        ratings: one row per (user, item), in any order, on either engine.
        n_items: size of the catalogue. An item without rating has an empty column.
        values: column that fills the cells. A value of 0 is stored explicitly, so that the structure says who rated
            what.

    Returns:
        The users with a row (int32, ascending), and the float32 CSR matrix of shape (len(users), n_items) with one row
        per such user. Column indices ascend within a row.

    Raises:
        ValueError: an item number is outside 0 to n_items - 1.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> ratings = pl.DataFrame({"user": [7, 3, 7], "item": [2, 0, 0], "rating": [4.0, 5.0, 1.0]})
        >>> users, matrix = user_item_matrix(lazy(ratings), n_items=3)
        >>> users.tolist(), matrix.toarray().tolist()
        ([3, 7], [[5.0, 0.0, 0.0], [1.0, 0.0, 4.0]])
    """
    cells = (
        to_polars(ratings, "user", "item", values)
        .cast({"user": pl.Int32, "item": pl.Int32, values: pl.Float32})
        .sort("user", "item")
    )
    items = cells["item"].to_numpy()
    if len(items) and not (items.min() >= 0 and items.max() < n_items):
        raise ValueError(
            f"items {items.min()} to {items.max()} do not fit a catalogue of {n_items}: "
            "the ratings were numbered with another index; materialize `items` and `ratings` again"
        )
    users, counts = np.unique(cells["user"].to_numpy(), return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return users, sparse.csr_array((cells[values].to_numpy(), items, starts), shape=(len(users), n_items))


def mean_rating(rated: sparse.csr_array) -> float:
    """Return the mean of the stored cells; 0 if there are none, where any level does."""
    return float(rated.data.sum(dtype=np.float64)) / max(rated.nnz, 1)


def membership(lists: pl.Series) -> sparse.csr_array:
    """Encode lists as a CSR matrix of ones, shape (rows, distinct values), with the values in sorted order.

    Args:
        lists: one list per row; null where nothing is known.
    """
    named = pl.DataFrame({"value": lists.list.unique()}).with_row_index("row").explode("value").drop_nulls("value")
    row, column = named["row"].to_numpy(), named["value"].rank("dense").to_numpy().astype(np.int64) - 1
    n_values = int(column.max(initial=-1)) + 1
    return sparse.csr_array((np.ones(len(named)), (row, column)), shape=(len(lists), n_values))
