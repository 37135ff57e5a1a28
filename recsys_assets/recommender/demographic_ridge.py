"""Item mean plus a joint ridge regression of demographics on the movies' factors: a rating for users without any.

One regression for all movies: a demographic group's taste is a direction in the space of factors, so that a movie with
few ratings borrows from those like it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.centred_als import CentredALSModel
from recsys_assets.recommender.frames import to_polars
from recsys_assets.recommender.index import Index
from recsys_assets.recommender.item_mean import ItemMeanModel
from recsys_assets.recommender.matrices import user_movie_matrix
from recsys_assets.recommender.side_information import user_attributes


@dataclass(frozen=True)
class DemographicRidgeModel:
    """What attributes add to each movie's mean.

    Attributes:
        means: shape (n_movies,), float64, the shrunk item means.
        tastes: shape (n_users, 1 + rank), bias and factors that follow from each user's attributes.
        movies: shape (n_movies, 1 + rank), 1 and the movie's factors; zeros for a movie without a rating.
        index: fingerprint of the dense index.
    """

    means: np.ndarray
    tastes: np.ndarray
    movies: np.ndarray
    index: str

    def predict(self, pairs: nw.LazyFrame) -> pl.DataFrame:
        """Predicted ratings for the rows (user, movie) of `pairs`: user, movie, prediction; none is missing."""
        rows = to_polars(pairs, "user", "movie")
        user, movie = rows["user"].to_numpy(), rows["movie"].to_numpy()
        predicted = self.means[movie] + np.einsum("ij,ij->i", self.tastes[user], self.movies[movie])
        return rows.with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def save(self, folder: Path) -> None:
        """Write users.parquet, movies.parquet and model.json."""
        width = pl.Array(pl.Float64, self.movies.shape[1])
        pl.DataFrame({"taste": pl.Series(self.tastes, dtype=width)}).write_parquet(folder / "users.parquet")
        movies = {"mean": self.means, "factors": pl.Series(self.movies, dtype=width)}
        pl.DataFrame(movies).write_parquet(folder / "movies.parquet")
        (folder / "model.json").write_text(json.dumps({"index": self.index}))

    @classmethod
    def load(cls, folder: Path) -> "DemographicRidgeModel":
        """Read what `save` wrote."""
        movies = pl.read_parquet(folder / "movies.parquet")
        tastes = pl.read_parquet(folder / "users.parquet")["taste"].to_numpy()
        facts = json.loads((folder / "model.json").read_text())
        return cls(movies["mean"].to_numpy(), tastes, movies["factors"].to_numpy(), facts["index"])


def fit(
    ratings: nw.LazyFrame,
    *,
    index: Index,
    user_features: nw.LazyFrame,
    item_mean_model: ItemMeanModel,
    als_centred_model: CentredALSModel,
    reg: float = 30_000.0,
) -> DemographicRidgeModel:
    """Least squares of the ratings less their item means on all products of attributes and movie factors.

    Args:
        ratings: user, movie, rating.
        index: the dense index the ids come from.
        user_features: table user_features; everyone.
        item_mean_model: fitted on the same ratings.
        als_centred_model: likewise; its movie factors are used, at variance 1.
        reg: L2 regularisation of each coefficient, in ratings.
    """
    factors = als_centred_model.residuals.movie_factors.astype(np.float64)
    known = als_centred_model.residuals.movie_known
    spread = factors[known].std(axis=0)
    movies = np.column_stack([np.ones(len(factors)), factors / np.where(spread > 0, spread, 1)]) * known[:, None]
    attributes = user_attributes(user_features)
    attributes = np.column_stack([np.ones(len(attributes)), attributes])
    users, rated = user_movie_matrix(ratings, n_movies=index.n_movies)
    residual = rated.copy()
    residual.data = rated.data - item_mean_model.means[rated.indices].astype(np.float32)
    rated.data = np.ones_like(rated.data)
    mine, width = attributes[users], movies.shape[1]
    # The coefficients' Gram matrix is a sum over users of (attributes ⊗ attributes) × (factors ⊗ factors) of what they
    # have rated: no row per rating is ever made.
    products = rated @ (movies[:, :, None] * movies[:, None, :]).reshape(len(movies), -1)
    blocks = np.array([mine.T @ (mine * product[:, None]) for product in products.T])
    size = mine.shape[1] * width
    gram = blocks.reshape(width, width, mine.shape[1], -1).transpose(2, 0, 3, 1).reshape(size, size)
    target = (mine.T @ (residual @ movies)).ravel()
    coefficients = np.linalg.solve(gram + max(reg, 1e-6) * np.eye(size), target).reshape(-1, width)
    return DemographicRidgeModel(item_mean_model.means, attributes @ coefficients, movies, index.fingerprint)
