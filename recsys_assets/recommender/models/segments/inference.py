"""Variational inference of LDA for many users: the compiled E-step of online LDA (Hoffman, Blei and Bach 2010).

The updates, the stopping rule and the digamma function are those of scikit-learn's `LatentDirichletAllocation`, whose
E-step takes most of its time in Python for each user. `model` fits and applies the topics. Numba takes a second to
load, so callers import this module inside functions.
"""

import numba
import numpy as np
from scipy import sparse

from recsys_assets.recommender.data.threads import in_threads

# Users per block. Every block sums up its own statistics, so another number gives other rounding errors.
_USERS_PER_BLOCK = 1_024
_EPSILON = float(np.finfo(np.float64).eps)
_EULER = 0.577215664901532860606512090082402431


def infer(
    counts: sparse.csr_array, topics: np.ndarray, gamma: np.ndarray, *, prior: float, max_iter: int, tolerance: float
) -> None:
    """Update the Dirichlet parameters of users in place until they change no more.

    Args:
        counts: counts of items, shape (U, M).
        topics: exp(E[log(beta)]), shape (K, M).
        gamma: starting values and result, shape (U, K), float64.
        prior: parameter of the Dirichlet prior of a user.
        max_iter: number of updates at most.
        tolerance: mean change of a user's parameters at which the updates end.
    """
    of_items = np.ascontiguousarray(topics.T)
    nothing = np.empty((0, 0))
    cells = (counts.indptr, counts.indices, counts.data)

    def update(block: slice) -> None:
        _update(gamma, block.start, block.stop, *cells, of_items, prior, max_iter, tolerance, nothing)

    for _ in in_threads(update, _blocks(counts.shape[0])):
        pass


def statistics(
    counts: sparse.csr_array, topics: np.ndarray, gamma: np.ndarray, *, prior: float, max_iter: int, tolerance: float
) -> np.ndarray:
    """Update the parameters of users like `infer`, and return the expected counts of topics and items, shape (K, M)."""
    of_items = np.ascontiguousarray(topics.T)
    cells = (counts.indptr, counts.indices, counts.data)

    def update(block: slice) -> np.ndarray:
        found = np.zeros(of_items.shape)
        _update(gamma, block.start, block.stop, *cells, of_items, prior, max_iter, tolerance, found)
        return found

    total = np.zeros(of_items.shape)
    for found in in_threads(update, _blocks(counts.shape[0])):
        total += found
    return total.T * topics


def _blocks(n_users: int) -> list[slice]:
    return [slice(start, min(start + _USERS_PER_BLOCK, n_users)) for start in range(0, n_users, _USERS_PER_BLOCK)]


# Without reassociation, sums over topics could not use vector instructions.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _update(
    gamma: np.ndarray,
    begin: int,
    end: int,
    starts: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    of_items: np.ndarray,
    prior: float,
    max_iter: int,
    tolerance: float,
    found: np.ndarray,
) -> None:
    """Update the parameters of the users `begin` to `end` - 1; add their statistics to `found` if it is not empty."""
    n_topics = gamma.shape[1]
    weights, updated = np.empty(n_topics), np.empty(n_topics)
    for user in range(begin, end):
        _expect(gamma[user], weights)
        for _ in range(max_iter):
            updated[:] = 0
            for cell in range(starts[user], starts[user + 1]):
                of_item, likely = of_items[columns[cell]], _EPSILON
                for topic in range(n_topics):
                    likely += weights[topic] * of_item[topic]
                share = counts[cell] / likely
                for topic in range(n_topics):
                    updated[topic] += share * of_item[topic]
            change = 0.0
            for topic in range(n_topics):
                value = weights[topic] * updated[topic] + prior
                change += abs(value - gamma[user, topic])
                gamma[user, topic] = value
            _expect(gamma[user], weights)
            if change / n_topics < tolerance:
                break
        if found.size:
            for cell in range(starts[user], starts[user + 1]):
                of_item, likely = of_items[columns[cell]], _EPSILON
                for topic in range(n_topics):
                    likely += weights[topic] * of_item[topic]
                share = counts[cell] / likely
                for topic in range(n_topics):
                    found[columns[cell], topic] += weights[topic] * share


@numba.njit(nogil=True, cache=True)
def _expect(gamma: np.ndarray, weights: np.ndarray) -> None:
    """Write exp(E[log(theta)]) for theta with the Dirichlet parameters `gamma`."""
    of_total = _digamma(gamma.sum())
    for topic in range(len(gamma)):
        weights[topic] = np.exp(_digamma(gamma[topic]) - of_total)


@numba.njit(nogil=True, cache=True)
def _digamma(x: float) -> float:
    """Digamma of a positive number (Bernardo 1976, algorithm AS 103)."""
    if x <= 1e-6:
        return -_EULER - 1.0 / x
    result = 0.0
    while x < 6:
        result -= 1.0 / x
        x += 1
    r = 1.0 / x
    result += np.log(x) - 0.5 * r
    r = r * r
    return result - r * ((1.0 / 12.0) - r * ((1.0 / 120.0) - r * (1.0 / 252.0)))
