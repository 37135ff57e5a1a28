"""Why a user is shown a movie: its own ratings that carried the movie's score most.

Models say what each rating contributes; here the contributions become a table.
"""

from collections.abc import Callable

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.matrices import user_movie_matrix
from recsys_assets.recommender.rankings import rows_of

# From the ratings of one user, shape (1, n_movies), and movies, shape (P,), to the rated movies, shape (R,), and what
# each adds to the scores, shape (R, P).
Contributions = Callable[[sparse.csr_array, np.ndarray], tuple[np.ndarray, np.ndarray]]


def reasons(
    best: pl.DataFrame, rated: nw.LazyFrame, contributions: Contributions, *, n_movies: int, n: int = 3
) -> pl.DataFrame:
    """The ratings that carried each recommendation most: user, movie, place (from 1), because (movie), rating, share.

    Only ratings that speak for the movie are reasons; a low one does where it speaks against movies unlike this one.
    `share` is what one of them adds, of all that they add. A recommendation that no rating speaks for, such as those of
    a new user, has no row.

    Args:
        best: user, movie; what is recommended.
        rated: user, movie, rating.
        contributions: of the model that recommends.
        n_movies: size of the catalogue.
        n: reasons per recommendation.
    """
    rated_users, matrix = user_movie_matrix(rated, n_movies=n_movies)
    found = [_empty()]
    for (user,), rows in best.sort("user").group_by("user", maintain_order=True):
        movies = rows["movie"].to_numpy()
        own = rows_of(np.array([user]), rated_users, matrix)
        because, added = contributions(own, movies)
        speaking = np.maximum(added, 0)
        order = np.argsort(-speaking, axis=0, kind="stable")[:n]
        value = np.take_along_axis(speaking, order, axis=0)
        place, column = np.nonzero(value > 0)
        share = value[place, column] / speaking.sum(axis=0)[column]
        reason = because[order[place, column]]
        rating = own.toarray()[0, reason]
        columns = (np.full(len(place), user), movies[column], place + 1, reason, rating, share)
        found.append(pl.DataFrame(dict(zip(_empty().columns, columns, strict=True)), schema=_empty().schema))
    return pl.concat(found).sort("user", "movie", "place")


def _empty() -> pl.DataFrame:
    ids = dict.fromkeys(("user", "movie", "place", "because"), pl.Int32)
    return pl.DataFrame(schema={**ids, "rating": pl.Float32, "share": pl.Float64})
