"""ALS on what user and movie biases leave of the ratings, averaged over seeds.

The plain factors of `als` must spend a dimension on biases and shrink them towards a rating of 0; these need not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender import als
from recsys_assets.recommender.als import ALSModel
from recsys_assets.recommender.biases import BiasModel
from recsys_assets.recommender.frames import lazy, to_polars
from recsys_assets.recommender.index import Index

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class CentredALSModel:
    """Biases, and factors of what they leave.

    Attributes:
        biases: of users and movies.
        residuals: the factors of all seeds side by side, so that a product of them is the mean over the seeds.
    """

    biases: BiasModel
    residuals: ALSModel

    @property
    def index(self) -> str:
        """Fingerprint of the dense index."""
        return self.residuals.index

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predicted ratings for the rows (user, movie) of `pairs`: user, movie, prediction; none is missing."""
        rows = to_polars(pairs, "user", "movie")
        level = self.biases.of(rows["user"].to_numpy(), rows["movie"].to_numpy())
        taste = self.residuals.predict(lazy(rows))["prediction"].fill_null(0.0).to_numpy()
        return rows.with_columns(prediction=pl.Series(level + taste, dtype=pl.Float32))

    def save(self, folder: Path) -> None:
        """Write what the two parts write, into biases/ and residuals/."""
        for name in ("biases", "residuals"):
            (folder / name).mkdir()
            getattr(self, name).save(folder / name)

    @classmethod
    def load(cls, folder: Path) -> "CentredALSModel":
        """Read what `save` wrote."""
        return cls(BiasModel.load(folder / "biases"), ALSModel.load(folder / "residuals"))


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    spark: "SparkSession",
    scratch: Path,
    user_item_bias_model: BiasModel,
    rank: int = 10,
    reg_param: float = 0.1,
    max_iter: int = 10,
    n_blocks: int = 4,
    n_seeds: int = 2,
    seed: int = 0,
) -> CentredALSModel:
    """Fit `als.fit` on the residuals once per seed.

    Args:
        ratings: user, movie, rating.
        index: the dense index the ids come from.
        spark: the session.
        scratch: folder that the driver and the executors can reach.
        user_item_bias_model: fitted on the same ratings.
        rank: number of factors per seed.
        reg_param: regularisation, scaled by the number of ratings.
        max_iter: iterations.
        n_blocks: blocks of users and of movies.
        n_seeds: number of fits that are averaged.
        seed: the first of them; the others follow.
    """
    rows = to_polars(ratings, "user", "movie", "rating")
    level = user_item_bias_model.of(rows["user"].to_numpy(), rows["movie"].to_numpy())
    left = (rows["rating"].cast(pl.Float64) - pl.Series(level)).cast(pl.Float32)
    residuals = lazy(rows.with_columns(rating=left))
    fitted = [
        als.fit(
            residuals,
            spark=spark,
            scratch=scratch,
            index=index,
            rank=rank,
            reg_param=reg_param,
            max_iter=max_iter,
            n_blocks=n_blocks,
            seed=each,
        )
        for each in range(seed, seed + n_seeds)
    ]
    return CentredALSModel(user_item_bias_model, averaged(fitted))


def averaged(models: Sequence[ALSModel]) -> ALSModel:
    """One model whose predictions are the mean of those of the models, which were fitted on the same ratings."""
    share = 1 / np.sqrt(len(models))
    first = models[0]
    return ALSModel(
        user_factors=np.hstack([model.user_factors * share for model in models]).astype(np.float32),
        movie_factors=np.hstack([model.movie_factors * share for model in models]).astype(np.float32),
        user_known=first.user_known,
        movie_known=first.movie_known,
        params={**first.params, "seeds": [model.params["seed"] for model in models]},
        index=first.index,
    )
