"""The formulas of the metrics, on arrays: each gives a `UserMetric`, per-user sums and what to make of them.

Nothing here knows of tables, models or protocols.
"""

import numpy as np
from scipy.stats import hypergeom

from recsys_assets.recommender.evaluation.bootstrap import UserMetric
from recsys_assets.recommender.evaluation.rows import ScoredRows

# The top 5 % are one row in every 20, counted in whole numbers: in floats (1 - 0.95) * 20 is above 1.
_ROWS_PER_PICK = 20
# Case study A gave this prediction to a row that its model could not predict.
_PUBLISHED_MISSING = 1.0
# A spread this small beside the ratings themselves is rounding: R² is not defined then.
_NO_SPREAD = 1e-9


def mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Total over count."""
    return total / count


def root_mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Square root of total over count."""
    return np.sqrt(total / count)


def r_squared(sse: np.ndarray, squares: np.ndarray, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """1 - SSE / SST from the squared errors and the truth's squares, sum and count; NaN without spread.

    The truth may be counted from any rating: from one near its mean, squares leave the spread its digits.
    """
    sst = squares - total**2 / count
    return np.where(sst > _NO_SPREAD * squares, 1 - sse / sst, np.nan)


class RatingMetrics:
    """Metrics of predicted ratings on the same rows; what the models share is computed once.

    Args:
        rows: the rows to score.
    """

    def __init__(self, rows: ScoredRows) -> None:
        self.rows = rows
        self.count = rows.counts.astype(np.float64)
        self.picks = ((rows.counts + _ROWS_PER_PICK - 1) // _ROWS_PER_PICK).astype(np.float64)
        self.total = rows.per_user(rows.rating)
        central = rows.rating - (rows.rating.mean() if len(rows.rating) else 0.0)
        self.central, self.squares = rows.per_user(central), rows.per_user(central**2)

    def errors(self, prediction: np.ndarray, populations: frozenset[str] | None = None) -> list[UserMetric]:
        """RMSE, MAE and R² of complete predictions, shape (rows,), for these populations or all (None)."""
        error = prediction - self.rows.rating
        return self._errors(self.rows.per_user(error**2), self.rows.per_user(np.abs(error)), populations)

    def _errors(self, sse: np.ndarray, absolute: np.ndarray, populations: frozenset[str] | None) -> list[UserMetric]:
        return [
            UserMetric("rmse", root_mean, (sse, self.count), populations),
            UserMetric("mae", mean, (absolute, self.count), populations),
            UserMetric("r2", r_squared, (sse, self.squares, self.central, self.count), populations),
        ]

    def coverage(self, own: np.ndarray) -> UserMetric:
        """Share of the rows that the model predicts itself: those not NaN in `own`, shape (rows,)."""
        return UserMetric("prediction_coverage", mean, (self.rows.per_user(~np.isnan(own)), self.count))

    def top5_rating(self, prediction: np.ndarray) -> UserMetric:
        """Mean true rating of each user's ceil(5 %) rows of highest prediction, ties in the rows' order.

        Args:
            prediction: shape (rows,), no NaN; rows at -inf come last, in the order of the rows.
        """
        order = self.rows.order(prediction, descending=True)
        chosen = np.zeros(len(order))
        chosen[order] = self.rows.place < self.picks[self.rows.code]
        return UserMetric("top5_rating", mean, (self.rows.per_user(chosen * self.rows.rating), self.picks))

    def top5_rating_published(self, own: np.ndarray) -> UserMetric:
        """The same by case study A's rule: all rows from the user's 95th percentile on, missing ones as 1.0.

        With linear interpolation that percentile is at most the ceil(5 %)-th highest prediction and above any
        lower one, so these are the rows at or above that prediction.

        Args:
            own: shape (rows,), NaN where the model has no prediction of its own.
        """
        prediction = np.where(np.isnan(own), _PUBLISHED_MISSING, own)
        order = self.rows.order(prediction, descending=True)
        last_pick = order[self.rows.starts + self.picks.astype(np.int64) - 1]
        chosen = prediction >= prediction[last_pick][self.rows.code]
        taken = self.rows.per_user(chosen)
        return UserMetric("top5_rating_published", mean, (self.rows.per_user(chosen * self.rows.rating), taken))

    def random_order(self) -> list[UserMetric]:
        """Exact expectation over all orders without ties, where both rules take the same number of rows."""
        parts = (self.picks * self.total / self.count, self.picks)
        return [UserMetric(name, mean, parts) for name in ("top5_rating", "top5_rating_published")]

    def random_ratings(self, values: np.ndarray, weights: np.ndarray) -> list[UserMetric]:
        """RMSE, MAE and R² of predictions drawn from a distribution of ratings: exact expectations of the errors.

        Args:
            values: the ratings that are drawn, ascending, distinct.
            weights: their shares, summing to 1.
        """
        first, second = weights @ values, weights @ values**2
        rating = self.rows.rating
        # E|X - r| from the sums over the values up to r: two look-ups per row, however many values there are.
        below = np.searchsorted(values, rating, side="right")
        share, part = (np.concatenate([[0], np.cumsum(terms)])[below] for terms in (weights, weights * values))
        absolute = rating * share - part + (first - part) - rating * (1 - share)
        sse = self.rows.per_user(second - 2 * rating * first + rating**2)
        return self._errors(sse, self.rows.per_user(absolute), None)


class RankingMetrics:
    """Metrics of the ranks of the relevant movies among all candidates; binary relevance, means over users.

    Definitions as in ranx 0.3 and, for NDCG, scikit-learn (Järvelin & Kekäläinen 2002): recall and average
    precision are divided by all relevant movies, precision by k.

    Args:
        rows: the relevant rows, so that each user has at least one.
        k: length of the list that is looked at.
    """

    def __init__(self, rows: ScoredRows, k: int) -> None:
        self.rows = rows
        self.k = k
        self.relevant = rows.counts.astype(np.float64)
        self.ones = np.ones(len(self.relevant))
        self.discounts = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
        self.ideal = self.discounts[np.minimum(rows.counts, k) - 1]

    def of_ranks(self, ranks: np.ndarray) -> list[UserMetric]:
        """NDCG, recall, precision, MAP, MRR and hit rate from ranks, shape (rows,), distinct within a user.

        Ranks count from 1; infinity where the movie is not in the list.
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
        """The same for a list that begins with the user's relevant movies."""
        return self.of_ranks(self.rows.place + 1.0)

    def random_order(self, candidates: np.ndarray) -> list[UserMetric]:
        """Exact expectation over all orders of the candidates, for metrics with a simple closed form.

        Args:
            candidates: movies to be ordered, shape (users,), at least as many as are relevant.
        """
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
    """Share of the rows whose movie is among the first k; `hits` are their probabilities, shape (rows,)."""
    return UserMetric(f"next_movie_hit_{k}", mean, (rows.per_user(hits), rows.counts))
