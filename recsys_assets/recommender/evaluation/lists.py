"""Top-N lists and their metrics beyond accuracy: novelty, popularity, genre diversity, catalogue coverage.

Accuracy of rankings belongs in `metrics`.
"""

from collections.abc import Mapping

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.metrics import mean
from recsys_assets.recommender.evaluation.result import OF_ALL_LISTS
from recsys_assets.recommender.evaluation.rows import ScoredRows
from recsys_assets.recommender.features.matrices import membership
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker


def top_lists(ranker: Ranker, users: np.ndarray, *, rated: nw.LazyFrame, k: int = 10) -> nw.LazyFrame:
    """The top k items that each user has not rated: columns user, item, rank.

    Args:
        ranker: the model; items unknown to the model are in no list.
        users: dense ids, shape (users,).
        rated: table ratings; a user's rated items are not listed.
        k: length of a list; lists are shorter if the model knows fewer items.
    """
    best = rankings.top_n(ranker, rated, users, n=k)
    return lazy(best.drop_nulls("score").select("user", "item", "rank"))


def random_ranker(n_items: int, *, seed: int) -> Ranker:
    """A ranker that orders all items at random, independently for each user."""

    def scores(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return np.stack([np.random.default_rng([seed, user]).random(n_items) for user in users])

    return Ranker(scores, np.ones(n_items, bool))


class ListMetrics:
    """Metrics of lists beyond accuracy, named `<name>_<k>`: means over users, and the coverage of all lists.

    - `novelty`: mean self-information -log2(share of training users who rated the item), in bits. An item without
      ratings counts as rated by one user (RecTools' MeanInvUserFreq).
    - `popularity`: mean share of training users who rated the item (average recommendation popularity, Yin et al.
      2012).
    - `popularity_bias`: `popularity` minus the mean share over the user's relevant test items. Above 0, the lists
      are more popular than the user's taste.
    - `genre_diversity`: mean Jaccard distance of the genres over the pairs of a list (Ziegler et al. 2005), if there
      are genres.
    - `catalog_coverage`: share of the catalogue in at least one list (no `_<k>` in its name).

    Args:
        rows: the relevant test rows; their users are scored, their items are the liked ones.
        train_ratings: table ratings.
        items: table items, with genres (a list, or null if unknown).
        populations: by name, boolean masks of shape (users,); each one has its own coverage.
        k: length of the lists.
    """

    def __init__(
        self,
        rows: ScoredRows,
        train_ratings: nw.LazyFrame,
        items: nw.LazyFrame,
        populations: Mapping[str, np.ndarray],
        k: int,
    ) -> None:
        self._rows, self._populations, self._k = rows, populations, k
        catalogue = to_polars(items, "item", "genres").sort("item")
        self._n_items = len(catalogue)
        self._genres = membership(catalogue["genres"])
        counts = to_polars(train_ratings.group_by("item").agg(count=nw.len()))
        n_raters = np.zeros(self._n_items)
        n_raters[counts["item"].to_numpy()] = counts["count"].to_numpy()
        n_users = max(1, to_polars(train_ratings.select(nw.col("user").n_unique().alias("n")))["n"][0])
        self._popularity = n_raters / n_users
        self._information = -np.log2(np.maximum(n_raters, 1) / n_users)
        liked = rows.frame["item"].to_numpy()
        self._taste = rows.per_user(self._popularity[liked]) / rows.counts

    def of_lists(self, lists: nw.LazyFrame) -> list[UserMetric]:
        """The metrics of one model's lists (user, item, rank); users without a list are ignored."""
        users = self._rows.users
        shown = to_polars(lists, "user", "item", "rank").filter(pl.col("rank") <= self._k)
        shown = shown.filter(pl.col("user").is_in(pl.Series(users, dtype=pl.Int32).implode()))
        code, item = np.searchsorted(users, shown["user"].to_numpy()), shown["item"].to_numpy()
        matrix = sparse.csr_array((np.ones(len(code)), (code, item)), shape=(len(users), self._n_items))
        length = np.bincount(code, minlength=len(users))
        has_list = (length > 0).astype(np.float64)
        popularity = _over(matrix @ self._popularity, length)
        parts = {
            "novelty": (_over(matrix @ self._information, length), has_list),
            "popularity": (popularity, has_list),
            "popularity_bias": (popularity - self._taste * has_list, has_list),
        }
        if self._genres.shape[1]:
            parts["genre_diversity"] = self._diversity(matrix)
        means = [UserMetric(f"{name}_{self._k}", mean, of_users) for name, of_users in parts.items()]
        return [*means, *(self._coverage(matrix, name, mask) for name, mask in self._populations.items())]

    def _diversity(self, matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Mean distance over the pairs of each list, and 1 if the list has a pair: two arrays of shape (users,)."""
        distances = np.zeros(matrix.shape[0])
        for user, (start, end) in enumerate(zip(matrix.indptr, matrix.indptr[1:], strict=False)):
            genres = self._genres[matrix.indices[start:end]].toarray()
            common = genres @ genres.T
            sizes = genres.sum(axis=1)
            either = sizes[:, None] + sizes - common
            jaccard = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
            distances[user] = 1 - jaccard[np.triu_indices(len(genres), 1)].mean() if len(genres) > 1 else 0
        return distances, (np.diff(matrix.indptr) > 1).astype(np.float64)

    def _coverage(self, matrix: sparse.csr_array, population: str, users: np.ndarray) -> UserMetric:
        """Catalogue coverage of one population, as the mean of one jackknife value per user.

        A resample of users covers fewer items than all users do, so a plain bootstrap would put the whole interval
        below the score. The mean of the jackknife values is the coverage; their spread is the spread of the delete-one
        jackknife (Efron & Tibshirani 1993, chapter 11).
        """
        chosen = matrix * users[:, None]
        shown = np.asarray(chosen.sum(axis=0)).ravel()
        coverage = (shown > 0).mean() if self._n_items else 0.0
        alone = chosen @ (shown == 1) / self._n_items
        n = users.sum()
        values = np.where(users, coverage + (n - 1) * (alone - alone.sum() / max(n, 1)), 0)
        return UserMetric(OF_ALL_LISTS, mean, (values, users.astype(np.float64)), frozenset({population}))


def _over(total: np.ndarray, length: np.ndarray) -> np.ndarray:
    return np.divide(total, length, out=np.zeros(len(length)), where=length > 0)
