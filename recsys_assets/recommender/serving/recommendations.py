"""Serving model of the promoted configuration, and the table `recommendations` with reasons.

Every entry of the task `top_n` can be served. Scoring items belongs in `ranking`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.ranking.rankings import Limits, Ranker, top_n, users_per_block
from recsys_assets.recommender.ranking.reasons import reasons
from recsys_assets.recommender.registry import FITS
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.serving.audience import Audience
from recsys_assets.recommender.serving.new_items import NewItems

_AUDIENCE = "audience"
_MADE_WITH = "made_with.json"
# Artifacts of versions before 0.5 do not record their configuration.
UNKNOWN = ""


@dataclass(frozen=True)
class MadeWith:
    """What a served artifact was made with.

    Attributes:
        configuration: name of the configuration.
        blocked: ids of the items that were blocked; None for models, and for lists of earlier versions.
    """

    configuration: str
    blocked: frozenset[str] | None = None

    def save(self, folder: Path) -> None:
        """Write made_with.json."""
        blocked = {} if self.blocked is None else {"blocked": sorted(self.blocked)}
        (folder / _MADE_WITH).write_text(json.dumps({"configuration": self.configuration, **blocked}))

    @classmethod
    def load(cls, folder: Path) -> "MadeWith":
        """Read what `save` wrote."""
        path = folder / _MADE_WITH
        content = json.loads(path.read_text()) if path.exists() else {"configuration": UNKNOWN}
        return cls(content["configuration"], frozenset(content["blocked"]) if "blocked" in content else None)


@dataclass(frozen=True)
class ServingModel:
    """The models behind one entry of the task `top_n`, fitted on all ratings.

    Attributes:
        name: name of the entry.
        models: fitted models, by the name of the asset that is fitted in the same way on the training ratings.
        index: fingerprint of the id maps at the fit.
        audience: users and items at the fit; None in models made before version 0.5.
        configuration: name of the configuration.
    """

    name: str
    models: Mapping[str, Any]
    index: str
    audience: Audience | None = None
    configuration: str = UNKNOWN

    def ranker(self, ratings: nw.LazyFrame, tables: Mapping[str, nw.LazyFrame]) -> Ranker:
        """The ranker that scores items for every user.

        Args:
            ratings: table ratings; the ratings that the models were fitted on.
            tables: users, items, user_features, user_clusters, by name.
        """
        return entry("top_n", self.name).ranker(**self.models, **tables, train_ratings=ratings)

    def save(self, folder: Path) -> None:
        """Writes model.json, and a subfolder for each model and for the audience."""
        for name, model in self.models.items():
            (folder / name).mkdir()
            model.save(folder / name)
        if self.audience is not None:
            (folder / _AUDIENCE).mkdir()
            self.audience.save(folder / _AUDIENCE)
        facts = {"name": self.name, "models": sorted(self.models), "index": self.index}
        (folder / "model.json").write_text(json.dumps(facts))
        MadeWith(self.configuration).save(folder)

    @classmethod
    def load(cls, folder: Path) -> "ServingModel":
        """Read what `save` wrote."""
        facts = json.loads((folder / "model.json").read_text())
        types: dict[str, Any] = {fit.asset: fit.model_type for fit in FITS}
        models = {name: types[name].load(folder / name) for name in facts["models"]}
        audience = Audience.load(folder / _AUDIENCE) if (folder / _AUDIENCE).exists() else None
        return cls(facts["name"], models, facts["index"], audience, MadeWith.load(folder).configuration)


def fit(name: str, fitter: ModelFitter) -> ServingModel:
    """Fits the models of an entry of the task `top_n`.

    Args:
        name: name of the entry.
        fitter: model fitter with all ratings as `train_ratings`.

    Raises:
        ValueError: there is no such entry.
    """
    return ServingModel(name, fitter.models(entry("top_n", name)), fitter.index.fingerprint)


@dataclass(frozen=True)
class Lists:
    """Makes the rows of the table `recommendations` for a block of users; see `data.blocks`.

    Attributes:
        ranker: the served model.
        items: item, item_id, title, sorted by item.
        n: length of a list.
        allowed: which items may be shown, shape (n_items,).
        excludes_all: whether all rated items are left out; otherwise those whose row has `is_excluded`.
        limits: limits per value within a list.
        new: new items.
        explore: how many places of a list new items may take.
    """

    ranker: Ranker
    items: pl.DataFrame
    n: int
    allowed: np.ndarray
    excludes_all: bool
    limits: Limits | None = None
    new: NewItems | None = None
    explore: int = 0

    def __call__(self, users: pl.DataFrame, rows: nw.LazyFrame) -> pl.DataFrame:
        """Return the lists of some users, with the further column is_new: whether the place is one of a new item.

        Args:
            users: user, user_id.
            rows: user, item, rating, is_excluded; all ratings of these users.
        """
        numbers = users["user"].to_numpy()
        best = top_n(
            self.ranker,
            rows,
            numbers,
            n=self.n,
            allowed=self.allowed,
            excluded=None if self.excludes_all else rows.filter("is_excluded"),
            limits=self.limits,
        )
        because = reasons(best, rows, self.ranker)
        if self.new is None:
            best = best.with_columns(is_new=pl.lit(value=False))
        else:
            best = self.new.placed(
                best, rows, numbers, n=self.n, places=self.explore, allowed=self.allowed, limits=self.limits
            )
            because = pl.concat([because, reasons(best.filter("is_new"), rows, self.new.ranker)])
        return recommendations(best, because, lazy(users), lazy(self.items))

    @property
    def users_per_block(self) -> int:
        """Number of users whose scores of all items take 16 MB."""
        return users_per_block(len(self.items))


def recommendations(
    best: pl.DataFrame, because: pl.DataFrame, users: nw.LazyFrame, items: nw.LazyFrame
) -> pl.DataFrame:
    """The table `recommendations`, with is_new: lists and reasons with original ids and titles.

    Args:
        best: columns user, rank, item, score, is_new; see `Lists`.
        because: columns user, item, place, because; output of `reasons.reasons`.
        users: table users.
        items: table items.
    """
    ids = to_polars(users, "user", "user_id")
    titles = to_polars(items, "item", "item_id", "title")
    named = titles.select(because="item", told=pl.coalesce("title", "item_id"))
    told = because.join(named, on="because").sort("user", "item", "place").group_by("user", "item").agg("told")
    shown = best.join(ids, on="user").join(titles, on="item").join(told, on=["user", "item"], how="left")
    nothing = pl.lit([], pl.List(pl.String))
    return shown.select(
        "user_id", "rank", "item_id", "title", "score", "is_new", because=pl.col("told").fill_null(nothing)
    )
