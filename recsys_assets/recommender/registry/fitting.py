"""Fits the models of the registry outside the asset graph: on another cut in time, or with another configuration.

`ModelFitter` fits the registry's models on demand from one training set, each once. `evaluation/backtest`, `tuning` and
`promotion` compare the results.
"""

from collections.abc import Mapping
from typing import Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import in_memory, lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry import DERIVED, ENTRIES, FITS, Derived, Entry, Fit, Parameters, Task

_STEPS: dict[str, Fit | Derived] = {fit.asset: fit for fit in FITS} | {table.asset: table for table in DERIVED}
# The default of every setting that a model or a derived table depends on, by section.
DEFAULTS: Parameters = {step.settings: step.section().model_dump() for step in _STEPS.values() if step.settings}


def entry(task: Task, name: str) -> Entry:
    """Return the registry's entry of a task by name.

    Raises:
        ValueError: there is no such entry; the message lists the names of the task.
    """
    found = {known.name: known for known in ENTRIES if known.task == task}
    if name not in found:
        raise ValueError(f"no model {name!r} in the task {task}; there are: {', '.join(found)}")
    return found[name]


def parameters_of(model: Entry, parameters: Parameters) -> dict[str, dict[str, Any]]:
    """Return the parameters that the model's predictions depend on, by section.

    Args:
        model: entry of the registry.
        parameters: all settings by section.
    """
    steps = {step.asset: step for name in model.needed(parameters) for step in steps_behind(name)}
    used: dict[str, dict[str, Any]] = {}
    for step in steps.values():
        for section, values in step.parameters(parameters).items():
            used.setdefault(section, {}).update(values)
    return {section: used[section] for section in sorted(used)}


def steps_behind(name: str) -> list[Fit | Derived]:
    """Return the fits and derived tables behind a model or table, each once.

    Args:
        name: asset of the model or table. A table that is given, such as `ratings`, has no step.
    """
    found: dict[str, Fit | Derived] = {}
    pending = [name]
    while pending:
        step = _STEPS.get(pending.pop())
        if step and step.asset not in found:
            found[step.asset] = step
            pending += step.inputs
    return list(found.values())


def sampled(step: Fit | Derived, given: Mapping[str, Any], scale: Scale, *, n_users: int) -> dict[str, Any]:
    """Return the inputs of a fit or derived table, with a sample of the users in the table that a model is fitted on.

    The tables are in the memory of this process unless the step works on the engine of its tables.

    Args:
        step: the fit or derived table.
        given: its inputs, by name.
        scale: the samples.
        n_users: number of all users.
    """
    table = step.fitted_on
    found = {name: scale.to_fit(of, n_users=n_users) if name == table else of for name, of in given.items()}
    if isinstance(step, Derived) or step.needs_all or step.fits_on_spark:
        return found
    return {name: in_memory(of) if isinstance(of, nw.LazyFrame) else of for name, of in found.items()}


class ModelFitter:
    """Fits models on one training set, each once and only on demand.

    Args:
        tables: users, items, user_features, and the tables of a split: train_ratings and test_ratings, or the tables
            of case study B.
        parameters: settings by section; see `parameters_of`. With the section `scale`, large tables are sampled.
        index: id map of the users and items; by default it is made from the tables.

    Attributes:
        index: id map of the users and items.
        parameters: settings by section.

    Examples:
        >>> ratings = pl.DataFrame({"user": [0, 0, 1], "item": [0, 1, 1], "rating": [5.0, 2.0, 4.0]})
        >>> tables = {
        ...     "users": pl.DataFrame({"user": [0, 1], "user_id": ["ann", "bob"]}),
        ...     "items": pl.DataFrame({"item": [0, 1], "item_id": ["10", "20"]}),
        ...     "train_ratings": ratings,
        ...     "test_ratings": pl.DataFrame({"user": [1], "item": [0]}),
        ... }
        >>> fitter = ModelFitter(
        ...     {name: lazy(table) for name, table in tables.items()},
        ...     {"item_mean": {"shrinkage": 0.0}},
        ... )
        >>> fitter.predictions(entry("time_cut", "item_mean")).collect().to_native().rows()
        [(1, 0, 5.0)]
    """

    def __init__(
        self,
        tables: Mapping[str, nw.LazyFrame],
        parameters: Parameters,
        *,
        index: Index | None = None,
    ) -> None:
        self._tables = tables
        self._made: dict[str, Any] = dict(tables)
        self.parameters = parameters
        self._scale = Scale.of(parameters)
        self.index = index or Index.of(tables["users"], tables["items"])

    def with_parameters(self, parameters: Parameters) -> "ModelFitter":
        """Return a fitter of the same training set with other parameters.

        It keeps every model that depends on no changed parameter.
        """
        other = ModelFitter(self._tables, parameters, index=self.index)
        other._made |= {
            name: made
            for name, made in self._made.items()
            if all(step.parameters(parameters) == step.parameters(self.parameters) for step in steps_behind(name))
        }
        return other

    def predictions(self, model: Entry) -> nw.LazyFrame:
        """Return the model's predictions of the test rows."""
        rows = model.predict(self._needed(model), scale=self._scale, n_users=self.index.n_users)
        return lazy(rows) if isinstance(rows, pl.DataFrame) else rows

    def ranker(self, model: Entry) -> Ranker:
        """Return the ranker of a model in a task that ranks."""
        return model.ranker(**self._needed(model))

    def _needed(self, model: Entry) -> dict[str, Any]:
        return {name: self._get(name) for name in model.needed(self.parameters)}

    def models(self, model: Entry) -> dict[str, Any]:
        """Return the fitted models that the entry predicts from, by the name of their asset."""
        return {name: self._get(name) for name in model.needed(self.parameters) if isinstance(_STEPS.get(name), Fit)}

    def _get(self, name: str) -> Any:
        if name not in self._made:
            if name not in _STEPS:
                raise KeyError(f"{name} is neither given nor made from the training ratings")
            self._made[name] = self._make(_STEPS[name])
        return self._made[name]

    def _make(self, step: Fit | Derived) -> Any:
        given = sampled(step, {name: self._get(name) for name in step.inputs}, self._scale, n_users=self.index.n_users)
        return step.make(given, self.parameters, index=self.index)
