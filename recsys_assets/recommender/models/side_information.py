"""Side information: attributes and profiles of users and items as matrices by dense id.

Attributes come from the tables. A profile says which items a user rated, or which users rated an item, whatever the
rating. Each model chooses what it uses.
"""

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.features.matrices import membership
from recsys_assets.recommender.models.demographic_popularity import feature_matrix

# A numeric attribute with at most this many values, such as the age groups of MovieLens 1M, is one-hot encoded as well.
_FEW_VALUES = 10
_MAX_GENRES = 50
_RIDGE = 10.0
# Clip of a profile, in standard deviations. Without it, a few users are fifty times as extreme as others, and a model
# can predict ratings of -5 and 11 for them.
_LARGEST_DEVIATION = 8.0


def user_attributes(user_features: nw.LazyFrame) -> np.ndarray:
    """Return the features of all users, plus one-hot columns for numbers of few values: shape (n_users, F), float64."""
    features = feature_matrix(user_features)
    values = [np.unique(column) for column in features.T]
    one_hot = [column[:, None] == few for column, few in zip(features.T, values, strict=True) if _is_few(len(few))]
    return np.hstack([features, *one_hot]).astype(np.float64)


def _is_few(n_values: int) -> bool:
    # A number with two values needs no second encoding.
    return 2 < n_values <= _FEW_VALUES


def item_attributes(items: nw.LazyFrame) -> np.ndarray:
    """Return one-hot genres, the scaled year and its square: shape (n_items, F), float64.

    A missing year becomes the mean. Genres count if at least two items share them; of more than 50, such as free tags,
    the 50 most frequent.
    """
    table = to_polars(items, "item", "year", "genres").sort("item")
    genres = membership(table["genres"])
    counts = genres.sum(axis=0)
    common = np.sort(np.argsort(-counts, kind="stable")[:_MAX_GENRES])
    common = common[counts[common] > 1]
    year = scaled(table["year"].cast(pl.Float64).fill_null(float("nan")).to_numpy())
    return np.column_stack([genres[:, common].toarray(), year, year**2])


def scaled(values: np.ndarray) -> np.ndarray:
    """Scale to mean 0 and variance 1; NaN becomes 0."""
    known = ~np.isnan(values)
    spread = values[known].std() if known.any() else 0.0
    return np.where(known, values - values[known].mean(), 0) / spread if spread > 0 else np.zeros(len(values))


def log_counts(counts: np.ndarray) -> np.ndarray:
    """Return the scaled logarithm of numbers of ratings; 0 for no rating, which says nothing yet."""
    return scaled(np.where(counts > 0, np.log(np.maximum(counts, 1)), np.nan))


def profiles(rated: sparse.csr_array, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute profiles of users, shape (U, C), and of items, shape (M, C), from who rated what.

    Profiles are the singular vectors of the matrix of stored cells, in which each cell is divided by the roots of its
    user's and its item's number of ratings. Columns have mean 0 and variance 1 over rows with ratings; other rows are
    0. Values are clipped to ±8.

    Args:
        rated: users by items; the values do not count.
        n_components: number of dimensions C; at most one less than the shorter side of the matrix.
    """
    from sklearn.utils.extmath import randomized_svd

    cells = sparse.csr_array((np.ones(rated.nnz, np.float32), rated.indices, rated.indptr), shape=rated.shape)
    users, items = cells.sum(axis=1), cells.sum(axis=0)
    weights = [sparse.diags_array((1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)) for counts in (users, items)]
    size = max(1, min(n_components, min(rated.shape) - 1))
    left, _, right = randomized_svd(sparse.csr_array(weights[0] @ cells @ weights[1]), size, random_state=0)
    return _standard(left, users > 0), _standard(right.T, items > 0)


def unexplained(values: np.ndarray, by: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the residuals of `values` regressed on attributes, shape (n, C), scaled to variance 1; 0 for unknown rows.

    A regression on the attributes and these residuals has the same coefficients of the attributes as one on the
    attributes alone. It therefore stays right for users and items with attributes only.

    Args:
        values: shape (n, C).
        by: attributes, shape (n, F).
        known: which rows have values, shape (n,).
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
