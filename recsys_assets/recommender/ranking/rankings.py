"""Rankers: the ranks of given items among a user's unrated items, and the top-N list.

Ranking models differ only in how they score all items for a user. Top-N metrics and the lists that users see are
computed here from the same scores. The models are in `models/`, the metrics in `evaluation/`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.threads import in_threads
from recsys_assets.recommender.features.matrices import user_item_matrix

# From users, shape (B,), and their ratings, shape (B, n_items), to scores of all items, shape (B, n_items).
Scorer = Callable[[np.ndarray, sparse.csr_array], np.ndarray]
# From the ratings of some users, shape (B, n_items), the row of each recommendation, shape (P,), and its item, shape
# (P,), to the part of the item's score that each rating of its user adds: one value per pair of `pairs`.
Contributions = Callable[[sparse.csr_array, np.ndarray, np.ndarray], np.ndarray]
# Score that orders the items unknown to the model behind all others.
_UNKNOWN = float(np.finfo(np.float32).min)
# Scores per block: 16 MB of float32.
_SCORES_PER_BLOCK = 4_000_000
# Items per group whose best score stands for the group when the best items are sought.
_ITEMS_PER_GROUP = 64
# Most items of one user whose ranks are counted, one pass over the scores each; for more, one sort is faster.
_FEW = 8
# Candidates per place of a list with limits that are sought at a time.
_CANDIDATES_PER_PLACE = 20
_NO_LISTS = pl.DataFrame(schema={"user": pl.Int32, "rank": pl.Int32, "item": pl.Int32, "score": pl.Float64})


@dataclass(frozen=True)
class Limits:
    """How many items of one value, such as a genre, a list may hold.

    Attributes:
        values: ones where an item has a value, shape (n_items, V); an item may have several values, or none.
        most: how many items with this value a list may hold, shape (V,).
    """

    values: sparse.csr_array
    most: np.ndarray

    def kept(self, items: np.ndarray, n: int, left: np.ndarray | None = None) -> list[int]:
        """Return the places of the first n items that exceed no limit together with the kept items before them.

        Args:
            items: shape (P,), the best first.
            n: length of the list.
            left: how many more items of each value the list may hold, shape (V,); lowered in place. By default `most`.
        """
        left, places = self.most.copy() if left is None else left, list[int]()
        starts, indices = self.values.indptr, self.values.indices
        for place, item in enumerate(items):
            own = indices[starts[item] : starts[item + 1]]
            if (left[own] > 0).all():
                left[own] -= 1
                places.append(place)
                if len(places) == n:
                    break
        return places


@dataclass(frozen=True)
class Ranker:
    """A fitted ranking model.

    Attributes:
        scores: scores all items for a block of users.
        item_known: shape (n_items,); scores of other items mean nothing.
        contributions: returns the part of each score that each of a user's ratings adds, up to one factor per user.
            None if the model does not use the user's ratings.
        otherwise: reason, in words, for the list of a user without a rating.
    """

    scores: Scorer
    item_known: np.ndarray
    contributions: Contributions | None = None
    otherwise: str = ""

    @cached_property
    def _ceiling(self) -> np.ndarray:
        """Highest score of each item: none if the model knows the item, else `_UNKNOWN`."""
        return np.where(self.item_known, np.float32(np.inf), np.float32(_UNKNOWN))

    def ordered(
        self, users: np.ndarray, rated: sparse.csr_array, excluded: sparse.csr_array | None = None
    ) -> np.ndarray:
        """Return scores that order all items for users, shape (B, n_items); excluded items get -inf.

        Items that the model does not know come last. With a score of 0 they would come before the items that the
        model advises against.

        Args:
            users: dense ids, shape (B,).
            rated: ratings of these users, shape (B, n_items).
            excluded: the cells that are left out, shape (B, n_items); by default the rated ones.
        """
        scores = self.scores(users, rated)
        # A minimum takes a tenth of the time of an assignment to columns; NaN gives way to the ceiling.
        np.fmin(scores, self._ceiling, out=scores)
        cells = (rated if excluded is None else excluded).tocoo()
        scores[cells.row, cells.col] = -np.inf
        return scores

    def among(self, n_items: int) -> "Ranker":
        """Return this ranker for a catalogue with further items at its end, which get into no list.

        Args:
            n_items: size of that catalogue.
        """
        n_own, contributions = len(self.item_known), self.contributions
        if n_items == n_own:
            return self

        def scores(users: np.ndarray, rated: sparse.csr_array) -> np.ndarray:
            found = np.full((len(users), n_items), -np.inf, np.float32)
            found[:, :n_own] = self.scores(users, rated[:, :n_own])
            return found

        def of_own(rated: sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
            assert contributions is not None
            cell, _ = pairs(rated, rows)
            is_own = rated.indices[cell] < n_own
            found = np.zeros(len(cell))
            if is_own.any():
                found[is_own] = contributions(rated[:, :n_own], rows, items)
            return found

        known = np.append(self.item_known, np.zeros(n_items - n_own, bool))
        return replace(self, scores=scores, item_known=known, contributions=contributions and of_own)


def pairs(rated: sparse.csr_array, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a recommendation and a rating of its user: the cell of the rating, the recommendation.

    The pairs of one recommendation follow each other, in the order of the user's ratings.

    Args:
        rated: ratings, shape (B, n_items).
        rows: row of each recommendation, shape (P,).

    Returns:
        Two integer arrays of shape (number of pairs,).

    Examples:
        >>> cell, recommendation = pairs(sparse.csr_array(np.array([[5, 0, 0], [0, 3, 4]])), np.array([1, 1]))
        >>> cell.tolist(), recommendation.tolist()
        ([1, 2, 1, 2], [0, 0, 1, 1])
    """
    counts = np.diff(rated.indptr)[rows]
    skipped = rated.indptr[rows] - (np.cumsum(counts) - counts)
    recommendation = np.repeat(np.arange(len(rows)), counts)
    return np.arange(len(recommendation)) + skipped[recommendation], recommendation


def is_silent(scores: np.ndarray, rated: sparse.csr_array) -> np.ndarray:
    """Return for which users all unrated items have the score 0, shape (B,): their ratings say nothing about others.

    Two items that only this user likes are alike and score each other, which orders no other item.

    Args:
        scores: scores by ratings, shape (B, n_items).
        rated: ratings, shape (B, n_items).

    Examples:
        >>> rated = sparse.csr_array(np.array([[0, 0, 0], [5, 5, 0], [5, 0, 0]]))
        >>> is_silent(np.array([[0, 0, 0], [2, 2, 0], [0, 2, 0]]), rated).tolist()
        [True, True, False]
    """
    speaks, cells = scores != 0, rated.tocoo()
    speaks[cells.row, cells.col] = False
    return np.asarray(~speaks.any(axis=1))


def of_vectors(user_vectors: np.ndarray, item_vectors: np.ndarray, **told: Any) -> Ranker:
    """Build a ranker whose scores are dot products of user and item vectors.

    Args:
        user_vectors: shape (n_users, S), by dense id.
        item_vectors: shape (n_items, S). The model does not know an item whose vector is all zeros.
        told: further fields of `Ranker`.
    """

    def scores(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return user_vectors[users] @ item_vectors.T

    return Ranker(scores, np.asarray(item_vectors.any(axis=1)), **told)


def of_popularity(counts: np.ndarray) -> Ranker:
    """Build a ranker by popularity.

    Args:
        counts: number of ratings of each item, shape (n_items,).
    """
    return for_everybody(counts, counts > 0, otherwise="rated by many")


def for_everybody(scores: np.ndarray, item_known: np.ndarray, **told: Any) -> Ranker:
    """Build a ranker with the same scores for all users.

    Args:
        scores: score of each item, shape (n_items,).
        item_known: shape (n_items,).
        told: further fields of `Ranker`.
    """

    def same(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return np.tile(scores.astype(np.float32), (len(users), 1))

    return Ranker(same, item_known, **told)


def rank_pairs(ranker: Ranker, pairs: nw.LazyFrame, *, rated: nw.LazyFrame) -> pl.DataFrame:
    """Return the rank of each pair's item among the items that the user has not rated: user, item, rank.

    Args:
        ranker: the model. An item that it does not know has the rank null.
        pairs: user, item; none of them rated.
        rated: user, item, rating; the ratings that scores are computed from. Rated items are left out of the ranking.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> rated = lazy(pl.DataFrame({"user": [0], "item": [2], "rating": [4.0]}))
        >>> pairs = lazy(pl.DataFrame({"user": [0], "item": [1]}))
        >>> rank_pairs(of_popularity(np.array([5, 1, 9])), pairs, rated=rated).rows()
        [(0, 1, 2)]
    """
    asked = to_polars(pairs, "user", "item").sort("user", "item")
    users = asked["user"].unique().sort().to_numpy()
    own = rated.join(pairs.select("user").unique(), on="user", how="semi")
    seen = rows_of(users, *user_item_matrix(own, n_items=len(ranker.item_known)))
    row = np.searchsorted(users, asked["user"].to_numpy())

    def of_rows(rows: np.ndarray) -> np.ndarray:
        return ranker.ordered(users[rows], seen[rows])

    place = ranks(of_rows, seen.shape[1], row, asked["item"].to_numpy())
    known = pl.Series(ranker.item_known)[asked["item"]]
    return asked.with_columns(rank=pl.when(known).then(pl.Series(place)))


def top_n(
    ranker: Ranker,
    ratings: nw.LazyFrame,
    users: np.ndarray,
    *,
    n: int = 10,
    allowed: np.ndarray | None = None,
    excluded: nw.LazyFrame | None = None,
    limits: Limits | None = None,
    begun: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the `n` unrated items with the highest scores per user: user, rank (from 1), item, score.

    Each user gets min(n, number of allowed items that are not excluded) rows. Items that the model does not know come
    last, with a null score. Equal scores are ordered by the item's dense id.

    Args:
        ranker: the model.
        ratings: user, item, rating; all that the users have rated.
        users: dense ids, shape (users,).
        n: items per user.
        allowed: which items may be shown, shape (n_items,); by default all of them.
        excluded: user, item, rating; the ratings whose items are left out; by default all of `ratings`.
        limits: items that exceed a limit with the better ones of the list are passed over; a list is shorter than n if
            no other item is left.
        begun: user, item; what the lists already hold. It counts towards the limits and is not returned. It has no
            effect without limits.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> ratings = lazy(pl.DataFrame({"user": [0], "item": [2], "rating": [4.0]}))
        >>> top_n(of_popularity(np.array([5, 1, 9])), ratings, np.array([0]), n=2).rows()
        [(0, 1, 0, 5.0), (0, 2, 1, 1.0)]
    """
    n_items = len(ranker.item_known)

    def of_users(cells: nw.LazyFrame) -> sparse.csr_array:
        return rows_of(users, *user_item_matrix(cells, n_items=n_items))

    seen = of_users(ratings)
    left_out = seen if excluded is None or excluded is ratings else of_users(excluded)
    listed = None if begun is None else of_users(lazy(begun.select("user", "item", rating=pl.lit(1.0))))

    def best(block: slice) -> pl.DataFrame:
        scores = ranker.ordered(users[block], seen[block], left_out[block])
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        if limits is None:
            return _best(users[block], scores, n)
        return _best_within(users[block], scores, n, limits, None if listed is None else listed[block])

    lists = pl.concat([_NO_LISTS, *in_threads(best, blocks(len(users), n_items))])
    return lists.with_columns(pl.col("score").replace(_UNKNOWN, None))


def _best(users: np.ndarray, scores: np.ndarray, n: int) -> pl.DataFrame:
    n = min(n, scores.shape[1])
    threshold = _at_most_the_nth(scores, n)
    # Excluded items have the score -inf, the others at least `_UNKNOWN`.
    # `nonzero` of a matrix takes ten times as long as of its flat view.
    row, item = np.divmod(np.flatnonzero(scores >= np.maximum(threshold, _UNKNOWN)[:, None]), scores.shape[1])
    score = scores[row, item]
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row) + 1
    keep = rank <= n
    return pl.DataFrame(
        {
            "user": users[row[keep]].astype(np.int32),
            "rank": rank[keep].astype(np.int32),
            "item": item[keep].astype(np.int32),
            "score": score[keep].astype(np.float64),
        }
    )


def _at_most_the_nth(scores: np.ndarray, n: int) -> np.ndarray:
    """Return a lower bound of each row's n-th highest score, shape (B,), which few scores reach if n is small.

    The bound is the n-th highest of the maxima of disjoint groups of items. The maxima take a fifth of the time of a
    partition of all scores.
    """
    n_items = scores.shape[1]
    n_groups = max(n, math.ceil(n_items / _ITEMS_PER_GROUP))
    maxima = scores[:, :n_groups].copy()
    for start in range(n_groups, n_items, n_groups):
        others = scores[:, start : start + n_groups]
        np.maximum(maxima[:, : others.shape[1]], others, out=maxima[:, : others.shape[1]])
    return np.partition(maxima, -n, axis=1)[:, -n]


def _best_within(
    users: np.ndarray, scores: np.ndarray, n: int, limits: Limits, listed: sparse.csr_array | None
) -> pl.DataFrame:
    """The best n items of each user that are within the limits together with the listed items.

    A few candidates are sought at a time. For a list that they do not fill, items of used-up values are left out of the
    next candidates: thousands of items of one value may come before the next item that fits.
    """
    left = np.tile(limits.most, (len(users), 1))
    if listed is not None:
        left -= (listed @ limits.values).toarray().astype(left.dtype)
        scores[listed.nonzero()] = -np.inf
    missing, rows, depth = np.full(len(users), n), np.arange(len(users)), _CANDIDATES_PER_PLACE * n
    lists = [_NO_LISTS]
    while len(rows):
        unfilled = []
        for (row,), candidates in _best(rows, scores[rows], depth).group_by("user", maintain_order=True):
            items = candidates["item"].to_numpy()
            places = limits.kept(items, missing[row], left[row])
            lists.append(candidates[places])
            missing[row] -= len(places)
            if missing[row] and len(items) == depth:
                scores[row, items] = -np.inf
                scores[row, limits.values @ (left[row] == 0) > 0] = -np.inf
                unfilled.append(row)
        rows = np.array(unfilled, int)
    found = pl.concat(lists).sort("user", maintain_order=True)
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user")
    return found.with_columns(user=pl.Series(users[found["user"]], dtype=pl.Int32), rank=rank)


def rows_of(users: np.ndarray, rated_users: np.ndarray, matrix: sparse.csr_array) -> sparse.csr_array:
    """Return the matrix rows of `users`; a user without a row gets an empty one.

    Args:
        users: dense ids, shape (U,).
        rated_users: users of the matrix rows, ascending.
        matrix: shape (len(rated_users), n_items).
    """
    padded = sparse.csr_array(
        (matrix.data, matrix.indices, np.append(matrix.indptr, matrix.indptr[-1])),
        shape=(matrix.shape[0] + 1, matrix.shape[1]),
    )
    at = np.searchsorted(rated_users, users)
    return padded[np.where(np.append(rated_users, -1)[at] == users, at, matrix.shape[0])]


def blocks(n_rows: int, n_items: int) -> Iterator[slice]:
    """Yield slices of rows, so that the scores of all items for one slice take 16 MB."""
    size = users_per_block(n_items)
    return (slice(start, start + size) for start in range(0, n_rows, size))


def users_per_block(n_items: int) -> int:
    """Return the number of rows whose scores of all items take 16 MB."""
    return max(1, _SCORES_PER_BLOCK // max(n_items, 1))


def ranks(
    ordered: Callable[[np.ndarray], np.ndarray], n_items: int, pair_row: np.ndarray, pair_item: np.ndarray
) -> np.ndarray:
    """Return the rank, from 1, of each pair's item among all items of its row.

    Equal scores are ordered by the item's dense id.

    Args:
        ordered: returns the scores of all items for B rows, shape (B, n_items).
        n_items: size of the catalogue.
        pair_row: shape (P,), ascending.
        pair_item: shape (P,).

    Returns:
        Shape (P,), int32.
    """
    result = np.empty(len(pair_row), np.int32)
    users, starts = np.unique(pair_row, return_index=True)
    ends = np.append(starts[1:], len(pair_row))

    def fill(block: slice) -> None:
        for row, start, end in zip(ordered(users[block]), starts[block], ends[block], strict=True):
            result[start:end] = _places(row, pair_item[start:end])

    for _ in in_threads(fill, blocks(len(users), n_items)):
        pass
    return result


def _places(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the ranks, from 1, of some items by descending score; the dense id orders equal scores."""
    own = scores[items]
    if len(items) > _FEW:
        ascending = np.sort(scores)
        ahead = len(scores) - np.searchsorted(ascending, own, side="right")
        equal = len(scores) - ahead - np.searchsorted(ascending, own, side="left")
    else:
        ahead = np.array([np.count_nonzero(scores > score) for score in own])
        equal = np.array([np.count_nonzero(scores == score) for score in own])
    for place in np.flatnonzero(equal > 1):
        ahead[place] += np.count_nonzero(scores[: items[place]] == own[place])
    return 1 + ahead
