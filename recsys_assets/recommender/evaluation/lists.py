"""The lists that users would be shown, and what is measured of them without looking at test ratings.

Whether the listed movies are liked is measured from ranks, in `metrics`.
"""

from collections.abc import Callable, Mapping

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.measured import OF_ALL_LISTS
from recsys_assets.recommender.evaluation.metrics import mean
from recsys_assets.recommender.evaluation.rows import ScoredRows
from recsys_assets.recommender.frames import lazy, pseudo_random, to_polars

# Candidates that are ranked at a time: some 100 MB with their ranks.
_PAIRS_PER_BLOCK = 4_000_000

Ranked = Callable[[nw.LazyFrame], nw.LazyFrame]


def top_lists(
    ranked: Ranked, users: np.ndarray, movies: nw.LazyFrame, *, rated: nw.LazyFrame, k: int = 10
) -> nw.LazyFrame:
    """The first k of all movies that each user has not rated: user, movie, rank.

    Args:
        ranked: ranks given pairs (user, movie) among all that the user has not rated, as predictions of top N do.
        users: dense ids, shape (users,).
        movies: table movies, the whole catalogue.
        rated: table ratings; the movies that are not listed.
        k: length of a list; shorter where a model knows fewer movies.
    """
    catalogue = to_polars(movies, "movie").sort("movie")
    known = to_polars(rated, "user", "movie")
    size = max(1, _PAIRS_PER_BLOCK // len(catalogue))
    blocks = [
        to_polars(ranked(_candidates(users[start : start + size], catalogue, known)).filter(nw.col("rank") <= k))
        for start in range(0, len(users), size)
    ]
    empty = pl.DataFrame(schema={"user": pl.Int32, "movie": pl.Int32, "rank": pl.Int32})
    return lazy(pl.concat([empty, *(block.select("user", "movie", pl.col("rank").cast(pl.Int32)) for block in blocks)]))


def _candidates(users: np.ndarray, catalogue: pl.DataFrame, known: pl.DataFrame) -> nw.LazyFrame:
    everyone = pl.DataFrame({"user": pl.Series(users, dtype=pl.Int32)})
    return lazy(everyone.join(catalogue, how="cross").join(known, on=["user", "movie"], how="anti"))


def random_ranks(pairs: nw.LazyFrame, *, seed: int) -> nw.LazyFrame:
    """The pairs with ranks by a hash of (user, movie, seed): what lists look like when nobody is known."""
    drawn = to_polars(pairs.with_columns(drawn=pseudo_random(seed, ["user", "movie"])))
    return lazy(drawn.select("user", "movie", rank=pl.struct("drawn", "movie").rank("ordinal").over("user")))


class ListMetrics:
    """What lists are like: metrics named `<name>_<k>`, means over users, and the coverage of all lists together.

    `novelty`: mean self-information -log2(share of training users who rated the movie) in bits; a movie that nobody
    rated counts as rated by one (RecTools' MeanInvUserFreq). `popularity`: mean of that share (average recommendation
    popularity, Yin et al. 2012, per user of the training ratings). `popularity_bias`: the same minus its mean over the
    movies that the user likes in the test rows; above 0 the lists are more popular than the user's taste.
    `genre_diversity`: mean Jaccard distance of the genres over the pairs of a list (Ziegler et al. 2005).
    `catalog_coverage`: share of the catalogue in at least one list.

    Args:
        rows: the relevant rows, which say who is scored and what is liked.
        train_ratings: table ratings.
        movies: table movies, with genres (a list, or null where not known).
        populations: by name, boolean masks of shape (users,); coverage is given for each.
        k: length of the lists.
    """

    def __init__(
        self,
        rows: ScoredRows,
        train_ratings: nw.LazyFrame,
        movies: nw.LazyFrame,
        populations: Mapping[str, np.ndarray],
        k: int,
    ) -> None:
        self._rows, self._populations, self._k = rows, populations, k
        catalogue = to_polars(movies, "movie", "genres").sort("movie")
        self._n_movies = len(catalogue)
        self._genres = _genre_matrix(catalogue["genres"])
        counts = to_polars(train_ratings.group_by("movie").agg(count=nw.len()))
        n_raters = np.zeros(self._n_movies)
        n_raters[counts["movie"].to_numpy()] = counts["count"].to_numpy()
        n_users = max(1, to_polars(train_ratings.select(nw.col("user").n_unique().alias("n")))["n"][0])
        self._popularity = n_raters / n_users
        self._information = -np.log2(np.maximum(n_raters, 1) / n_users)
        liked = rows.frame["movie"].to_numpy()
        self._taste = rows.per_user(self._popularity[liked]) / rows.counts

    def of_lists(self, lists: nw.LazyFrame) -> list[UserMetric]:
        """The metrics of one model's lists (user, movie, rank); users without a list count for nothing."""
        users = self._rows.users
        shown = to_polars(lists, "user", "movie", "rank").filter(pl.col("rank") <= self._k)
        shown = shown.filter(pl.col("user").is_in(pl.Series(users, dtype=pl.Int32).implode()))
        code, movie = np.searchsorted(users, shown["user"].to_numpy()), shown["movie"].to_numpy()
        matrix = sparse.csr_array((np.ones(len(code)), (code, movie)), shape=(len(users), self._n_movies))
        length = np.bincount(code, minlength=len(users))
        has_list = (length > 0).astype(np.float64)
        popularity = _over(matrix @ self._popularity, length)
        parts = {
            "novelty": (_over(matrix @ self._information, length), has_list),
            "popularity": (popularity, has_list),
            "popularity_bias": (popularity - self._taste * has_list, has_list),
            "genre_diversity": self._diversity(matrix),
        }
        means = [UserMetric(f"{name}_{self._k}", mean, of_users) for name, of_users in parts.items()]
        return [*means, *(self._coverage(matrix, name, mask) for name, mask in self._populations.items())]

    def _diversity(self, matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Mean distance over the pairs of each list and whether it has a pair: two arrays of shape (users,)."""
        distances = np.zeros(matrix.shape[0])
        for user, (start, end) in enumerate(zip(matrix.indptr, matrix.indptr[1:], strict=False)):
            genres = self._genres[matrix.indices[start:end]]
            common = genres @ genres.T
            sizes = genres.sum(axis=1)
            either = sizes[:, None] + sizes - common
            jaccard = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
            distances[user] = 1 - jaccard[np.triu_indices(len(genres), 1)].mean() if len(genres) > 1 else 0
        return distances, (np.diff(matrix.indptr) > 1).astype(np.float64)

    def _coverage(self, matrix: sparse.csr_array, population: str, users: np.ndarray) -> UserMetric:
        """Coverage by the lists of one population, as a mean over its users of jackknife values.

        A resample of users shows fewer movies than the users do, so plain resampling would put the whole interval
        below the score. The mean of these values is the coverage, and their spread is that of the delete-one jackknife
        (Efron & Tibshirani 1993, chapter 11).
        """
        chosen = matrix * users[:, None]
        shown = np.asarray(chosen.sum(axis=0)).ravel()
        coverage = (shown > 0).mean() if self._n_movies else 0.0
        alone = chosen @ (shown == 1) / self._n_movies
        n = users.sum()
        values = np.where(users, coverage + (n - 1) * (alone - alone.sum() / max(n, 1)), 0)
        return UserMetric(OF_ALL_LISTS, mean, (values, users.astype(np.float64)), frozenset({population}))


def _over(total: np.ndarray, length: np.ndarray) -> np.ndarray:
    return np.divide(total, length, out=np.zeros(len(length)), where=length > 0)


def _genre_matrix(genres: pl.Series) -> np.ndarray:
    """Which movie has which genre: float64 of shape (movies, genres)."""
    names = genres.explode().drop_nulls().unique().sort()
    columns = [genres.list.contains(name).fill_null(False).to_numpy() for name in names]
    return np.column_stack(columns).astype(np.float64) if columns else np.zeros((len(genres), 0))
