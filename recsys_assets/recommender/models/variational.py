"""Variational inference of a factorisation of sparse ratings with a regression on attributes as prior.

Arrays in, arrays out: what rows and columns stand for, and where attributes come from, is `bayesian_factors`.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

# Priors before the first are learnt: precisions of a bias and of a factor, in units of the ratings' variance.
_BIAS_PRECISION, _FACTOR_PRECISION, _NOISE_PRECISION = 4.0, 10.0, 1.5
# Iterations before priors are learnt: from random factors they would shrink all to nothing.
_BURN_IN = 2
# Ratings of the average noise that are added to each row's own.
_NOISE_SHRINKAGE = 20.0
# Noise changes slowly, and takes as long as an update of users and movies.
_NOISE_EVERY = 3


@dataclass(frozen=True)
class Prior:
    """What bias and factors are expected to be: normal around a linear function of attributes.

    Attributes:
        links: shape (1 + F, K), the first row for everybody.
        precision: shape (K, K).
    """

    links: np.ndarray
    precision: np.ndarray

    def means(self, side: np.ndarray) -> np.ndarray:
        """The expectation for attributes of shape (n, F): shape (n, K)."""
        return self.links[0] + side @ self.links[1:]


@dataclass(frozen=True)
class Factorisation:
    """What `factorise` finds; K is 1 + rank, column 0 the bias.

    Attributes:
        users: shape (U, K), posterior means.
        movies: shape (M, K).
        movie_covariances: shape (M, K, K), float32.
        user_prior: of the users.
        noise: mean precision of a rating.
    """

    users: np.ndarray
    movies: np.ndarray
    movie_covariances: np.ndarray
    user_prior: Prior
    noise: float


def factorise(
    rated: sparse.csr_array,
    user_side: np.ndarray,
    movie_side: np.ndarray,
    *,
    rank: int,
    max_iter: int,
    reg_links: float,
    seed: int,
) -> Factorisation:
    """Coordinate ascent of the variational bound: users, their noise, movies, each with its prior learnt.

    Args:
        rated: shape (U, M), float32, ratings less their mean.
        user_side: attributes, shape (U, F).
        movie_side: attributes, shape (M, G).
        rank: number of factors.
        max_iter: iterations.
        reg_links: regularisation of the regressions on attributes.
        seed: of the starting factors.
    """
    by_movie = sparse.csr_array(rated.T)
    # Without ratings, or where all are the same, any unit will do.
    variance = float((rated.data.astype(np.float64) ** 2).sum()) / max(rated.nnz, 1) or 1.0
    # A product of two factors has the unit of a rating, so each has its root.
    units = np.full(1 + rank, variance**0.25)
    units[0] = variance**0.5
    user_prior, movie_prior = (_start(side.shape[1], units) for side in (user_side, movie_side))
    movies = np.random.default_rng(seed).normal(0, 0.1 * units[-1], (rated.shape[1], 1 + rank))
    movies[:, 0] = 0
    movie_covariances = np.zeros((rated.shape[1], 1 + rank, 1 + rank), np.float32)
    noise = np.full(rated.shape[0], _NOISE_PRECISION / variance)
    regressions = [_regression(side, reg_links) for side in (user_side, movie_side)]
    for iteration in range(max_iter + 1):
        users, user_covariances = posterior(
            rated, movies, movie_covariances, user_prior.means(user_side), user_prior, noise
        )
        if iteration == max_iter:
            break
        if iteration >= _BURN_IN:
            user_prior = _learnt(users, user_covariances, user_side, regressions[0], reg_links, units)
            if rated.nnz and (iteration - _BURN_IN) % _NOISE_EVERY == 0:
                noise = _noise(rated, users, user_covariances, movies, movie_covariances)
        movies, movie_covariances = posterior(
            by_movie, users, user_covariances, movie_prior.means(movie_side), movie_prior, noise, per_row=False
        )
        if iteration >= _BURN_IN:
            movie_prior = _learnt(movies, movie_covariances, movie_side, regressions[1], reg_links, units)
    return Factorisation(users, movies, movie_covariances, user_prior, float(noise.mean()))


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
    """Means, shape (n, K), and covariances, (n, K, K), of the rows' bias and factors given those of the columns.

    Args:
        rated: shape (n, m).
        others: shape (m, K), means of the columns.
        other_covariances: shape (m, K, K).
        expected: shape (n, K), the prior's means.
        prior: of the rows.
        noise: precisions of ratings, of each row, shape (n,), or else of each column, (m,).
        per_row: which of the two.
    """
    from recsys_assets.recommender.models.kernels import fill_covariances, fill_targets, in_threads

    weight = np.ones((len(others), 1), np.float32) if per_row else noise[:, None].astype(np.float32)
    own_noise = noise if per_row else np.ones(len(expected))
    design, bias = others.astype(np.float32), others[:, :1].astype(np.float32)
    design[:, 0] = 1
    moments = weight * second_moments(design, other_covariances)
    covered = other_covariances[:, 0].copy()
    covered[:, 0] = 0
    targets = np.empty(expected.shape)
    covariances = np.empty((len(expected), design.shape[1], design.shape[1]), np.float32)
    cells = (rated.indptr, rated.indices)
    weighted = (weight * design, weight * (design * bias + covered))
    in_threads(
        lambda begin, end: fill_targets(targets, begin, end, *cells, rated.data, *weighted),
        len(expected),
    )
    in_threads(
        lambda begin, end: fill_covariances(covariances, begin, end, *cells, moments, own_noise, prior.precision),
        len(expected),
    )
    pull = own_noise[:, None] * targets + expected @ prior.precision
    return np.einsum("nij,nj->ni", covariances, pull), covariances


def second_moments(design: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Expected products of the entries of design vectors whose first one is certain: shape (m, K (K + 1) / 2).

    The bias stands in the design as 1, so its variance has no part in them.
    """
    first, second = np.triu_indices(design.shape[1])
    products = np.take(design, first, axis=1) * np.take(design, second, axis=1)
    return products + np.where(first == 0, 0, upper_triangles(covariances))


def upper_triangles(matrices: np.ndarray) -> np.ndarray:
    """Of symmetric matrices, shape (n, K, K), the entries that tell all: shape (n, K (K + 1) / 2), row by row."""
    size = matrices.shape[1]
    places = np.flatnonzero(np.triu(np.ones((size, size))))
    # Unlike indexing, this leaves each row's entries beside each other, as the sums over cells read them.
    return np.take(matrices.reshape(len(matrices), -1), places, axis=1)


def _start(n_attributes: int, units: np.ndarray) -> Prior:
    precision = _FACTOR_PRECISION / units**2
    precision[0] = _BIAS_PRECISION / units[0] ** 2
    return Prior(np.zeros((1 + n_attributes, len(units))), np.diag(precision))


def _regression(side: np.ndarray, reg: float) -> np.ndarray:
    """The matrix that takes values, shape (n, K), to ridge coefficients, shape (1 + F, K)."""
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
    # So little that it only keeps a factor that has died out invertible; of each in its own unit, for bias and factors
    # have different ones.
    scatter += 1e-6 * np.sum(np.diag(scatter) / units**2) * np.diag(units**2)
    return Prior(links, np.linalg.inv(scatter / len(means)))


def _noise(
    rated: sparse.csr_array,
    users: np.ndarray,
    user_covariances: np.ndarray,
    movies: np.ndarray,
    movie_covariances: np.ndarray,
) -> np.ndarray:
    """The precision of each user's ratings, shrunk to that of all: shape (U,)."""
    from recsys_assets.recommender.models.kernels import fill_squared_errors, in_threads

    first, second = np.triu_indices(users.shape[1])
    twice = np.where(first == second, 1, 2).astype(np.float32)
    design = movies.astype(np.float32)
    design[:, 0] = 1
    user_spread, movie_spread = (
        upper_triangles(covariances) * twice for covariances in (user_covariances, movie_covariances)
    )
    moments = second_moments(design, movie_covariances)
    cells = (rated.indptr, rated.indices, rated.data)
    known = (*cells, users, user_spread, movies, moments, movie_spread)
    errors = np.empty(rated.shape[0])
    in_threads(lambda begin, end: fill_squared_errors(errors, begin, end, *known), len(errors))
    average = errors.sum() / max(rated.nnz, 1)
    return (np.diff(rated.indptr) + _NOISE_SHRINKAGE) / (errors + _NOISE_SHRINKAGE * average)
