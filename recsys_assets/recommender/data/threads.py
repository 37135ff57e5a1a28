"""Runs work on blocks of rows in threads, in order.

NumPy, SciPy's products and Numba's compiled loops let other threads run, so a thread per core keeps all cores busy.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

# Loads its BLAS, which `_loaded_libraries` has to find.
import scipy.linalg  # noqa: F401
from threadpoolctl import ThreadpoolController

Block = TypeVar("Block")
Result = TypeVar("Result")


def in_threads(work: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
    """Yield the results of the blocks, in order.

    At most one block per core and one that waits are in work, so memory does not grow with the number of blocks.

    Args:
        work: takes a block; called in several threads at a time.
        blocks: the blocks.
    """
    n_threads = os.cpu_count() or 1
    # Threads of BLAS inside these threads would wait for each other.
    with _loaded_libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(n_threads) as threads:
        pending: deque[Future[Result]] = deque()
        for block in blocks:
            pending.append(threads.submit(work, block))
            if len(pending) > n_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@cache
def _loaded_libraries() -> ThreadpoolController:
    """The libraries with threads of their own. Finding them takes as long as many a small block."""
    return ThreadpoolController()
