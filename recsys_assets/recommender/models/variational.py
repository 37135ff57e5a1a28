"""Variational inference of a factorisation of sparse ratings, with a regression on attributes as prior.

This module takes and returns arrays. `bayesian_factors` says what rows and columns stand for and supplies attributes.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

# Precisions of a bias, a factor and a rating before priors are learnt, in units of the ratings' variance.
_BIAS_PRECISION, _FACTOR_PRECISION, _NOISE_PRECISION = 4.0, 10.0, 1.5
# Iterations before priors are learnt. Priors learnt from random factors would shrink everything to 0.
_BURN_IN = 2
# Shrinkage of a row's noise: ratings with average noise that are added to the row's own.
_NOISE_SHRINKAGE = 20.0
# Iterations per update of the noise, which changes slowly and takes as long as an update of users and items.
_NOISE_EVERY = 3


@dataclass(frozen=True)
class Prior:
    """Normal prior of bias and factors, with a mean that is linear in attributes.

    Attributes:
        links: coefficients of the mean, shape (1 + F, K); the first row is the intercept.
        precision: shape (K, K).
    """

    links: np.ndarray
    precision: np.ndarray

    def means(self, side: np.ndarray) -> np.ndarray:
        """Return the prior means, shape (n, K), for attributes of shape (n, F)."""
        return self.links[0] + side @ self.links[1:]


@dataclass(frozen=True)
class Factorisation:
    """Result of `factorise`. K is 1 + rank; column 0 is the bias.

    Attributes:
        users: posterior means, shape (U, K).
        items: posterior means, shape (M, K).
        user_prior: prior of the users.
        noise: mean precision of a rating.
    """

    users: np.ndarray
    items: np.ndarray
    user_prior: Prior
    noise: float


def factorise(
    rated: sparse.csr_array,
    user_side: np.ndarray,
    item_side: np.ndarray,
    *,
    rank: int,
    max_iter: int,
    reg_links: float,
    seed: int,
) -> Factorisation:
    """Maximise the variational bound by coordinate ascent over users, noise, items and both priors.

    Args:
        rated: ratings minus their mean, shape (U, M), float32.
        user_side: attributes, shape (U, F).
        item_side: attributes, shape (M, G).
        rank: number of factors.
        max_iter: number of iterations.
        reg_links: regularisation of the regressions on attributes.
        seed: seed of the starting factors.
    """
    by_item = sparse.csr_array(rated.T)
    # Without ratings, or with equal ratings, the variance is 0 and any unit does.
    variance = float((rated.data.astype(np.float64) ** 2).sum()) / max(rated.nnz, 1) or 1.0
    # The product of two factors has the unit of a rating, so each factor has the unit's root.
    units = np.full(1 + rank, variance**0.25)
    units[0] = variance**0.5
    user_prior, item_prior = (_start(side.shape[1], units) for side in (user_side, item_side))
    items = np.random.default_rng(seed).normal(0, 0.1 * units[-1], (rated.shape[1], 1 + rank))
    items[:, 0] = 0
    item_covariances = np.zeros((rated.shape[1], 1 + rank, 1 + rank), np.float32)
    noise = np.full(rated.shape[0], _NOISE_PRECISION / variance)
    regressions = [_regression(side, reg_links) for side in (user_side, item_side)]
    for iteration in range(max_iter + 1):
        users, user_covariances = posterior(
            rated, items, item_covariances, user_prior.means(user_side), user_prior, noise
        )
        if iteration == max_iter:
            break
        if iteration >= _BURN_IN:
            user_prior = _learnt(users, user_covariances, user_side, regressions[0], reg_links, units)
            if rated.nnz and (iteration - _BURN_IN) % _NOISE_EVERY == 0:
                noise = _noise(rated, users, user_covariances, items, item_covariances)
        items, item_covariances = posterior(
            by_item, users, user_covariances, item_prior.means(item_side), item_prior, noise, per_row=False
        )
        if iteration >= _BURN_IN:
            item_prior = _learnt(items, item_covariances, item_side, regressions[1], reg_links, units)
    return Factorisation(users, items, user_prior, float(noise.mean()))


def posterior(
    rated: sparse.csr_array,
    others: np.ndarray,
    other_covariances: np.ndarray,
    expected: np.ndarray,
    prior: Prior,
    noise: np.ndarray,
    *,
    per_row: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior means, shape (n, K), and covariances, shape (n, K, K), of the rows, given the columns.

    Args:
        rated: shape (n, m).
        others: posterior means of the columns, shape (m, K).
        other_covariances: posterior covariances of the columns, shape (m, K, K).
        expected: prior means of the rows, shape (n, K).
        prior: prior of the rows.
        noise: precision of the ratings of each row, shape (n,), or of each column, shape (m,).
        per_row: whether `noise` is per row.
    """
    from recsys_assets.recommender.models.kernels import fill_covariances, fill_targets, in_threads

    weight = np.ones((len(others), 1), np.float32) if per_row else noise[:, None].astype(np.float32)
    own_noise = noise if per_row else np.ones(len(expected))
    design, bias = others.astype(np.float32), others[:, :1].astype(np.float32)
    design[:, 0] = 1
    moments = second_moments(design, other_covariances, weight[:, 0])
    covered = other_covariances[:, 0].copy()
    covered[:, 0] = 0
    targets = np.empty(expected.shape)
    covariances = np.empty((len(expected), design.shape[1], design.shape[1]), np.float32)
    cells = (rated.indptr, rated.indices)
    weighted = (weight * design, weight * (design * bias + covered))
    in_threads(
        lambda begin, end: fill_targets(targets, begin, end, *cells, rated.data, *weighted),
        len(expected),
        rated.indptr,
    )
    in_threads(
        lambda begin, end: fill_covariances(covariances, begin, end, *cells, moments, own_noise, prior.precision),
        len(expected),
        rated.indptr,
    )
    pull = own_noise[:, None] * targets + expected @ prior.precision
    return np.einsum("nij,nj->ni", covariances, pull), covariances


def second_moments(design: np.ndarray, covariances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted second moments of design vectors whose first entry is certain: shape (m, K (K + 1) / 2), float32.

    The design holds 1 in place of the bias, so the variance of the bias does not enter.

    Args:
        design: shape (m, K), float32.
        covariances: shape (m, K, K), float32.
        weights: shape (m,), float32.
    """
    from recsys_assets.recommender.models.kernels import fill_moments, in_threads

    size = design.shape[1]
    moments = np.empty((len(design), size * (size + 1) // 2), np.float32)
    in_threads(lambda begin, end: fill_moments(moments, begin, end, design, covariances, weights), len(design))
    return moments


def upper_triangles(matrices: np.ndarray) -> np.ndarray:
    """Return the upper triangles of symmetric matrices, shape (n, K, K), row by row: shape (n, K (K + 1) / 2)."""
    size = matrices.shape[1]
    places = np.flatnonzero(np.triu(np.ones((size, size))))
    # np.take keeps each row's entries contiguous, as the sums over cells read them; indexing would not.
    return np.take(matrices.reshape(len(matrices), -1), places, axis=1)


def _start(n_attributes: int, units: np.ndarray) -> Prior:
    precision = _FACTOR_PRECISION / units**2
    precision[0] = _BIAS_PRECISION / units[0] ** 2
    return Prior(np.zeros((1 + n_attributes, len(units))), np.diag(precision))


def _regression(side: np.ndarray, reg: float) -> np.ndarray:
    """Return the matrix that maps values, shape (n, K), to ridge coefficients, shape (1 + F, K)."""
    design = np.column_stack([np.ones(len(side)), side])
    penalty = np.full(design.shape[1], max(reg, 1e-6))
    penalty[0] = 1e-3
    return np.linalg.solve(design.T @ design + np.diag(penalty), design.T)


def _learnt(
    means: np.ndarray,
    covariances: np.ndarray,
    side: np.ndarray,
    regression: np.ndarray,
    reg: float,
    units: np.ndarray,
) -> Prior:
    links = regression @ means
    left = means - links[0] - side @ links[1:]
    scatter = left.T @ left + covariances.sum(axis=0, dtype=np.float64) + reg * links[1:].T @ links[1:]
    # A tiny ridge keeps the matrix invertible when a factor has died out. It is scaled by unit, because bias and
    # factors have different units.
    scatter += 1e-6 * np.sum(np.diag(scatter) / units**2) * np.diag(units**2)
    return Prior(links, np.linalg.inv(scatter / len(means)))


def _noise(
    rated: sparse.csr_array,
    users: np.ndarray,
    user_covariances: np.ndarray,
    items: np.ndarray,
    item_covariances: np.ndarray,
) -> np.ndarray:
    """Return the precision of each user's ratings, shrunk towards the average: shape (U,)."""
    from recsys_assets.recommender.models.kernels import fill_squared_errors, in_threads

    first, second = np.triu_indices(users.shape[1])
    twice = np.where(first == second, 1, 2).astype(np.float32)
    design = items.astype(np.float32)
    design[:, 0] = 1
    user_spread, item_spread = (
        upper_triangles(covariances) * twice for covariances in (user_covariances, item_covariances)
    )
    moments = second_moments(design, item_covariances, np.ones(len(design), np.float32))
    cells = (rated.indptr, rated.indices, rated.data)
    known = (*cells, users, user_spread, items, moments, item_spread)
    errors = np.empty(rated.shape[0])
    in_threads(lambda begin, end: fill_squared_errors(errors, begin, end, *known), len(errors), rated.indptr)
    average = errors.sum() / max(rated.nnz, 1)
    return (np.diff(rated.indptr) + _NOISE_SHRINKAGE) / (errors + _NOISE_SHRINKAGE * average)
