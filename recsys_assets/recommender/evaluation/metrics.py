"""Formulas of the metrics on arrays: each returns a `UserMetric`, which holds per-user sums and a formula.

Tables, models and protocols belong elsewhere: this module takes `ScoredRows` and arrays.
"""

import numpy as np

from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.rows import ScoredRows

# Whole numbers, because (1 - 0.95) * 20 is above 1 in floats: the top 5 % of 20 rows would be 2 rows.
_ROWS_PER_PICK = 20
# Case study A's prediction for rows that its model cannot predict.
_PUBLISHED_MISSING = 1.0
# A smaller spread, relative to the ratings, is rounding error: R² is undefined.
_NO_SPREAD = 1e-9


def mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Total over count."""
    return total / count


def root_mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Square root of total over count."""
    return np.sqrt(total / count)


def r_squared(sse: np.ndarray, squares: np.ndarray, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """1 - SSE / SST; NaN if the true ratings have no spread.

    Args:
        sse: sum of squared errors; all arguments have the same shape.
        squares: sum of squares of the true ratings. Any constant may be subtracted from the ratings; one near their
            mean avoids cancellation.
        total: sum of the true ratings, minus the same constant.
        count: number of ratings.
    """
    sst = squares - total**2 / count
    return np.where(sst > _NO_SPREAD * squares, 1 - sse / sst, np.nan)


class RatingMetrics:
    """Metrics of predicted ratings; sums that all models share are computed once.

    Args:
        rows: the rows to score.

    Example:
        >>> import numpy as np
        >>> import polars as pl
        >>> test = pl.DataFrame({"user": [0, 0, 1], "item": [0, 1, 0], "rating": [4.0, 2.0, 5.0]})
        >>> rmse, mae, r2 = RatingMetrics(ScoredRows(test)).errors(np.array([4.0, 3.0, 4.0]))
        >>> float(mae.formula(*(part.sum() for part in mae.parts)))
        0.6666666666666666
    """

    def __init__(self, rows: ScoredRows) -> None:
        self.rows = rows
        self.count = rows.counts.astype(np.float64)
        self.picks = ((rows.counts + _ROWS_PER_PICK - 1) // _ROWS_PER_PICK).astype(np.float64)
        self.total = rows.per_user(rows.rating)
        central = rows.rating - (rows.rating.mean() if len(rows.rating) else 0.0)
        self.central, self.squares = rows.per_user(central), rows.per_user(central**2)

    def errors(self, prediction: np.ndarray, populations: frozenset[str] | None = None) -> list[UserMetric]:
        """RMSE, MAE and R² of predictions without NaN, shape (rows,), for these populations (None for all)."""
        error = prediction - self.rows.rating
        return self._errors(self.rows.per_user(error**2), self.rows.per_user(np.abs(error)), populations)

    def _errors(self, sse: np.ndarray, absolute: np.ndarray, populations: frozenset[str] | None) -> list[UserMetric]:
        return [
            UserMetric("rmse", root_mean, (sse, self.count), populations),
            UserMetric("mae", mean, (absolute, self.count), populations),
            UserMetric("r2", r_squared, (sse, self.squares, self.central, self.count), populations),
        ]

    def coverage(self, own: np.ndarray) -> UserMetric:
        """Prediction coverage: share of rows that are not NaN in `own`, shape (rows,)."""
        return UserMetric("prediction_coverage", mean, (self.rows.per_user(~np.isnan(own)), self.count))

    def top5pct_rating(self, prediction: np.ndarray) -> UserMetric:
        """Mean true rating of the ceil(5 %) rows with the highest prediction of each user, pooled over users.

        Args:
            prediction: shape (rows,), no NaN; -inf ranks a row last. Ties keep the order of the rows.
        """
        order = self.rows.order(prediction, descending=True)
        chosen = np.zeros(len(order))
        chosen[order] = self.rows.place < self.picks[self.rows.code]
        return UserMetric("top5pct_rating", mean, (self.rows.per_user(chosen * self.rows.rating), self.picks))

    def top5pct_rating_published(self, own: np.ndarray) -> UserMetric:
        """Mean true rating of the rows at or above the user's 95th percentile of predictions: case study A's rule.

        Missing predictions count as 1.0. With linear interpolation the percentile is at most the ceil(5 %)-th highest
        prediction and above any lower one, so the rule takes the rows at or above that prediction.

        Args:
            own: shape (rows,), NaN where the model has no prediction.
        """
        prediction = np.where(np.isnan(own), _PUBLISHED_MISSING, own)
        order = self.rows.order(prediction, descending=True)
        last_pick = order[self.rows.starts + self.picks.astype(np.int64) - 1]
        chosen = prediction >= prediction[last_pick][self.rows.code]
        taken = self.rows.per_user(chosen)
        return UserMetric("top5pct_rating_published", mean, (self.rows.per_user(chosen * self.rows.rating), taken))

    def random_order(self) -> list[UserMetric]:
        """Both ratings of the top 5 % for a random order: the exact expectation over all orders without ties.

        Without ties both rules take the same number of rows.
        """
        parts = (self.picks * self.total / self.count, self.picks)
        return [UserMetric(name, mean, parts) for name in ("top5pct_rating", "top5pct_rating_published")]

    def random_ratings(self, values: np.ndarray, weights: np.ndarray) -> list[UserMetric]:
        """RMSE, MAE and R² of predictions drawn from a distribution of ratings, by exact expectation of the errors.

        Args:
            values: distinct ratings, ascending, shape (values,).
            weights: probability of each rating, shape (values,), summing to 1.
        """
        first, second = weights @ values, weights @ values**2
        rating = self.rows.rating
        # E|X - r| from cumulative sums up to r: two look-ups per row, regardless of the number of values.
        below = np.searchsorted(values, rating, side="right")
        share, part = (np.concatenate([[0], np.cumsum(terms)])[below] for terms in (weights, weights * values))
        absolute = rating * share - part + (first - part) - rating * (1 - share)
        sse = self.rows.per_user(second - 2 * rating * first + rating**2)
        return self._errors(sse, self.rows.per_user(absolute), None)


class RankingMetrics:
    """Metrics of the ranks of the relevant items among all candidates: binary relevance, means over users.

    Definitions follow ranx 0.3 and, for NDCG, scikit-learn (Järvelin & Kekäläinen 2002): recall and average
    precision are divided by the number of relevant items, precision by k.

    Args:
        rows: the relevant rows, at least one per user.
        k: cut-off rank.

    Example:
        >>> import numpy as np
        >>> import polars as pl
        >>> relevant = pl.DataFrame({"user": [0, 0, 1], "item": [3, 5, 4], "rating": [5.0, 4.0, 5.0]})
        >>> metrics = RankingMetrics(ScoredRows(relevant), k=10).of_ranks(np.array([1.0, 20.0, 2.0]))
        >>> {m.name: round(float(m.formula(*(part.sum() for part in m.parts))), 3) for m in metrics}
        {'ndcg_10': 0.622, 'recall_10': 0.75, 'precision_10': 0.1, 'map_10': 0.5, 'mrr_10': 0.75, 'hit_rate_10': 1.0}
    """

    def __init__(self, rows: ScoredRows, k: int) -> None:
        self.rows = rows
        self.k = k
        self.relevant = rows.counts.astype(np.float64)
        self.ones = np.ones(len(self.relevant))
        self.discounts = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
        self.ideal = self.discounts[np.minimum(rows.counts, k) - 1]

    def of_ranks(self, ranks: np.ndarray) -> list[UserMetric]:
        """NDCG, recall, precision, MAP, MRR and hit rate at k.

        Args:
            ranks: shape (rows,), from 1, distinct within a user; infinity if the item is not in the list.
        """
        order = self.rows.order(ranks, descending=False)
        relevant_so_far = np.empty(len(ranks))
        relevant_so_far[order] = self.rows.place + 1
        hit = ranks <= self.k
        hits = self.rows.per_user(hit)
        first = ranks[order[self.rows.starts]]
        return self._means(
            ndcg=self.rows.per_user(hit / np.log2(ranks + 1)) / self.ideal,
            recall=hits / self.relevant,
            precision=hits / self.k,
            map=self.rows.per_user(hit * relevant_so_far / ranks) / self.relevant,
            mrr=(first <= self.k) / first,
            hit_rate=hits > 0,
        )

    def perfect(self) -> list[UserMetric]:
        """The upper bound: metrics of a list that begins with the user's relevant items."""
        return self.of_ranks(self.rows.place + 1.0)

    def random_order(self, candidates: np.ndarray) -> list[UserMetric]:
        """Exact expectation over all orders of the candidates, for the metrics with a simple closed form.

        Args:
            candidates: number of candidate items, shape (users,), at least the number of relevant ones.
        """
        # Imported here, because it would slow the start of every process.
        from scipy.stats import hypergeom

        length = np.minimum(candidates, self.k)
        share = self.relevant / candidates
        return self._means(
            ndcg=share * self.discounts[length - 1] / self.ideal,
            recall=length / candidates,
            precision=share * length / self.k,
            hit_rate=1 - hypergeom.pmf(0, candidates, self.relevant.astype(np.int64), length),
        )

    def _means(self, **per_user: np.ndarray) -> list[UserMetric]:
        return [UserMetric(f"{name}_{self.k}", mean, (score, self.ones)) for name, score in per_user.items()]


def hit_at(k: int, hits: np.ndarray, rows: ScoredRows) -> UserMetric:
    """Share of rows whose item is among the first k.

    Args:
        k: cut-off rank.
        hits: probability of a hit, shape (rows,).
        rows: the rows.
    """
    return UserMetric(f"next_item_hit_{k}", mean, (rows.per_user(hits), rows.counts))
