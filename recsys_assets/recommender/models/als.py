"""Alternating least squares, fitted in this process or in Spark.

The engine of the ratings decides where, and the model is the same. `ALSModel` predicts, folds in and explains from two
factor tables. `starting_factors` draws the factors that a fit starts with. Users without ratings are handled in
`cold_start`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import row_count, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import Preference
from recsys_assets.recommender.data.sections import Section

_ITERATIONS_PER_CHECKPOINT = 5
_PAIRS_PER_BLOCK = 1_000_000


class ALSSettings(Section):
    """Explicit ALS, case study A's model. Recommendations use it only if it is chosen or named."""

    tried: ClassVar = {"rank": (10, 20, 50), "reg_param": (0.05, 0.07, 0.1), "max_iter": (10, 15)}

    rank: int = Field(10, ge=1, description="Number of factors.")
    reg_param: float = Field(0.1, ge=0, description="Regularisation, scaled by the number of ratings.")
    max_iter: int = Field(10, ge=1, description="Number of iterations.")
    n_blocks: int = Field(
        4,
        ge=1,
        description="Number of user blocks and of item blocks on Spark; a cluster needs more. The starting factors "
        "depend on it.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the starting factors.")


class ImplicitALSSettings(ALSSettings):
    """Implicit ALS for top N: a candidate of the quick choice; part of the blend if blend.ease_weight is below 1."""

    tried: ClassVar = {
        "rank": (16, 32, 64, 128),
        "reg_param": (0.01, 0.1, 1.0),
        "alpha": (1.0, 4.0, 16.0),
        "max_iter": (10, 15),
    }

    rank: int = Field(32, ge=1, description="Number of factors.")
    alpha: float = Field(
        1.0, gt=0, description="Factor of the confidence: how much a rating weighs beside an unrated item."
    )
    neutral_offset: float = Field(
        -0.5,
        description="Neutral rating, in standard deviations from the mean rating; a lower rating speaks against an "
        "item.",
    )


class NextImplicitALSSettings(ImplicitALSSettings):
    """Implicit ALS for the next item (case study B)."""


@dataclass(frozen=True)
class ALSModel:
    """Factors of users and items by dense id.

    Attributes:
        user_factors: shape (n_users, rank), float32. Zeros for a user without a training rating or, with implicit
            preferences, without a preference above 0.
        item_factors: shape (n_items, rank), float32. Zeros for an item in the same cases.
        user_known: shape (n_users,), whether the user has factors.
        item_known: shape (n_items,), whether the item has factors.
        params: parameters of the fit.
        index: fingerprint of the id map that the model was fitted with.
    """

    user_factors: np.ndarray
    item_factors: np.ndarray
    user_known: np.ndarray
    item_known: np.ndarray
    params: Mapping[str, Any]
    index: str

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self.user_factors.shape[1]

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predict the ratings of pairs (user, item); null if the user or the item has no factors."""
        rows = to_polars(pairs, "user", "item")
        user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
        predicted = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _PAIRS_PER_BLOCK):
            block = slice(start, start + _PAIRS_PER_BLOCK)
            predicted[block] = np.einsum("ij,ij->i", self.user_factors[user[block]], self.item_factors[item[block]])
        known = self.user_known[user] & self.item_known[item]
        return rows.with_columns(prediction=pl.when(pl.Series(known)).then(pl.Series(predicted)))

    def fold_in(self, rated: sparse.csr_array) -> np.ndarray:
        """Compute user factors from ratings alone, with the equations of the fit's last half-iteration.

        A user of the fit gets the factors of the fit. Any other user gets the factors that the fit would have given for
        the same item factors.

        Args:
            rated: users by items, shape (U, n_items).

        Returns:
            Shape (U, rank), float32; zeros for a user without a rating of a known item, or whose equations have no
            unique solution.
        """
        from recsys_assets.recommender.models.kernels import fill_factors

        factors = np.empty((rated.shape[0], self.rank), np.float32)
        equations = (*self._cells(rated), self.item_factors, self._gram, float(self.params["regParam"]))
        fill_factors(factors, 0, len(factors), *equations)
        # Without regularisation, the equations of a user with few ratings have no unique solution.
        factors[~np.isfinite(factors).all(axis=1)] = 0
        return factors

    def scores(self, rated: sparse.csr_array) -> np.ndarray:
        """Score all items from users' ratings alone, shape (U, n_items); see `fold_in`."""
        return self.fold_in(rated) @ self.item_factors.T

    def contributions(self, rated: sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the part of an item's score that each rating of a user adds; the parts sum exactly to the score.

        The factors of `fold_in` are linear in the right sides of the user's ratings, so a score is a sum over them (Hu,
        Koren and Volinsky 2008, section 5).

        Args:
            rated: ratings of some users, shape (B, n_items).
            rows: row of each recommendation, shape (P,), ascending.
            items: item of each recommendation, shape (P,).

        Returns:
            One value per pair of `rankings.pairs`; 0 for a rating of an unknown item.
        """
        from recsys_assets.recommender.models.kernels import fill_contributions

        ends = np.cumsum(np.diff(rated.indptr)[rows])
        added = np.empty(ends[-1] if len(ends) else 0)
        equations = (*self._cells(rated), self.item_factors, self._gram, float(self.params["regParam"]))
        fill_contributions(added, ends, rows, items, *equations)
        return added

    def _cells(self, rated: sparse.csr_array) -> tuple[np.ndarray, ...]:
        """Return the ratings as the compiled loops take them; a rating of an unknown item has no weight."""
        known = self.item_known[rated.indices]
        values = self._preference.from_neutral(rated.data)
        confidence, target, regularised = _weights(values, self.params)
        return rated.indptr, rated.indices, confidence * known, target * known, regularised & known

    @cached_property
    def _gram(self) -> np.ndarray:
        return _gram(self.item_factors, self.params)

    @cached_property
    def _preference(self) -> Preference:
        # Models stored before version 0.5 hold only the neutral rating.
        stored = self.params.get("preference", {"neutral": self.params.get("neutral", 0.0), "scale": 1.0})
        return Preference(**stored)

    def save(self, folder: Path) -> None:
        """Write user_factors.parquet, item_factors.parquet (only ids that have factors) and model.json."""
        for side in ("user", "item"):
            factors, known = getattr(self, f"{side}_factors"), getattr(self, f"{side}_known")
            ids = np.flatnonzero(known).astype(np.int32)
            columns = {side: ids, "factors": pl.Series(factors[ids], dtype=pl.Array(pl.Float32, self.rank))}
            pl.DataFrame(columns).write_parquet(folder / f"{side}_factors.parquet")
        facts = {
            "n_users": len(self.user_known),
            "n_items": len(self.item_known),
            "params": dict(self.params),
            "index": self.index,
        }
        (folder / "model.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "ALSModel":
        """Read the files that `save` writes."""
        facts = json.loads((folder / "model.json").read_text())
        users, items = (_Factors.of(pl.read_parquet(folder / f"{side}_factors.parquet")) for side in ("user", "item"))
        user_factors, user_known = users.dense(facts["n_users"])
        item_factors, item_known = items.dense(facts["n_items"])
        return cls(user_factors, item_factors, user_known, item_known, params=facts["params"], index=facts["index"])


def fit(ratings: nw.LazyFrame, *, index: Index, settings: ALSSettings, user_column: str = "user") -> ALSModel:
    """Fit ALS: a Spark frame with `pyspark.ml.recommendation.ALS`, a Polars frame with the same equations here.

    Both start with the same factors and differ by rounding only.

    Args:
        ratings: user, item (int32), rating. Rows may repeat a pair.
        index: id map of users and items.
        settings: of explicit ALS, with the regularisation scaled by the number of ratings (ALS-WR, Zhou et al. 2008);
            or `ImplicitALSSettings`. A rating above the neutral one is then a preference of 1, any other a preference
            of 0, and the confidence grows with the distance (Hu, Koren and Volinsky 2008).
        user_column: column that stands for the user; `cluster` to fit clusters instead of users.

    Raises:
        ValueError: no rating is above the neutral one, only with `ImplicitALSSettings`; or the equations of a user or
            item have no unique solution, only without regularisation. Spark raises an error of its own for the latter.
    """
    implicit = settings if isinstance(settings, ImplicitALSSettings) else None
    params: dict[str, Any] = {
        "rank": settings.rank,
        "regParam": settings.reg_param,
        "maxIter": settings.max_iter,
        "implicitPrefs": implicit is not None,
        "alpha": implicit.alpha if implicit else 1.0,
        "seed": settings.seed,
    }
    facts = dict(params)
    rows = ratings.select(nw.col(user_column).alias("user"), "item", nw.col("rating").cast(nw.Float32()))
    if implicit:
        preference = Preference.of(ratings, neutral_offset=implicit.neutral_offset)
        facts["preference"] = asdict(preference)
        rows = _with_preferences(rows.with_columns(preference.expression(nw.col("rating")).cast(nw.Float32())))
        if not row_count(rows):
            raise ValueError(
                f"no rating is above {preference.neutral_rating:g}, so none speaks for an item, and implicit ALS has "
                "nothing to learn; set a lower neutral_offset"
            )
    fit_rows = _fit_here if rows.implementation.is_polars() else _fit_in_spark
    users, items = fit_rows(rows, params, settings.n_blocks)
    user_factors, user_known = users.dense(index.n_users)
    item_factors, item_known = items.dense(index.n_items)
    if not (np.isfinite(user_factors).all() and np.isfinite(item_factors).all()):
        raise ValueError("the equations of ALS have no unique solution; set a reg_param above 0")
    return ALSModel(user_factors, item_factors, user_known, item_known, params=facts, index=index.fingerprint)


def _with_preferences(rows: nw.LazyFrame) -> nw.LazyFrame:
    """Keep the rows of users and items that have a rating above the neutral one.

    All other users and items would end with factors of 0 and would affect the fit only through the random start. ALS
    regularises by the number of ratings above the neutral one, so a user or item without one is not regularised. With
    fewer items or users than factors its equations then have no unique solution.
    """
    liked = rows.filter(nw.col("rating") > 0)
    for column in ("user", "item"):
        rows = rows.join(liked.select(column).unique(), on=column, how="semi")
    return rows


@dataclass(frozen=True)
class _Factors:
    """Factors of some users or items.

    Attributes:
        ids: dense ids, shape (n,).
        values: shape (n, rank), float32.
    """

    ids: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, table: pl.DataFrame) -> "_Factors":
        """Read a table of ids and lists, in this order."""
        ids, lists = table
        values = lists if isinstance(lists.dtype, pl.Array) else lists.list.to_array(len(lists[0]))
        return cls(ids.to_numpy(), values.to_numpy())

    def dense(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors of all dense ids, shape (size, rank), and whether each id has any."""
        factors = np.zeros((size, self.values.shape[1]), np.float32)
        known = np.zeros(size, bool)
        factors[self.ids], known[self.ids] = self.values, True
        return factors, known


@dataclass(frozen=True)
class _Side:
    """The ratings of one side, users or items, as the compiled loops take them.

    Attributes:
        ids: ids of the side with a rating, ascending, shape (n,).
        starts: start of each id's ratings, shape (n + 1,).
        others: position of the other side's id, for each rating.
        weights: see `_weights`.
    """

    ids: np.ndarray
    starts: np.ndarray
    others: np.ndarray
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]

    def solve(self, others: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
        """Return the factors of this side, shape (n, rank), given those of the other one."""
        from recsys_assets.recommender.models.kernels import fill_factors, in_threads

        factors = np.empty((len(self.ids), others.shape[1]), np.float32)
        cells = (self.starts, self.others, *self.weights)
        equations = (*cells, others, _gram(others, params), float(params["regParam"]))
        in_threads(lambda begin, end: fill_factors(factors, begin, end, *equations), len(factors), self.starts)
        return factors


def _fit_here(rows: nw.LazyFrame, params: Mapping[str, Any], n_blocks: int) -> tuple[_Factors, _Factors]:
    from recsys_assets.recommender.models.starting_factors import starting_factors

    rated = to_polars(rows)
    users, items = (_side(rated, *columns, params) for columns in (("user", "item"), ("item", "user")))
    of_users = starting_factors(users.ids, rank=params["rank"], seed=params["seed"], n_blocks=n_blocks)
    of_items = np.zeros((len(items.ids), params["rank"]), np.float32)
    for _ in range(params["maxIter"]):
        of_items = items.solve(of_users, params)
        of_users = users.solve(of_items, params)
    return _Factors(users.ids, of_users), _Factors(items.ids, of_items)


def _side(rated: pl.DataFrame, own: str, other: str, params: Mapping[str, Any]) -> _Side:
    ordered = rated.sort(own, other, "rating")
    ids, counts = np.unique(ordered[own].to_numpy(), return_counts=True)
    others = ordered[other].rank("dense").to_numpy().astype(np.int32) - 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    return _Side(ids, starts, others, _weights(ordered["rating"].to_numpy(), params))


def _weights(values: np.ndarray, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return confidence and target of ratings, float64, and whether each counts for the regularisation.

    Args:
        values: ratings; of implicit ALS, their distance from the neutral one.
        params: parameters of the fit.
    """
    values = values.astype(np.float64)
    if not params["implicitPrefs"]:
        return np.ones(len(values)), values, np.ones(len(values), bool)
    confidence = params["alpha"] * np.abs(values)
    return confidence, np.where(values > 0, 1 + confidence, 0), values > 0


def _gram(factors: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Gram matrix of factors, which stands for the unrated cells of a row; zeros in explicit models."""
    if not params["implicitPrefs"]:
        return np.zeros((factors.shape[1], factors.shape[1]))
    exact = factors.astype(np.float64)
    return exact.T @ exact


def _fit_in_spark(rows: nw.LazyFrame, params: Mapping[str, Any], n_blocks: int) -> tuple[_Factors, _Factors]:
    from pyspark.ml.recommendation import ALS  # the import takes two seconds

    als = ALS(
        userCol="user",
        itemCol="item",
        ratingCol="rating",
        numUserBlocks=n_blocks,
        numItemBlocks=n_blocks,
        checkpointInterval=_ITERATIONS_PER_CHECKPOINT,
        **params,
    )
    fitted = als.fit(rows.to_native())
    users, items = (to_polars(nw.from_native(side)) for side in (fitted.userFactors, fitted.itemFactors))
    return _Factors.of(users), _Factors.of(items)
