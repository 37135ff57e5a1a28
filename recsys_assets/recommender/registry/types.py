"""Types of the registry: how a table is derived, how a model is fitted, and how it predicts in a task.

The models are listed in the module of their task, the derived tables in `derived`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import in_memory, same_engine
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.scale import EVERYTHING, Scale
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.tables import PREDICTIONS, RANKING_PREDICTIONS
from recsys_assets.recommender.ranking.rankings import Ranker, rank_pairs

# Settings by section: the result of `Settings.model_dump()`, or a part of it.
Parameters = Mapping[str, Mapping[str, Any]]
Task = Literal["time_cut", "top_n", "latest_rating", "next_item"]
_CUT = {"pairs": ("test_ratings",), "rated": ("train_ratings",), "trained": ("train_ratings",)}
_RESPONSES = {
    "pairs": ("train_responses", "test_responses"),
    "rated": ("train_histories", "test_histories"),
    "trained": ("train_histories",),
}
# Assets behind the parameters that every task has: rows to predict, ratings of their users, and ratings that models
# learn from. Several tables are concatenated.
_ROLES: Mapping[Task, Mapping[str, tuple[str, ...]]] = {
    "time_cut": _CUT,
    "top_n": _CUT,
    "latest_rating": _RESPONSES,
    "next_item": _RESPONSES,
}


@dataclass(frozen=True)
class Derived:
    """How a table between the training ratings and the models is made.

    Attributes:
        asset: name of the table.
        function: returns the table. It takes the inputs by position, `settings=` if there is a section, and
            `index=` if `takes_index`.
        inputs: names of the tables and models that the function takes.
        settings: name of the section of the settings that the function takes; empty for none.
        section: class of this section.
        fields: the fields of the section that the table depends on; empty for all.
        takes_index: whether the function takes the id map of users and items.
        fitted_on: the input that a model is fitted on, if the function fits one; see `data.scale`.
    """

    asset: str
    function: Callable[..., nw.LazyFrame | pl.DataFrame]
    inputs: tuple[str, ...]
    settings: str = ""
    section: type[Section] = Section
    fields: tuple[str, ...] = ()
    takes_index: bool = False
    fitted_on: str | None = None

    def parameters(self, parameters: Parameters) -> dict[str, dict[str, Any]]:
        """Return the parameters that the table depends on, by section; a section that is not given is empty."""
        if not self.settings:
            return {}
        of_section = parameters.get(self.settings, {})
        return {self.settings: {name: of_section[name] for name in self.fields or of_section}}

    def make(self, given: Mapping[str, Any], parameters: Parameters, *, index: Index | None = None) -> nw.LazyFrame:
        """Make the table, on the engine of its inputs.

        Args:
            given: the inputs by name.
            parameters: settings by section.
            index: id map of users and items, for a function that takes it.
        """
        named: dict[str, Any] = {"index": index} if self.takes_index else {}
        if self.settings:
            named["settings"] = self.section(**self.parameters(parameters)[self.settings])
        made = self.function(*(given[name] for name in self.inputs), **named)
        if isinstance(made, nw.LazyFrame):
            return made
        like = next(given[name] for name in self.inputs if isinstance(given[name], nw.LazyFrame))
        return same_engine(like, made)


@dataclass(frozen=True)
class Fit:
    """How a model asset is made.

    Attributes:
        asset: name of the model asset.
        function: returns the model. It takes the table, `index=`, `settings=` and the assets of `others` by name.
        model_type: class of the model, with `save` and `load`.
        table: asset with the training rows.
        settings: name of the section of the settings that the function takes.
        section: class of this section.
        description: description of the model in the UI.
        others: further tables and models that the function takes.
        fits_on_spark: whether the function also fits Spark frames in Spark. Other fits get their tables in the memory
            of this process unless `needs_all`; a `Derived` always works on the engine of its inputs.
        needs_all: whether the model is fitted on all rows of the table, because counts and means need one pass only.
            Other models are fitted on a sample of the users; see `data.scale`.
    """

    asset: str
    function: Callable[..., Any]
    model_type: type
    table: str
    settings: str
    section: type[Section]
    description: str
    others: tuple[str, ...] = ()
    fits_on_spark: bool = False
    needs_all: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tables and models that the function takes."""
        return (self.table, *self.others)

    @property
    def fitted_on(self) -> str | None:
        """Name of the table that may be a sample of the users; None if the fit needs all rows."""
        return None if self.needs_all else self.table

    def parameters(self, parameters: Parameters) -> dict[str, dict[str, Any]]:
        """Return the parameters that the model depends on, by section; a section that is not given is empty."""
        return {self.settings: dict(parameters.get(self.settings, {}))}

    def make(self, given: Mapping[str, Any], parameters: Parameters, *, index: Index) -> Any:
        """Fit the model.

        Args:
            given: the inputs by name.
            parameters: settings by section.
            index: id map of users and items.
        """
        others = {name: given[name] for name in self.others}
        settings = self.section(**parameters[self.settings])
        return self.function(given[self.table], index=index, settings=settings, **others)


def _nothing(_: Parameters) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Entry:
    """One model in one task.

    Attributes:
        name: name in the score tables.
        task: which rows it predicts; see `tables.PREDICTIONS`.
        function: takes the assets that its parameters name, models as themselves and tables as lazy frames. It returns
            the predictions table or, in a task that ranks, the `Ranker`. Every task has the parameters `pairs` (rows to
            predict), `rated` (earlier ratings of their users) and `trained` (ratings that models learn from). A string
            is the name of a model asset, whose `predict` takes the pairs.
        idle: returns the models without weight under given parameters. Their parameters of the function have a default.
        is_personal: whether the predictions for a user depend on the user's own ratings. In a task that ranks, the
            `Ranker` then has `contributions`.
        ranks_by_rating: whether a model of `top_n` ranks by predicted ratings. Events have no such model, and the quick
            choice does not try it.
    """

    name: str
    task: Task
    function: Callable[..., Any] | str
    idle: Callable[[Parameters], Collection[str]] = _nothing
    is_personal: bool = True
    ranks_by_rating: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the assets that `predict` takes."""
        return tuple(dict.fromkeys(asset for assets in self._inputs.values() for asset in assets))

    def needed(self, parameters: Parameters) -> tuple[str, ...]:
        """Return the names of the assets that the predictions depend on under these parameters."""
        idle = self.idle(parameters)
        return tuple(name for name in self.needs if name not in idle)

    @property
    def _parameters(self) -> tuple[str, ...]:
        return ("pairs", self.function) if isinstance(self.function, str) else (*signature(self.function).parameters,)

    @property
    def _required(self) -> tuple[str, ...]:
        if isinstance(self.function, str):
            return self._parameters
        return tuple(name for name, of in signature(self.function).parameters.items() if of.default is Parameter.empty)

    @property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        roles = _ROLES[self.task]
        to_rank = ("pairs", "rated") if PREDICTIONS[self.task] is RANKING_PREDICTIONS else ()
        return {name: roles.get(name, (name,)) for name in (*self._parameters, *to_rank)}

    def predict(
        self, assets: Mapping[str, Any], *, scale: Scale = EVERYTHING, n_users: int = 0
    ) -> pl.DataFrame | nw.LazyFrame:
        """Return the predictions table.

        Args:
            assets: the assets of `needed`, by name.
            scale: the samples. The ratings of the users are those that the models were fitted on.
            n_users: number of all users.

        Raises:
            ValueError: an asset is missing.
        """
        given = self._given(assets)
        if "rated" in given:
            given["rated"] = scale.to_fit(given["rated"], n_users=n_users)
        if "user_segments" in given:
            given["user_segments"] = given["user_segments"].join(
                given["pairs"].select("user").unique(), on="user", how="semi"
            )
        # The rows of the scored users are few and are read several times. Models count what they have learnt from.
        given = {
            name: in_memory(of) if isinstance(of, nw.LazyFrame) and name != "trained" else of
            for name, of in given.items()
        }
        found = self._call(given)
        return rank_pairs(found, given["pairs"], rated=given["rated"]) if isinstance(found, Ranker) else found

    def ranker(self, **assets: Any) -> Ranker:
        """Return the ranker, in a task that ranks.

        Args:
            assets: the assets that the function names; others are ignored.

        Raises:
            ValueError: an asset is missing.
        """
        return self._call(self._given(assets))

    def _call(self, given: Mapping[str, Any]) -> Any:
        if isinstance(self.function, str):
            return given[self.function].predict(given["pairs"])
        return self.function(**{name: given[name] for name in self._parameters if name in given})

    def _given(self, assets: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs that are available, by parameter.

        Raises:
            ValueError: an asset is missing whose parameter has no default.
        """
        inputs = self._inputs
        if missing := [asset for name in self._required for asset in inputs[name] if asset not in assets]:
            raise ValueError(
                f"the model {self.name} of the task {self.task} needs {', '.join(missing)}. "
                "`ModelFitter(tables, parameters).predictions(entry)` fits the models that an entry needs."
            )
        there = {name: of for name, of in inputs.items() if all(asset in assets for asset in of)}
        found = {name: [assets[asset] for asset in of] for name, of in there.items()}
        return {name: of[0] if len(of) == 1 else nw.concat(of) for name, of in found.items()}
