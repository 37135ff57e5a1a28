"""Sparse matrices from tables: the one place where ratings leave the relational world for SciPy.

Which rows go in is decided by the stage that calls; what is done with the matrix belongs to that stage as well.
"""

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars


def user_movie_matrix(
    ratings: nw.LazyFrame, *, n_movies: int, values: str = "rating"
) -> tuple[np.ndarray, sparse.csr_array]:
    """The column `values` as a matrix of users by movies.

    Args:
        ratings: one row per (user, movie), in any order, from either engine.
        n_movies: size of the catalogue; a movie nobody rated keeps its empty column.
        values: the column the cells hold. A value of 0 is stored, so that the structure says who rated what.

    Returns:
        The users that have rows (int32, ascending) and the float32 CSR matrix of shape (len(users), n_movies) with one
        row per such user, column indices ascending within a row.

    Raises:
        ValueError: a movie lies outside 0 to n_movies - 1.
    """
    cells = (
        to_polars(ratings, "user", "movie", values)
        .cast({"user": pl.Int32, "movie": pl.Int32, values: pl.Float32})
        .sort("user", "movie")
    )
    movies = cells["movie"].to_numpy()
    if len(movies) and not (movies.min() >= 0 and movies.max() < n_movies):
        raise ValueError(
            f"movies {movies.min()} to {movies.max()} do not fit a catalogue of {n_movies}: "
            "the ratings were numbered with another index; materialize `movies` and `ratings` again"
        )
    users, counts = np.unique(cells["user"].to_numpy(), return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return users, sparse.csr_array((cells[values].to_numpy(), movies, starts), shape=(len(users), n_movies))


def mean_rating(rated: sparse.csr_array) -> float:
    """The mean of the stored cells; 0 where there are none, for then any level will do."""
    return float(rated.data.sum(dtype=np.float64)) / max(rated.nnz, 1)


def membership(lists: pl.Series) -> sparse.csr_array:
    """Which row's list holds which value: ones, shape (rows, different values), the values in order.

    Args:
        lists: of lists; null where nothing is known.
    """
    named = pl.DataFrame({"value": lists.list.unique()}).with_row_index("row").explode("value").drop_nulls("value")
    row, column = named["row"].to_numpy(), named["value"].rank("dense").to_numpy().astype(np.int64) - 1
    n_values = int(column.max(initial=-1)) + 1
    return sparse.csr_array((np.ones(len(named)), (row, column)), shape=(len(lists), n_values))
