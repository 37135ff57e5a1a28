"""What the registry lists: tables that follow from others, how a model is fitted, and what is predicted from it.

The models themselves are in the module of their task, the tables in `derived`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import same_engine
from recsys_assets.recommender.data.tables import PREDICTIONS, RANKING_PREDICTIONS
from recsys_assets.recommender.ranking.rankings import Ranker, rank_pairs

# By section: what `Settings.model_dump()` holds, or a part of it.
Parameters = Mapping[str, Mapping[str, Any]]
Task = Literal["time_cut", "top_n", "latest_rating", "next_movie"]
_CUT = {"pairs": ("test_ratings",), "rated": ("train_ratings",), "trained": ("train_ratings",)}
_RESPONSES = {
    "pairs": ("train_responses", "test_responses"),
    "rated": ("train_histories", "test_histories"),
    "trained": ("train_histories",),
}
# What stands behind the parameters that every task has: the rows to predict, what their users have rated before, and
# the ratings that models learn from. Several tables are taken as one.
_ROLES: Mapping[Task, Mapping[str, tuple[str, ...]]] = {
    "time_cut": _CUT,
    "top_n": _CUT,
    "latest_rating": _RESPONSES,
    "next_movie": _RESPONSES,
}


@dataclass(frozen=True)
class Derived:
    """How a table is made that models learn from, and that itself follows from the training ratings.

    Attributes:
        asset: name of the table.
        function: called with the inputs in their order and the settings by name, and with `spark=`, `scratch=` and
            `index=` if `needs_spark`; returns the table.
        inputs: the tables and models that it takes.
        settings: by section the fields that are the function's parameters; all fields for None.
        needs_spark: whether the function needs a Spark session.
    """

    asset: str
    function: Callable[..., nw.LazyFrame | pl.DataFrame]
    inputs: tuple[str, ...]
    settings: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    needs_spark: bool = False

    def parameters(self, parameters: Parameters) -> dict[str, dict[str, Any]]:
        """The part of the parameters that the table depends on, by section; a section that is not given is empty."""
        return {
            section: {
                name: value for name, value in parameters.get(section, {}).items() if fields is None or name in fields
            }
            for section, fields in self.settings.items()
        }

    def make(self, given: Mapping[str, Any], parameters: Parameters, **outside: Any) -> nw.LazyFrame:
        """The table, on the engine of its inputs.

        Args:
            given: the inputs by name.
            parameters: by section.
            outside: `spark`, `scratch` and `index`, for a function that needs Spark.
        """
        knobs = {name: value for of in self.parameters(parameters).values() for name, value in of.items()}
        made = self.function(*(given[name] for name in self.inputs), **knobs, **outside)
        if isinstance(made, nw.LazyFrame):
            return made
        like = next(given[name] for name in self.inputs if isinstance(given[name], nw.LazyFrame))
        return same_engine(like, made)


@dataclass(frozen=True)
class Fit:
    """How a model asset is made.

    Attributes:
        asset: name of the model asset.
        group: the stage it belongs to.
        function: called with the table, `index=`, the assets of `others` by name and the section's settings, and with
            `spark=` and `scratch=` if `needs_spark`; returns the model.
        model_type: the type of the model, which saves and loads itself.
        table: the asset with the training rows.
        settings: section of the settings whose fields are the function's parameters.
        description: what the model is, for the UI.
        others: further tables and models that the function takes.
        needs_spark: whether the function needs a Spark session.
    """

    asset: str
    group: str
    function: Callable[..., Any]
    model_type: type
    table: str
    settings: str
    description: str
    others: tuple[str, ...] = ()
    needs_spark: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tables and models that it takes."""
        return (self.table, *self.others)

    def parameters(self, parameters: Parameters) -> dict[str, dict[str, Any]]:
        """The part of the parameters that the model depends on, by section; a section that is not given is empty."""
        return {self.settings: dict(parameters.get(self.settings, {}))}


def _nothing(_: Parameters) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Entry:
    """One model in one task.

    Attributes:
        name: as in the score tables.
        task: which rows it predicts; see `tables.PREDICTIONS`.
        function: from the assets its parameters name to the predictions table or, in a task that ranks, to the
            `Ranker`; models come as themselves, tables as lazy frames. Parameters that every task has: `pairs`, the
            rows to predict; `rated`, what their users have rated before; `trained`, the ratings that models learn from.
            Or the name of a model asset, whose own `predict` takes the pairs.
        idle: from the parameters by section to the models that have no weight with them. Their parameters of the
            function have a default.
    """

    name: str
    task: Task
    function: Callable[..., Any] | str
    idle: Callable[[Parameters], Collection[str]] = _nothing

    @property
    def needs(self) -> tuple[str, ...]:
        """The assets `predict` takes."""
        return tuple(dict.fromkeys(asset for assets in self._inputs.values() for asset in assets))

    def needed(self, parameters: Parameters) -> tuple[str, ...]:
        """Those that what it predicts depends on, with these parameters by section."""
        idle = self.idle(parameters)
        return tuple(name for name in self.needs if name not in idle)

    @property
    def _parameters(self) -> tuple[str, ...]:
        return ("pairs", self.function) if isinstance(self.function, str) else (*signature(self.function).parameters,)

    @property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        roles = _ROLES[self.task]
        to_rank = ("pairs", "rated") if PREDICTIONS[self.task] is RANKING_PREDICTIONS else ()
        return {name: roles.get(name, (name,)) for name in (*self._parameters, *to_rank)}

    def predict(self, **assets: Any) -> pl.DataFrame | nw.LazyFrame:
        """The predictions table from the assets that it needs."""
        given = self._given(assets)
        found = self._call(given)
        return rank_pairs(found, given["pairs"], rated=given["rated"]) if isinstance(found, Ranker) else found

    def ranker(self, **assets: Any) -> Ranker:
        """In a task that ranks, what the function gives of the assets that it names; others are ignored."""
        return self._call(self._given(assets))

    def _call(self, given: Mapping[str, Any]) -> Any:
        if isinstance(self.function, str):
            return given[self.function].predict(given["pairs"])
        return self.function(**{name: given[name] for name in self._parameters if name in given})

    def _given(self, assets: Mapping[str, Any]) -> dict[str, Any]:
        """What there is of the inputs, by parameter."""
        there = {name: of for name, of in self._inputs.items() if all(asset in assets for asset in of)}
        found = {name: [assets[asset] for asset in of] for name, of in there.items()}
        return {name: of[0] if len(of) == 1 else nw.concat(of) for name, of in found.items()}
