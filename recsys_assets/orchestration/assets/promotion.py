"""Promotion: the asset that decides which configuration `serving_model` uses.

The gate is in `recommender.promotion`, the record of decisions in `home.promotions`.
"""

from dataclasses import asdict
from typing import Any

import dagster as dg
import narwhals as nw
from pydantic import Field

from recsys_assets.home.promotions import Promotion, PromotionError, Promotions
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.orchestration.assets.common import SettingsParam, pipeline_asset, plotted
from recsys_assets.orchestration.assets.models import CHOICE, predictions_key
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.promotion.gate import GATE_BASELINE, Comparison, Configuration, Decision, Predict, gate
from recsys_assets.recommender.registry import Entry, Parameters
from recsys_assets.recommender.registry.fitting import ModelFitter
from recsys_assets.recommender.registry.kinds import entries_of
from recsys_assets.recommender.tuning.quick import MODEL, Choice
from recsys_assets.recommender.tuning.searches import value_of

_TABLES = ("users", "items", "user_features", "train_ratings", "test_ratings")
_VERSIONED = ("ratings", "train_ratings", "test_ratings")


class PromotionConfig(dg.Config):
    """Run config of `promoted_configuration`: a rollback by a person instead of a decision by the gate."""

    rollback_to: int | None = Field(
        default=None,
        description="Number of the promotion to go back to, whatever the scores; by default the gate decides.",
    )


def _asset(kind: DataKind) -> dg.AssetsDefinition:
    # In a run that scores all models, their predictions come first, so that they need not be made twice.
    predictions = [predictions_key(entry) for entry in entries_of(kind) if entry.task == "top_n"]

    @pipeline_asset(
        group="serving",
        kinds={"json"},
        ins={
            **{name: dg.AssetIn(name, dagster_type=nw.LazyFrame) for name in _TABLES},
            CHOICE: dg.AssetIn(CHOICE, dagster_type=Choice),
        },
        deps=["ratings", *predictions],
        dagster_type=Configuration,
        settings=("evaluation",),
        fits_models=True,
    )
    def promoted_configuration(
        context: dg.AssetExecutionContext,
        config: PromotionConfig,
        settings: SettingsParam,
        home: HomeResource,
        quick_choice: Choice,
        **tables: nw.LazyFrame,
    ) -> Configuration:
        """The models and settings in use: the newly trained configuration if it passes the gate, else the previous one.

        The gate compares lists by a paired bootstrap over users on the same test rows. The lists of the new
        configuration must be better than popularity, not worse than the configuration in use, and not below the best
        configuration ever promoted. The configuration in use and the best one are fitted again on the present training
        rows. Rating models are not compared, because users see lists only.

        A run that makes the predictions of all models compares these. A run without them, such as one of the job
        `refresh_served`, fits the models that it compares.

        Every decision is recorded with its reason. `recsys-assets promotions` lists the decisions, and
        `recsys-assets rollback` goes back to an earlier promotion.
        """
        record = Promotions(home.folders.promotions)
        in_use = record.current()
        if config.rollback_to is not None:
            candidate = _going_back(record, config.rollback_to, home)
            decision = Decision("rolled back", f"A person went back to promotion {config.rollback_to}.")
            contests: list[Comparison] = []
        else:
            evaluation, parameters = settings.evaluation, quick_choice.applied(settings.model_dump())
            candidate = Configuration.of(
                parameters,
                rating_model=None if kind.is_events else evaluation.selected_rating_model,
                ranking_model=value_of(parameters, MODEL),
            )
            fitter = ModelFitter(
                tables,
                {**parameters, "scale": settings.scale.model_dump()},
            )
            decision, contests = gate(
                candidate,
                in_use.configuration if in_use else None,
                tables["train_ratings"],
                tables["test_ratings"],
                predict=_predictor(context, candidate, fitter, parameters, AssetStore(home.folders.assets)),
                best=record.best(),
                withdrawn=record.withdrawn(),
                seed=evaluation.seed,
                n_resamples=evaluation.n_resamples,
            )
        if decision.verdict == "rolled back" and in_use and in_use.configuration == candidate:
            # An interrupted run has already recorded this rollback. This run makes the models and lists from it.
            added = in_use
        else:
            added = record.add(
                candidate,
                decision,
                contests=contests,
                data_versions=_data_versions(context.instance),
                run_id=context.run.run_id,
            )
        context.log.info(f"Configuration {candidate.name} {added.verdict}. {added.reason}")
        now = record.current() or added
        context.add_output_metadata(_metadata(added, now))
        return now.configuration

    return promoted_configuration


def _predictor(
    context: dg.AssetExecutionContext,
    candidate: Configuration,
    fitter: ModelFitter,
    parameters: Parameters,
    store: AssetStore,
) -> Predict:
    """Returns the function that reads the predictions that this run has made, and makes all others."""

    def predict(configuration: Configuration, model: Entry) -> nw.LazyFrame:
        key = predictions_key(model)
        if configuration == candidate:
            made = context.instance.get_latest_materialization_event(key)
            if made and made.run_id == context.run.run_id:
                return scan(store.current(key.path))
        own = {**parameters, **configuration.ranking.all_settings, "scale": fitter.parameters["scale"]}
        return fitter.with_parameters(own).predictions(model)

    return predict


def _going_back(record: Promotions, number: int, home: HomeResource) -> Configuration:
    """The configuration of an earlier promotion.

    Raises:
        PromotionError: there is no promotion of this number, or its model cannot be fitted any more.
    """
    broken_off = record.broken_off(AssetStore(home.folders.assets))
    chosen = record.earlier(number, broken_off=broken_off).configuration
    if not chosen.ranking.can_be_fitted("top_n"):
        raise PromotionError(
            f"Promotion {number} is of another version of this package, whose {chosen.ranking.model} cannot be fitted "
            "any more. `recsys-assets promotions` lists the others."
        )
    return chosen


def _data_versions(instance: dg.DagsterInstance) -> dict[str, str]:
    """Data versions of the tables behind the scores; tables that this instance has not materialized are left out."""
    events = {name: instance.get_latest_materialization_event(dg.AssetKey(name)) for name in _VERSIONED}
    found = {name: event.asset_materialization for name, event in events.items() if event}
    return {name: (seen.tags or {})["dagster/data_version"] for name, seen in found.items() if seen}


def _metadata(added: Promotion, now: Promotion) -> dict[str, Any]:
    # The names are the same at each materialization, because the UI plots metadata by name.
    leads = {
        f"{contest.metric} above {contest.opponent}": plotted(contest.difference)
        for contest in added.contests
        if contest.opponent == GATE_BASELINE.name
    }
    contests = [dg.TableRecord(asdict(contest)) for contest in added.contests]
    return {
        "verdict": added.verdict,
        "reason": added.reason,
        "decision": added.number,
        "in use": now.configuration.name,
        "in use since": now.when,
        "configuration in use": dg.MetadataValue.json(now.configuration.content),
        **leads,
        **({"contests": dg.MetadataValue.table(contests)} if contests else {}),
    }


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The decision about the configuration in use; events have no rating model."""
    return [_asset(kind)]
