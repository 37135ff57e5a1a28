"""Alternating least squares: Spark fits, and the model keeps the two factor tables as plain arrays.

`ALSModel` predicts, folds in and explains without a JVM. pyspark is imported by a fit only. Users without ratings are
handled in `cold_start`.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import Preference
from recsys_assets.recommender.data.sections import Section

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ITERATIONS_PER_CHECKPOINT = 5
_PAIRS_PER_BLOCK = 1_000_000


class ALSSettings(Section):
    """Explicit ALS, case study A's model. It is scored for comparison; recommendations do not use it."""

    tried: ClassVar = {"rank": (10, 20, 50), "reg_param": (0.05, 0.07, 0.1), "max_iter": (10, 15)}

    rank: int = Field(10, ge=1, description="Number of factors.")
    reg_param: float = Field(0.1, ge=0, description="Regularisation, scaled by the number of ratings.")
    max_iter: int = Field(10, ge=1, description="Number of iterations.")
    n_blocks: int = Field(4, ge=1, description="Number of user blocks and of item blocks; a cluster needs more.")
    seed: int = Field(0, ge=0, description="Seed of the starting factors.")


class ImplicitALSSettings(ALSSettings):
    """Implicit ALS for top N. It is scored, and part of the blend if `blend.ease_weight` is below 1."""

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
            Shape (U, rank), float32; zeros for a user without a rating of a known item.
        """
        from recsys_assets.recommender.models.kernels import fill_factors

        factors = np.zeros((rated.shape[0], self.rank), np.float32)
        fill_factors(factors, *self._cells(rated), self.item_factors, self._gram, float(self.params["regParam"]))
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
        values, confidence, target = self._weights(rated.data)
        regularised = known & (values > 0) if self.params["implicitPrefs"] else known
        return rated.indptr, rated.indices, confidence * known, target * known, regularised

    @cached_property
    def _gram(self) -> np.ndarray:
        """Gram matrix of the item factors, which stands for the unrated items of a user; zeros in explicit models."""
        items = self.item_factors[self.item_known].astype(np.float64)
        return items.T @ items if self.params["implicitPrefs"] else np.zeros((self.rank, self.rank))

    @cached_property
    def _preference(self) -> Preference:
        # Models stored before version 0.5 hold only the neutral rating.
        stored = self.params.get("preference", {"neutral": self.params.get("neutral", 0.0), "scale": 1.0})
        return Preference(**stored)

    def _weights(self, ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the distance from the neutral rating, the confidence and the target of ratings, float64 each."""
        values = self._preference.from_neutral(ratings).astype(np.float64)
        if not self.params["implicitPrefs"]:
            return values, np.ones(len(values)), values
        confidence = self.params["alpha"] * np.abs(values)
        return values, confidence, np.where(values > 0, 1 + confidence, 0)

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
        user = _dense(pl.read_parquet(folder / "user_factors.parquet"), "user", facts["n_users"])
        item = _dense(pl.read_parquet(folder / "item_factors.parquet"), "item", facts["n_items"])
        return cls(user[0], item[0], user[1], item[1], params=facts["params"], index=facts["index"])


def fit(
    ratings: nw.LazyFrame,
    *,
    spark: "SparkSession",
    scratch: Path,
    index: Index,
    settings: ALSSettings,
    user_column: str = "user",
) -> ALSModel:
    """Fit `pyspark.ml.recommendation.ALS`.

    Args:
        ratings: user, item (int32), rating.
        spark: the session.
        scratch: folder that the driver and the executors can reach. Temporary files in it are removed again.
        index: id map of users and items.
        settings: of explicit ALS, with the regularisation scaled by the number of ratings (ALS-WR, Zhou et al. 2008);
            or `ImplicitALSSettings`. A rating above the neutral one is then a preference of 1, any other a preference
            of 0, and the confidence grows with the distance (Hu, Koren and Volinsky 2008).
        user_column: column that stands for the user; `cluster` to fit clusters instead of users.

    Raises:
        ValueError: no rating is above the neutral one; only with `ImplicitALSSettings`.
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
    if implicit:
        preference = Preference.of(ratings, neutral_offset=implicit.neutral_offset)
        ratings = ratings.with_columns(rating=preference.expression(nw.col("rating")).cast(nw.Float32()))
        facts = params | {"preference": asdict(preference)}
    else:
        preference, facts = None, params
    folder = Path(tempfile.mkdtemp(prefix="als-", dir=scratch))
    try:
        # Spark reads its input again when it retries a task. A sorted file keeps the row order, and with it the
        # factors; a query plan would not.
        rows = ratings.select(nw.col(user_column).alias("user"), "item", "rating")
        fitted = _with_preferences(rows) if implicit else rows
        path = folder / "ratings.parquet"
        fitted.sort("user", "item").sink_parquet(str(path))
        # Spark writes a folder, Polars a file.
        written = pl.scan_parquet(path / "*.parquet" if path.is_dir() else path)
        if preference and written.limit(1).collect().is_empty():
            raise ValueError(
                f"no rating is above {preference.neutral_rating:g}, so none speaks for an item, and implicit ALS has "
                "nothing to learn; set a lower neutral_offset"
            )
        user_factors, item_factors = _fit_in_spark(spark, folder, params, settings.n_blocks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    user = _dense(user_factors, "id", index.n_users)
    item = _dense(item_factors, "id", index.n_items)
    return ALSModel(user[0], item[0], user[1], item[1], params=facts, index=index.fingerprint)


def _with_preferences(rows: nw.LazyFrame) -> nw.LazyFrame:
    """Keep the rows of users and items that have a rating above the neutral one.

    All other users and items would end with factors of 0 and would affect the fit only through the random start. Spark
    regularises by the number of ratings above the neutral one, so a user or item without one is not regularised. With
    fewer items or users than factors its equations then have no unique solution, and Spark gives up.
    """
    liked = rows.filter(nw.col("rating") > 0)
    for column in ("user", "item"):
        rows = rows.join(liked.select(column).unique(), on=column, how="semi")
    return rows


def _fit_in_spark(
    spark: "SparkSession", folder: Path, params: Mapping[str, Any], n_blocks: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
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
    fitted = als.fit(spark.read.parquet(str(folder / "ratings.parquet")))
    fitted.userFactors.write.parquet(str(folder / "user"))
    fitted.itemFactors.write.parquet(str(folder / "item"))
    return pl.read_parquet(folder / "user" / "*.parquet"), pl.read_parquet(folder / "item" / "*.parquet")


def _dense(factors: pl.DataFrame, key: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    ids = factors[key].to_numpy()
    listed = factors[factors.columns[1]]
    values = (listed if isinstance(listed.dtype, pl.Array) else listed.list.to_array(len(listed[0]))).to_numpy()
    dense = np.zeros((size, values.shape[1]), np.float32)
    known = np.zeros(size, bool)
    dense[ids], known[ids] = values, True
    return dense, known
