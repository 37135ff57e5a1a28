"""Response stack: predicts the latest rating by a ridge regression on the predictions of simpler models.

It learns from the responses of train users, with features of histories alone. The prediction for a train user comes
from a regression that left this user's response out. The stack of the task `time_cut` is in `stack`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse

from recsys_assets.recommender.data.frames import lazy, pseudo_random, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.features.matrices import membership
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel
from recsys_assets.recommender.models.ridge import standardised_ridge
from recsys_assets.recommender.models.segments.residuals import SegmentResidualModel

# Half-life of the user's mood, in ratings. The mood is the mean residual of the user's last ratings.
_HALF_LIFE = 10.0
_LEANING_SHRINKAGE = 10.0
_YEARS_PER_ERA = 10
_N_FOLDS = 5


class ResponseStackSettings(Section):
    """The stack of the models of the latest rating (case study B)."""

    tried: ClassVar = {"reg": (3.0, 30.0, 300.0)}

    reg: float = Field(30.0, ge=0, description="L2 regularisation of the standardised features.")


@dataclass(frozen=True)
class ResponseStack:
    """Linear models of named features: one fitted on all train users, and one per fold without this fold.

    Attributes:
        names: names of the features, in the order of the coefficients.
        coefficients: shape (1 + folds, 1 + features), float64: intercept, then slopes. Row 0 is the model of all train
            users; row 1 + f is the model without fold f.
        users: train users, shape (train users,), int32, ascending.
        index: fingerprint of the id map that the model was fitted with.
    """

    names: tuple[str, ...]
    coefficients: np.ndarray
    users: np.ndarray
    index: str

    def predict(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Predict the ratings of the rows of `features`: user, item, prediction."""
        user = rows["user"].to_numpy()
        learnt_from = np.isin(user, self.users)
        coefficients = self.coefficients[np.where(learnt_from, 1 + _folds(user), 0)]
        predicted = coefficients[:, 0] + (rows.select(self.names).to_numpy() * coefficients[:, 1:]).sum(axis=1)
        return rows.select("user", "item").with_columns(prediction=pl.Series(predicted, dtype=pl.Float32))

    def save(self, folder: Path) -> None:
        """Write users.parquet and model.json."""
        pl.DataFrame({"user": self.users}).write_parquet(folder / "users.parquet")
        facts = {"names": self.names, "coefficients": self.coefficients.tolist(), "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "ResponseStack":
        """Read the files that `save` writes."""
        facts = json.loads((folder / "model.json").read_text())
        users = pl.read_parquet(folder / "users.parquet")["user"].to_numpy()
        return cls(tuple(facts["names"]), np.array(facts["coefficients"]), users, facts["index"])


def fit(
    responses: nw.LazyFrame,
    *,
    index: Index,
    train_histories: nw.LazyFrame,
    items: nw.LazyFrame,
    item_neighbours_model: ItemNeighboursModel,
    segment_residual_model: SegmentResidualModel,
    settings: ResponseStackSettings,
) -> ResponseStack:
    """Fit a ridge regression of the train users' responses on `features`.

    Args:
        responses: user, item, rating.
        index: id map of users and items.
        train_histories: table ratings.
        items: table items.
        item_neighbours_model: gives biases and similarities of items.
        segment_residual_model: gives residuals of segments and the affinities of train users.
        settings: the regularisation.
    """
    rows = features(
        responses,
        train_histories,
        items=items,
        user_segments=lazy(segment_residual_model.train_segments),
        item_neighbours_model=item_neighbours_model,
        segment_residual_model=segment_residual_model,
    )
    truth = to_polars(responses, "user", "item", "rating")
    rating = rows.join(truth, on=["user", "item"], maintain_order="left")["rating"].cast(pl.Float64).to_numpy()
    values, user = rows.drop("user", "item"), rows["user"].to_numpy()
    matrix, fold = values.to_numpy(), _folds(user)
    kept = [np.ones(len(user), bool), *(fold != left_out for left_out in range(_N_FOLDS))]
    # If all of a handful of users are in one fold, its model learns from this fold; there is no other.
    learnt = [few if few.any() else ~few for few in kept]
    coefficients = [np.hstack(standardised_ridge(matrix[rows], rating[rows], settings.reg)) for rows in learnt]
    return ResponseStack(tuple(values.columns), np.array(coefficients), np.sort(user), index.fingerprint)


def _folds(user: np.ndarray) -> np.ndarray:
    """Return the fold of each user, from 0, in the shape of `user`."""
    ids = lazy(pl.DataFrame({"user": user}))
    return to_polars(ids.select(draw=pseudo_random(0, ["user"])))["draw"].to_numpy() % _N_FOLDS


def features(
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
    *,
    items: nw.LazyFrame,
    user_segments: nw.LazyFrame,
    item_neighbours_model: ItemNeighboursModel,
    segment_residual_model: SegmentResidualModel,
) -> pl.DataFrame:
    """Compute the features of each pair from the user's other ratings: user, item, one column per feature, no nulls.

    The features are: biases of item and user, the neighbours' term, the segments' residual, the user's mood (mean
    residual of the last ratings), the user's leaning towards genres and era of the item, and the number of ratings.

    Args:
        pairs: user, item.
        rated: table ratings; the users' other ratings.
        items: table items.
        user_segments: user, affinity.
        item_neighbours_model: gives biases and similarities of items.
        segment_residual_model: gives residuals of segments.
    """
    asked = to_polars(pairs, "user", "item").sort("user", "item")
    user, item = asked["user"].to_numpy(), asked["item"].to_numpy()
    parts = item_neighbours_model.parts(user, item, rated)
    history = _residuals(rated, item_neighbours_model)
    n_users = int(max(user.max(initial=-1), history["user"].to_numpy().max(initial=-1))) + 1
    log_ratings = np.log1p(np.bincount(history["user"].to_numpy(), minlength=n_users))[user]
    era = pl.col("year").floordiv(_YEARS_PER_ERA)
    table = to_polars(items, "item", "genres", "year").sort("item")
    return asked.with_columns(
        item_bias=parts["item"],
        user_bias=parts["user"],
        user_bias_times_log_ratings=parts["user"] * log_ratings,
        neighbours=parts["neighbours"],
        segments=segment_residual_model.parts(user, item, user_segments).astype(np.float64),
        mood=_mood(history, n_users)[user],
        genres=_leaning(history, table["genres"], user, item, n_users),
        era=_leaning(history, table.select(pl.concat_list(era)).to_series(), user, item, n_users),
        log_ratings=log_ratings,
    )


def _residuals(rated: nw.LazyFrame, model: ItemNeighboursModel) -> pl.DataFrame:
    """Return the residuals of the users' ratings after all biases, in order of time: user, item, residual."""
    rows = to_polars(rated, "user", "item", "rating", "timestamp", "batch", "row")
    rows = rows.sort("user", "timestamp", "batch", "row")
    above = rows["rating"].cast(pl.Float64).to_numpy() - model.global_mean - model.item_bias[rows["item"].to_numpy()]
    bias = pl.col("above").sum() / (pl.len() + model.user_shrinkage)
    return (
        rows.with_columns(above=above)
        .with_columns(residual=pl.col("above") - bias.over("user"))
        .select("user", "item", "residual")
    )


def _mood(history: pl.DataFrame, n_users: int) -> np.ndarray:
    """Return each user's mean residual, last ratings weighted higher, shrunk by one rating: shape (n_users,)."""
    back = pl.len().over("user") - 1 - pl.int_range(pl.len()).over("user")
    weighed = history.with_columns(weight=0.5 ** (back / _HALF_LIFE))
    user, weight = weighed["user"].to_numpy(), weighed["weight"].to_numpy()
    total = np.bincount(user, weight * weighed["residual"].to_numpy(), n_users)
    return total / (np.bincount(user, weight, n_users) + 1)


def _leaning(history: pl.DataFrame, kinds: pl.Series, user: np.ndarray, item: np.ndarray, n_users: int) -> np.ndarray:
    """Return the user's shrunk mean residual per kind, averaged over the kinds of the pair's item: shape (P,).

    Args:
        history: user, item, residual.
        kinds: list of kinds, such as genres, of each item of the catalogue, in order.
        user: shape (P,).
        item: shape (P,).
        n_users: number of users.
    """
    member = membership(kinds)
    shares = sparse.csr_array(sparse.diags_array(1 / np.maximum(member.sum(axis=1), 1)) @ member)
    cells = (history["user"].to_numpy(), history["item"].to_numpy())
    shape = (n_users, len(kinds))
    total = sparse.csr_array((history["residual"].to_numpy(), cells), shape=shape) @ shares
    count = sparse.csr_array((np.ones(len(history)), cells), shape=shape) @ shares
    weight = sparse.csr_array((1 / (count.data + _LEANING_SHRINKAGE), count.indices, count.indptr), shape=count.shape)
    mean = sparse.csr_array(total.multiply(weight))
    return np.asarray(shares[item].multiply(mean[user]).sum(axis=1)).ravel()
