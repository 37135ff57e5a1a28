"""What is known of users and movies beside single ratings, as matrices of numbers by dense index.

Attributes come from the tables; profiles say who rated what, whatever the rating. Which model uses which is its own
business.
"""

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.features.matrices import membership
from recsys_assets.recommender.models.liking import feature_matrix

# A number with this few values, such as MovieLens 1M's age groups, is a category as well.
_FEW_VALUES = 10
_MAX_GENRES = 50
_RIDGE = 10.0
# Standard deviations beyond which a profile says no more: some users rate like nobody else, and a model that takes them
# for fifty times as extreme as the others can predict ratings of -5 and 11 for them.
_LARGEST_DEVIATION = 8.0


def user_attributes(user_features: nw.LazyFrame) -> np.ndarray:
    """The features of everybody, numbers of few values one-hot beside: shape (n_users, F), float64."""
    features = feature_matrix(user_features)
    values = [np.unique(column) for column in features.T]
    one_hot = [column[:, None] == few for column, few in zip(features.T, values, strict=True) if _is_few(len(few))]
    return np.hstack([features, *one_hot]).astype(np.float64)


def _is_few(n_values: int) -> bool:
    # Two values are one-hot already.
    return 2 < n_values <= _FEW_VALUES


def movie_attributes(movies: nw.LazyFrame) -> np.ndarray:
    """Genres one-hot, the scaled year and its square: shape (n_movies, F), float64. A missing year is the mean.

    Of the genres those that movies share; of many, such as free tags, the 50 most frequent.
    """
    table = to_polars(movies, "movie", "year", "genres").sort("movie")
    genres = membership(table["genres"])
    counts = genres.sum(axis=0)
    common = np.sort(np.argsort(-counts, kind="stable")[:_MAX_GENRES])
    common = common[counts[common] > 1]
    year = scaled(table["year"].cast(pl.Float64).fill_null(float("nan")).to_numpy())
    return np.column_stack([genres[:, common].toarray(), year, year**2])


def scaled(values: np.ndarray) -> np.ndarray:
    """To mean 0 and variance 1, NaN to 0."""
    known = ~np.isnan(values)
    spread = values[known].std() if known.any() else 0.0
    return np.where(known, values - values[known].mean(), 0) / spread if spread > 0 else np.zeros(len(values))


def log_counts(counts: np.ndarray) -> np.ndarray:
    """The scaled logarithm of numbers of ratings, 0 where there are none: that says nothing yet."""
    return scaled(np.where(counts > 0, np.log(np.maximum(counts, 1)), np.nan))


def profiles(rated: sparse.csr_array, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Who rated what, whatever the rating, in few dimensions: of users, shape (U, C), and of movies, (M, C).

    The singular vectors of the matrix of stored cells, each divided by the roots of its user's and its movie's number
    of ratings; columns have mean 0 and variance 1 over those with ratings, all others are 0. No value is more than 8.

    Args:
        rated: users by movies.
        n_components: wanted; at most one less than the shorter side.
    """
    from sklearn.utils.extmath import randomized_svd

    cells = sparse.csr_array((np.ones(rated.nnz, np.float32), rated.indices, rated.indptr), shape=rated.shape)
    users, movies = cells.sum(axis=1), cells.sum(axis=0)
    weights = [
        sparse.diags_array((1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)) for counts in (users, movies)
    ]
    size = max(1, min(n_components, min(rated.shape) - 1))
    left, _, right = randomized_svd(sparse.csr_array(weights[0] @ cells @ weights[1]), size, random_state=0)
    return _standard(left, users > 0), _standard(right.T, movies > 0)


def unexplained(values: np.ndarray, by: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What attributes do not tell of `values`, shape (n, C), at variance 1; 0 where nothing is known.

    A regression on attributes and this has the same coefficients of the attributes as one on them alone. So it stays
    right for those of whom nothing else is known.

    Args:
        values: shape (n, C).
        by: attributes, shape (n, F).
        known: shape (n,).
    """
    design = np.column_stack([np.ones(len(by)), by])
    system = design[known].T @ design[known] + _RIDGE * np.eye(design.shape[1])
    return _standard(values - design @ np.linalg.solve(system, design[known].T @ values[known]), known)


def _standard(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not known.any():
        return np.zeros_like(values)
    spread = values[known].std(axis=0)
    standard = np.where(known[:, None], values - values[known].mean(axis=0), 0) / np.where(spread > 0, spread, 1)
    return np.clip(standard, -_LARGEST_DEVIATION, _LARGEST_DEVIATION)
