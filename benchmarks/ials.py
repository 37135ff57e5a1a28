"""iALS as Rendle et al. (2021, "Revisiting the Performance of iALS on Item Recommendation Benchmarks") define it.

The ALS of this project and of the `implicit` package offers neither of two things: the weight of what was not observed
is a parameter of its own, and regularisation grows with a power of the number of observations. Starting values and the
scaling of `reg`, which makes it comparable between powers, are theirs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

ITERATIONS = 16
_STARTING_DEVIATION = 0.1


class IALS:
    """Factors of items, and what they say of users by their positives.

    Args:
        positives: users by items; stored cells are observations, whatever their value.
        settings: factors; reg; unobserved, the weight of every cell that is not observed beside 1; power, 1 for
            regularisation by the number of observations, 0 for the same for all.
    """

    def __init__(self, positives: sparse.csr_array, settings: Mapping[str, Any]) -> None:
        by_user, by_item = sparse.csr_array(positives), sparse.csr_array(positives.T)
        self._factors, self._unobserved = settings["factors"], settings["unobserved"]
        self._power = settings["power"]
        amounts = [self._amounts(rows) for rows in (by_user, by_item)]
        self._reg = settings["reg"] * sum(n.sum() for n in amounts) / sum((n**self._power).sum() for n in amounts)
        deviation = _STARTING_DEVIATION / np.sqrt(self._factors)
        self.items = np.random.default_rng(0).normal(0, deviation, (positives.shape[1], self._factors))
        self.items = self.items.astype(np.float32)
        for _ in range(ITERATIONS):
            self.items = self._solved(by_item, self._solved(by_user, self.items))

    def users(self, positives: sparse.csr_array) -> np.ndarray:
        """Factors of users with these positives, as the last half of an iteration solves for them."""
        return self._solved(positives, self.items)

    def _amounts(self, rows: sparse.csr_array) -> np.ndarray:
        return np.diff(rows.indptr) + self._unobserved * rows.shape[1]

    def _solved(self, rows: sparse.csr_array, others: np.ndarray) -> np.ndarray:
        of_all = self._unobserved * (others.T @ others)
        penalties = (self._reg * self._amounts(rows) ** self._power).astype(np.float32)
        solved = np.zeros((rows.shape[0], self._factors), np.float32)
        diagonal = np.eye(self._factors, dtype=np.float32)
        # For so small systems, threads cost more than they do.
        with threadpool_limits(1):
            for row in np.flatnonzero(np.diff(rows.indptr)):
                own = others[rows.indices[rows.indptr[row] : rows.indptr[row + 1]]]
                solved[row] = np.linalg.solve(of_all + own.T @ own + penalties[row] * diagonal, own.sum(axis=0))
        return solved
