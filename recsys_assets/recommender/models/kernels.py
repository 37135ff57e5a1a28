"""Inner loops compiled by Numba: sums over the cells of a CSR row, and one small system of equations per row.

Numba takes a second to load, so callers import this module inside functions. `variational` and `item_neighbours` define
the quantities; docs/decisions/compiled-loops.md gives the reasons for compiled loops.
"""

from collections.abc import Callable
from itertools import pairwise

import numba
import numpy as np
from scipy import sparse

from recsys_assets.recommender.data import threads

_ROWS_PER_BLOCK = 500
# A block of rows with cells. A row costs about as much as so many cells beside its own.
_CELLS_PER_BLOCK = 20_000
_CELLS_PER_ROW = 20
_CELLS_PER_PRODUCT = 256


def in_threads(work: Callable[[int, int], None], n_rows: int, starts: np.ndarray | None = None) -> None:
    """Call `work` with the bounds of each block of rows, on all cores.

    Args:
        work: takes the first row of a block and the row after its last.
        n_rows: number of rows.
        starts: start of each row's cells, shape (n_rows + 1,), for blocks that take about the same time; None if all
            rows do.
    """
    if starts is None:
        cuts = np.arange(0, n_rows + _ROWS_PER_BLOCK, _ROWS_PER_BLOCK)
    else:
        cost = starts - starts[0] + _CELLS_PER_ROW * np.arange(n_rows + 1)
        cuts = np.searchsorted(cost, np.arange(0, cost[-1] + _CELLS_PER_BLOCK, _CELLS_PER_BLOCK))
    bounds = np.unique(np.minimum(cuts, n_rows)).tolist()
    for _ in threads.in_threads(lambda block: work(*block), pairwise(bounds)):
        pass


def column_products(left: sparse.csr_array, right: sparse.csr_array) -> np.ndarray:
    """Return the products of all columns of two sparse matrices, left.T @ right: shape (K, L), float32.

    SciPy's product would use one core and would first build the sparse result.

    Args:
        left: shape (n, K), float32.
        right: shape (n, L), float32.
    """
    columns = sparse.csr_array(left.T)
    products = np.zeros((left.shape[1], right.shape[1]), np.float32)
    cells = (columns.indptr, columns.indices, columns.data, right.indptr, right.indices, right.data)
    in_threads(lambda begin, end: _fill_products(products, begin, end, *cells), len(products), columns.indptr)
    return products


@numba.njit(nogil=True, cache=True)
def _fill_products(
    products: np.ndarray,
    begin: int,
    end: int,
    column_starts: np.ndarray,
    rows: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    others: np.ndarray,
    other_values: np.ndarray,
) -> None:
    for column in range(begin, end):
        product = products[column]
        for cell in range(column_starts[column], column_starts[column + 1]):
            row, value = rows[cell], values[cell]
            for other in range(starts[row], starts[row + 1]):
                product[others[other]] += value * other_values[other]


@numba.njit(nogil=True, cache=True)
def fill_moments(
    moments: np.ndarray, begin: int, end: int, designs: np.ndarray, covariances: np.ndarray, weights: np.ndarray
) -> None:
    """Write the weighted second moments of the designs `begin` to `end` - 1, whose first entry is certain.

    Args:
        moments: output, upper triangles, shape (m, K (K + 1) / 2).
        begin: first row.
        end: row after the last.
        designs: means, shape (m, K); the first entry is 1.
        covariances: shape (m, K, K); the first row and column do not enter.
        weights: weight of each row, shape (m,).
    """
    size = designs.shape[1]
    for row in range(begin, end):
        place = 0
        for i in range(size):
            for j in range(i, size):
                product = designs[row, i] * designs[row, j]
                if i:
                    product += covariances[row, i, j]
                moments[row, place] = weights[row] * product
                place += 1


@numba.njit(nogil=True, cache=True)
def fill_covariances(
    covariances: np.ndarray,
    begin: int,
    end: int,
    starts: np.ndarray,
    columns: np.ndarray,
    moments: np.ndarray,
    noise: np.ndarray,
    precision: np.ndarray,
) -> None:
    """Write the posterior covariances of the rows `begin` to `end` - 1.

    Args:
        covariances: output, shape (n, K, K).
        begin: first row.
        end: row after the last.
        starts: start of each row's cells, shape (n + 1,).
        columns: column of each cell.
        moments: weighted second moments of the columns' designs, upper triangles, shape (m, K (K + 1) / 2).
        noise: precision of each row's cells, shape (n,).
        precision: prior precision, shape (K, K).
    """
    size = len(precision)
    total = np.empty(moments.shape[1])
    matrix = np.empty((size, size))
    # Rows without cells keep the prior. In a large catalogue these are many items, and an inverse is the costly part.
    prior = precision.copy()
    _invert(prior)
    for row in range(begin, end):
        if starts[row] == starts[row + 1]:
            covariances[row] = prior
            continue
        _add_up(total, starts[row], starts[row + 1], columns, moments)
        place = 0
        for i in range(size):
            for j in range(i, size):
                matrix[i, j] = matrix[j, i] = noise[row] * total[place] + precision[i, j]
                place += 1
        _invert(matrix)
        covariances[row] = matrix


@numba.njit(nogil=True, cache=True)
def fill_targets(
    targets: np.ndarray,
    begin: int,
    end: int,
    starts: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    designs: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Write the sum of value × design - offset over the cells of the rows `begin` to `end` - 1.

    Args:
        targets: output, shape (n, K), float64.
        begin: first row.
        end: row after the last.
        starts: start of each row's cells, shape (n + 1,).
        columns: column of each cell.
        values: value of each cell.
        designs: design vectors of the columns, shape (m, K).
        offsets: offsets of the columns, shape (m, K).
    """
    for row in range(begin, end):
        targets[row] = 0
        for cell in range(starts[row], starts[row + 1]):
            value, column = values[cell], columns[cell]
            for place in range(targets.shape[1]):
                targets[row, place] += value * designs[column, place] - offsets[column, place]


@numba.njit(nogil=True, cache=True)
def fill_squared_errors(
    errors: np.ndarray,
    begin: int,
    end: int,
    starts: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    row_covariances: np.ndarray,
    others: np.ndarray,
    moments: np.ndarray,
    covariances: np.ndarray,
) -> None:
    """Write the expected squared error of the rows `begin` to `end` - 1, summed over each row's cells.

    Args:
        errors: output, shape (n,).
        begin: first row.
        end: row after the last.
        starts: start of each row's cells, shape (n + 1,).
        columns: column of each cell.
        values: value of each cell.
        rows: posterior means of the rows, shape (n, K).
        row_covariances: upper triangles, shape (n, K (K + 1) / 2), off-diagonal entries doubled.
        others: posterior means of the columns, shape (m, K).
        moments: second moments of the columns' designs, upper triangles, shape (m, K (K + 1) / 2).
        covariances: of the columns, upper triangles, off-diagonal entries doubled.
    """
    size = rows.shape[1]
    of_designs, of_columns = np.empty(moments.shape[1]), np.empty(moments.shape[1])
    for row in range(begin, end):
        _add_up(of_designs, starts[row], starts[row + 1], columns, moments)
        _add_up(of_columns, starts[row], starts[row + 1], columns, covariances)
        error = 0.0
        for cell in range(starts[row], starts[row + 1]):
            predicted = rows[row, 0] + others[columns[cell], 0]
            for factor in range(1, size):
                predicted += rows[row, factor] * others[columns[cell], factor]
            error += (values[cell] - predicted) ** 2
        place = 0
        for i in range(size):
            for j in range(i, size):
                # The design vector holds 1 in place of the bias.
                product = (rows[row, i] if i else 1.0) * (rows[row, j] if j else 1.0)
                error += of_designs[place] * row_covariances[row, place] + of_columns[place] * product
                place += 1
        errors[row] = error


@numba.njit(nogil=True, cache=True)
def _add_up(total: np.ndarray, begin: int, end: int, columns: np.ndarray, addends: np.ndarray) -> None:
    total[:] = 0
    for cell in range(begin, end):
        addend = addends[columns[cell]]
        for place in range(len(total)):
            total[place] += addend[place]


@numba.njit(nogil=True, cache=True)
def _invert(matrix: np.ndarray) -> None:
    """Invert a symmetric positive definite matrix in place by sweeps of its lower triangle (Goodnight 1979)."""
    size = len(matrix)
    column = np.empty(size)
    for pivot in range(size):
        inverse = 1 / matrix[pivot, pivot]
        for i in range(size):
            column[i] = matrix[max(i, pivot), min(i, pivot)]
        column[pivot] = 0
        for i in range(size):
            factor, row = column[i] * inverse, matrix[i]
            for j in range(i + 1):
                row[j] -= factor * column[j]
        for i in range(size):
            matrix[max(i, pivot), min(i, pivot)] = column[i] * inverse
        matrix[pivot, pivot] = -inverse
    for i in range(size):
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = -matrix[i, j]


@numba.njit(nogil=True, cache=True)
def fill_factors(
    factors: np.ndarray,
    begin: int,
    end: int,
    starts: np.ndarray,
    columns: np.ndarray,
    confidence: np.ndarray,
    target: np.ndarray,
    regularised: np.ndarray,
    others: np.ndarray,
    gram: np.ndarray,
    reg: float,
) -> None:
    """Write the solutions of the normal equations of ALS for the rows `begin` to `end` - 1.

    A row without a target other than 0 gets zeros. If the equations of a row have no unique solution, it gets NaN or
    values without meaning.

    Args:
        factors: output, shape (n, K), float32.
        begin: first row.
        end: row after the last.
        starts: start of each row's cells, shape (n + 1,).
        columns: column of each cell.
        confidence: weight of each cell.
        target: right side of each cell.
        regularised: whether each cell counts for the regularisation.
        others: factors of the columns, shape (m, K), float32.
        gram: Gram matrix that stands for the empty cells, shape (K, K).
        reg: L2 regularisation, for each cell that counts.
    """
    size = factors.shape[1]
    system, right = np.empty((size, size)), np.empty(size)
    block = np.empty((2, _CELLS_PER_PRODUCT, size))
    for row in range(begin, end):
        cells = (starts[row], starts[row + 1], columns, confidence, target, regularised)
        if _set_equations(system, right, block, *cells, others, gram, reg):
            _solve(system, right)
        factors[row] = right


@numba.njit(nogil=True, cache=True)
def fill_contributions(
    added: np.ndarray,
    ends: np.ndarray,
    rows: np.ndarray,
    items: np.ndarray,
    starts: np.ndarray,
    columns: np.ndarray,
    confidence: np.ndarray,
    target: np.ndarray,
    regularised: np.ndarray,
    others: np.ndarray,
    gram: np.ndarray,
    reg: float,
) -> None:
    """Write the part of the score of ALS that each cell of a row adds to an item; see `fill_factors`.

    Args:
        added: output, for each recommendation one value per cell of its row.
        ends: end of each recommendation's values in `added`, shape (P,).
        rows: row of each recommendation, ascending, shape (P,).
        items: item of each recommendation, shape (P,).
        starts: start of each row's cells, shape (n + 1,).
        columns: column of each cell.
        confidence: weight of each cell.
        target: right side of each cell.
        regularised: whether each cell counts for the regularisation.
        others: factors of the columns, shape (m, K), float32.
        gram: what stands for the empty cells, shape (K, K).
        reg: L2 regularisation, for each cell that counts.
    """
    size = others.shape[1]
    system, right, solved = np.empty((size, size)), np.empty(size), np.empty(size)
    block = np.empty((2, _CELLS_PER_PRODUCT, size))
    row, has_target = -1, False
    for place in range(len(rows)):
        if rows[place] != row:
            row = rows[place]
            cells = (starts[row], starts[row + 1], columns, confidence, target, regularised)
            has_target = _set_equations(system, right, block, *cells, others, gram, reg)
            if has_target:
                _invert(system)
        begin = ends[place] - (starts[row + 1] - starts[row])
        if not has_target:
            added[begin : ends[place]] = 0
            continue
        item = others[items[place]]
        for i in range(size):
            solved[i] = 0
            for j in range(size):
                solved[i] += system[i, j] * item[j]
        for cell in range(starts[row], starts[row + 1]):
            other, total = others[columns[cell]], 0.0
            for i in range(size):
                total += other[i] * solved[i]
            added[begin + cell - starts[row]] = target[cell] * total


@numba.njit(nogil=True, cache=True)
def _set_equations(
    system: np.ndarray,
    right: np.ndarray,
    block: np.ndarray,
    begin: int,
    end: int,
    columns: np.ndarray,
    confidence: np.ndarray,
    target: np.ndarray,
    regularised: np.ndarray,
    others: np.ndarray,
    gram: np.ndarray,
    reg: float,
) -> bool:
    """Write the normal equations of one row of ALS; return whether any target differs from 0.

    The sum of the outer products of factors is a matrix product of `block`, for which BLAS needs a third of the time of
    a loop.
    """
    size = len(right)
    system[:] = gram
    right[:] = 0
    n_regularised, has_target = 0, False
    for first in range(begin, end, _CELLS_PER_PRODUCT):
        n_cells = min(_CELLS_PER_PRODUCT, end - first)
        for place in range(n_cells):
            cell = first + place
            other = others[columns[cell]]
            has_target |= target[cell] != 0
            n_regularised += regularised[cell]
            for i in range(size):
                block[0, place, i] = other[i]
                block[1, place, i] = confidence[cell] * other[i]
                right[i] += target[cell] * other[i]
        system += np.dot(block[0, :n_cells].T, block[1, :n_cells])
    for i in range(size):
        system[i, i] += reg * n_regularised
    return has_target


# A pivot of 0 gives NaN, as in NumPy, instead of an error of Python.
@numba.njit(nogil=True, cache=True, error_model="numpy")
def _solve(system: np.ndarray, right: np.ndarray) -> None:
    """Solve a symmetric positive definite system in place by Cholesky's method, from its upper triangle."""
    size = len(right)
    for pivot in range(size):
        row = system[pivot]
        inverse = 1 / np.sqrt(row[pivot])
        for j in range(pivot, size):
            row[j] *= inverse
        right[pivot] *= inverse
        for i in range(pivot + 1, size):
            factor, other = row[i], system[i]
            right[i] -= factor * right[pivot]
            for j in range(i, size):
                other[j] -= factor * row[j]
    for i in range(size - 1, -1, -1):
        row, total = system[i], right[i]
        for j in range(i + 1, size):
            total -= row[j] * right[j]
        right[i] = total / row[i]


@numba.njit(nogil=True, cache=True)
def fill_neighbour_sums(
    totals: np.ndarray,
    weights: np.ndarray,
    begin: int,
    end: int,
    rows: np.ndarray,
    columns: np.ndarray,
    similarity: np.ndarray,
    starts: np.ndarray,
    rated: np.ndarray,
    residuals: np.ndarray,
) -> None:
    """Write the similarity-weighted sums of residuals for the pairs `begin` to `end` - 1.

    Args:
        totals: output, sums of similarity × residual, shape (P,).
        weights: output, sums of similarities, shape (P,).
        begin: first pair.
        end: pair after the last.
        rows: row of each pair, shape (P,).
        columns: column of each pair, shape (P,).
        similarity: similarities of columns, symmetric, shape (K, K).
        starts: start of each row's cells.
        rated: column of each cell.
        residuals: value of each cell.
    """
    for pair in range(begin, end):
        alike = similarity[columns[pair]]
        total, weight = 0.0, 0.0
        for cell in range(starts[rows[pair]], starts[rows[pair] + 1]):
            total += alike[rated[cell]] * residuals[cell]
            weight += alike[rated[cell]]
        totals[pair], weights[pair] = total, weight
