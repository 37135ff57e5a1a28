"""Models and predictions: one model asset per `Fit` and one predictions asset per `Entry` of the registry.

A new model is declared in `recommender.registry` and needs no change here.
"""

from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.orchestration.assets.common import MODEL_KINDS, TABLE_KINDS, SettingsParam, pipeline_asset, plotted
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.registry import FITS, Entry, Fit, Task
from recsys_assets.recommender.registry.fitting import sampled
from recsys_assets.recommender.registry.kinds import entries_of, fits_of
from recsys_assets.recommender.registry.learnt import learnt
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.serving.recommendations import ServingModel
from recsys_assets.recommender.tuning import quick

# What the predictions of each task are.
_PREDICTED: dict[Task, str] = {
    "time_cut": "The predicted rating of every test rating after the cut in time",
    "top_n": "The rank of every test item after the cut in time among all items that its user has not rated",
    "latest_rating": "The predicted latest rating of every user, from the ratings before it",
    "next_item": "The rank of each user's latest item among all items that the user had not rated before",
}
SERVING_MODEL = "serving_model"
CHOICE = "quick_choice"
MODEL_TYPES = {**{fit.asset: fit.model_type for fit in FITS}, SERVING_MODEL: ServingModel}


def _input(name: str) -> dg.AssetIn:
    return dg.AssetIn(name, dagster_type=MODEL_TYPES.get(name, nw.LazyFrame))


def model_asset(fit: Fit) -> dg.AssetsDefinition:
    """The asset that fits a model and stores it, with the settings of the quick choice if they cover this model."""

    def fitted(context: dg.AssetExecutionContext, settings: SettingsParam, **tables: Any) -> Any:
        index = Index.of(tables["users"], tables["items"])
        parameters = tables.get(CHOICE, quick.Choice()).applied(settings.model_dump())
        context.add_output_metadata({"settings": dict(parameters[fit.settings]), "index": index.fingerprint})
        given = sampled(fit, tables, Scale.of(settings.model_dump()), n_users=index.n_users)
        for name in {*fit.others} & MODEL_TYPES.keys():
            index.require(given[name].index, name)
        model = fit.make(given, parameters, index=index)
        context.add_output_metadata({name: plotted(number) for name, number in learnt(model).items()})
        return model

    return pipeline_asset(
        key=fit.asset,
        group="models",
        kinds=MODEL_KINDS | {"python"},
        settings=(fit.settings,) if fit.needs_all else (fit.settings, "scale"),
        code=SOURCES.code_of_fit(fit),
        description=fit.description,
        ins={name: _input(name) for name in {"users", "items", fit.table, *fit.others}} | _choice(fit),
        dagster_type=fit.model_type,
    )(fitted)


def _choice(fit: Fit) -> dict[str, dg.AssetIn]:
    return {CHOICE: dg.AssetIn(CHOICE, dagster_type=quick.Choice)} if fit.settings in quick.SECTIONS else {}


def predictions_key(entry: Entry) -> dg.AssetKey:
    """`predictions/<task>/<model>`."""
    return dg.AssetKey(["predictions", entry.task, entry.name])


def input_name(entry: Entry) -> str:
    """Name of the asset input that takes an entry's predictions."""
    return f"{entry.task}__{entry.name}"


def predictions_asset(entry: Entry) -> dg.AssetsDefinition:
    """The asset that stores an entry's predictions for the test rows of its task."""
    models = [name for name in entry.needs if name in MODEL_TYPES]

    def predicted(settings: SettingsParam, **inputs: Any) -> nw.LazyFrame:
        index = Index.of(inputs["users"], inputs["items"])
        for name in models:
            index.require(inputs[name].index, name)
        needed = {name: inputs[name] for name in entry.needs}
        rows = entry.predict(needed, scale=Scale.of(settings.model_dump()), n_users=index.n_users)
        return lazy(rows) if isinstance(rows, pl.DataFrame) else rows

    return pipeline_asset(
        key=predictions_key(entry),
        group="predictions",
        kinds=TABLE_KINDS,
        settings=("scale",),
        code=SOURCES.code_of_predictions(entry),
        description=f"{_PREDICTED[entry.task]}, by the model `{entry.name}` (task `{entry.task}`).\n\n"
        "Each evaluation adds an observation: the main score beside baseline, random and best possible score.",
        ins={name: _input(name) for name in {"users", "items", *entry.needs}},
        dagster_type=nw.LazyFrame,
    )(predicted)


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The models and predictions that exist for a kind of data."""
    return [*map(model_asset, fits_of(kind)), *map(predictions_asset, entries_of(kind))]
