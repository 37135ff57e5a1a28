"""Starting factors of Spark's ALS, drawn without Spark, so that both engines fit the same model.

Spark draws the users' factors with `XORShiftRandom`, block by block, and scales each to length 1
(`org.apache.spark.ml.recommendation.ALS.initialize`). The fit is in `als`. Numba takes a second to load, so callers
import this module inside functions.
"""

import numba
import numpy as np
from sklearn.utils import murmurhash3_32

_MASK = 2**64 - 1
# Seed of Scala's MurmurHash3 for arrays, and factor of `scala.util.hashing.byteswap64`.
_ARRAY_SEED = 0x3C074A61
_SWAP_FACTOR = 0x9E3775CD9E3775CD


def starting_factors(ids: np.ndarray, *, rank: int, seed: int, n_blocks: int) -> np.ndarray:
    """Draw the factors of users that `pyspark.ml.recommendation.ALS` starts with.

    Args:
        ids: the users, ascending, shape (U,).
        rank: number of factors.
        seed: parameter `seed` of Spark's ALS.
        n_blocks: parameter `numUserBlocks` of Spark's ALS.

    Returns:
        Shape (U, rank), float32; equal to Spark's but for rounding.
    """
    factors = np.empty((len(ids), rank), np.float32)
    seed_of_users = _next_long(_state(seed))
    for block in range(n_blocks):
        members = ids % n_blocks == block
        draws = np.empty((np.count_nonzero(members), rank))
        _fill_gaussians(draws.reshape(-1), np.uint64(_state(_byteswap64(seed_of_users ^ block))))
        rounded = draws.astype(np.float32)
        factors[members] = rounded / np.linalg.norm(rounded.astype(np.float64), axis=1, keepdims=True)
    return factors


def _state(seed: int) -> int:
    """The first state of `XORShiftRandom` (64 bits), from a seed of 64 bits."""
    seed_bytes = (seed & _MASK).to_bytes(8, "big")
    low = murmurhash3_32(seed_bytes, _ARRAY_SEED, positive=True)
    return murmurhash3_32(seed_bytes, low, positive=True) << 32 | low


def _next_long(state: int) -> int:
    """`java.util.Random.nextLong`: two draws of 32 signed bits, the first one as the upper half."""
    upper = int(_next_state(np.uint64(state)))
    lower = int(_next_state(np.uint64(upper)))
    signed = (lower & 0xFFFFFFFF) - ((lower & 0x80000000) << 1)
    return (((upper & 0xFFFFFFFF) << 32) + signed) & _MASK


def _byteswap64(value: int) -> int:
    swapped = int.from_bytes((value * _SWAP_FACTOR & _MASK).to_bytes(8, "big"), "little")
    return swapped * _SWAP_FACTOR & _MASK


@numba.njit(nogil=True, cache=True)
def _fill_gaussians(draws: np.ndarray, state: np.uint64) -> None:
    """Write standard normal draws as `java.util.Random.nextGaussian` does (Marsaglia's polar method)."""
    for first in range(0, len(draws), 2):
        while True:
            x, state = _next_double(state)
            y, state = _next_double(state)
            x, y = 2 * x - 1, 2 * y - 1
            square = x * x + y * y
            if 0 < square < 1:
                break
        scale = np.sqrt(-2 * np.log(square) / square)
        draws[first] = x * scale
        if first + 1 < len(draws):
            draws[first + 1] = y * scale


@numba.njit(nogil=True, cache=True)
def _next_double(state: np.uint64) -> tuple[float, np.uint64]:
    """`java.util.Random.nextDouble`: 53 bits from two draws."""
    state = _next_state(state)
    upper = state & np.uint64(2**26 - 1)
    state = _next_state(state)
    lower = state & np.uint64(2**27 - 1)
    return ((upper << np.uint64(27)) + lower) * 2.0**-53, state


@numba.njit(nogil=True, cache=True)
def _next_state(state: np.uint64) -> np.uint64:
    """The state after one draw (Marsaglia 2003)."""
    state ^= state << np.uint64(21)
    state ^= state >> np.uint64(35)
    return state ^ (state << np.uint64(4))
