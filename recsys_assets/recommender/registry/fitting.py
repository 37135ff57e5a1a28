"""Models fitted again outside the asset graph: on another cut in time, or with another configuration.

The same fits and predictions as in the registry, made on demand from one training set. What they are compared with
belongs to `backtest` and `promotion`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import lazy, same_engine
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.models import als, cold_start, segments
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry import ENTRIES, FITS, Entry, Fit, Parameters, Task

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_FITS = {fit.asset: fit for fit in FITS}
# The sections that go into the tables that are made from the training ratings.
_SECTIONS_OF_TABLES = {
    "user_clusters": ("clusters",),
    "cluster_ratings": ("clusters", "als"),
    "adjusted_train_ratings": ("clusters", "als", "cold_start"),
    "user_segments": ("segments",),
    "segment_ratings": ("segments",),
}
# Knobs of these sections that change how long something takes or what is drawn, never a model.
_WITHOUT_EFFECT = {"clusters": ("k_max", "silhouette_sample", "n_init")}


def entry(task: Task, name: str) -> Entry:
    """The registry's entry of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    found = {known.name: known for known in ENTRIES if known.task == task}
    if name not in found:
        raise ValueError(f"no model {name!r} in the task {task}; there are: {', '.join(found)}")
    return found[name]


def parameters_of(model: Entry, parameters: Parameters) -> dict[str, dict[str, Any]]:
    """The part of the parameters that the model's predictions depend on."""
    sections = {section for name in model.needed(parameters) for section in _sections_of(name)}
    return {
        section: {
            knob: value for knob, value in parameters[section].items() if knob not in _WITHOUT_EFFECT.get(section, ())
        }
        for section in sorted(sections)
    }


def fits_behind(name: str) -> set[Fit]:
    """The fits of a model and of all models that it is made from."""
    fit = _FITS.get(name)
    return {fit}.union(*map(fits_behind, (fit.table, *fit.others))) if fit else set()


def _sections_of(name: str) -> set[str]:
    """The sections behind a model or a table, those of what it is made from included."""
    sections = set(_SECTIONS_OF_TABLES.get(name, ()))
    if fit := _FITS.get(name):
        sections |= {fit.settings}.union(*map(_sections_of, (fit.table, *fit.others)))
    return sections


class Refit:
    """Everything that is fitted on one training set, each part once and only when it is asked for.

    Args:
        tables: users, movies, user_features, and the tables of a split: train_ratings and test_ratings, or those of
            case study B.
        parameters: by section; see `parameters_of`.
        spark: gives the Spark session; called when a model first needs one.
        scratch: folder for temporary files that the driver and the executors can reach.

    Attributes:
        index: of the users and movies.
    """

    def __init__(
        self,
        tables: Mapping[str, nw.LazyFrame],
        parameters: Parameters,
        *,
        spark: "Callable[[], SparkSession]",
        scratch: Path,
    ) -> None:
        self._tables = tables
        self._made: dict[str, Any] = dict(tables)
        self._parameters = parameters
        self._spark, self._scratch = spark, scratch
        self.index = Index.of(tables["users"], tables["movies"])

    def with_parameters(self, parameters: Parameters) -> "Refit":
        """The same training set with other parameters. What depends on none that differ is not fitted again."""
        other = Refit(self._tables, parameters, spark=self._spark, scratch=self._scratch)
        alike = {section for section in parameters if parameters[section] == self._parameters.get(section)}
        other._made |= {name: made for name, made in self._made.items() if _sections_of(name) <= alike}
        return other

    def predictions(self, model: Entry) -> nw.LazyFrame:
        """What the model predicts for the test rows."""
        rows = model.predict(**self._needed(model))
        return lazy(rows) if isinstance(rows, pl.DataFrame) else rows

    def ranker(self, model: Entry) -> Ranker:
        """What scores all movies, of a model that ranks."""
        return model.ranker(**self._needed(model))

    def _needed(self, model: Entry) -> dict[str, Any]:
        return {name: self._get(name) for name in model.needed(self._parameters)}

    def models(self, model: Entry) -> dict[str, Any]:
        """The fitted models that the entry predicts from, by the name of their asset."""
        return {name: self._get(name) for name in model.needed(self._parameters) if name in _FITS}

    def _get(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._fit(_FITS[name]) if name in _FITS else self._table(name)
        return self._made[name]

    def _fit(self, fit: Fit) -> Any:
        outside = {"spark": self._spark(), "scratch": self._scratch} if fit.needs_spark else {}
        others = {name: self._get(name) for name in fit.others}
        knobs = self._parameters[fit.settings]
        return fit.function(self._get(fit.table), index=self.index, **others, **outside, **knobs)

    def _table(self, name: str) -> nw.LazyFrame:
        match name:
            case "user_clusters":
                knobs = self._parameters["clusters"]
                chosen = {name: knobs[name] for name in ("k", "weigh", "seed") if name in knobs}
                assigned = clusters.assign(self._get("user_features"), **chosen)
                return same_engine(self._get("train_ratings"), assigned)
            case "cluster_ratings":
                model = als.fit(
                    cold_start.ratings_of_clusters(self._get("train_ratings"), self._get("user_clusters")),
                    spark=self._spark(),
                    scratch=self._scratch,
                    index=self.index,
                    user_column="cluster",
                    **self._parameters["als"],
                )
                return same_engine(self._get("train_ratings"), cold_start.predict_clusters(model))
            case "adjusted_train_ratings":
                inputs = ("train_ratings", "users", "user_clusters", "cluster_ratings")
                return cold_start.fill_cold_users(*map(self._get, inputs), **self._parameters["cold_start"])
            case "user_segments":
                histories = self._get("train_histories")
                assigned = segments.assign(self._get("segment_model"), histories, self._get("test_histories"))
                return same_engine(histories, assigned)
            case "segment_ratings":
                return segments.ratings_by_segment(self._get("train_histories"), self._get("user_segments"))
        raise KeyError(f"{name} is neither given nor made from the training ratings")
