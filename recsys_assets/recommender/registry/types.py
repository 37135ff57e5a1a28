"""What an entry of the registry is: how a model is fitted, what is predicted from it, and on which rows.

The models themselves are in the module of their task.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import narwhals as nw
import polars as pl

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
        promoted: whether its settings are those of the promoted configuration instead of the present ones.
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
    promoted: bool = False


@dataclass(frozen=True)
class Entry:
    """One model in one task.

    Attributes:
        name: as in the score tables.
        task: which rows it predicts; see `tables.PREDICTIONS`.
        function: from the assets its parameters name to the predictions table; models come as themselves, tables as
            lazy frames. Parameters that every task has: `pairs`, the rows to predict; `rated`, what their users have
            rated before; `trained`, the ratings that models learn from. Or the name of a model asset, whose own
            `predict` takes the pairs.
    """

    name: str
    task: Task
    function: Callable[..., pl.DataFrame | nw.LazyFrame] | str

    @property
    def needs(self) -> tuple[str, ...]:
        """The assets `predict` takes."""
        return tuple(dict.fromkeys(asset for assets in self._inputs.values() for asset in assets))

    @property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        roles = _ROLES[self.task]
        if isinstance(self.function, str):
            return {"pairs": roles["pairs"], self.function: (self.function,)}
        return {name: roles.get(name, (name,)) for name in inspect.signature(self.function).parameters}

    def predict(self, **assets: Any) -> pl.DataFrame | nw.LazyFrame:
        """The predictions table from the assets that it needs."""
        found = {name: [assets[asset] for asset in inputs] for name, inputs in self._inputs.items()}
        given = {name: of[0] if len(of) == 1 else nw.concat(of) for name, of in found.items()}
        if isinstance(self.function, str):
            return given[self.function].predict(given["pairs"])
        return self.function(**given)
