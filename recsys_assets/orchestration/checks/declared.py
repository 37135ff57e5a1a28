"""Asset checks of every stored table and model: are they as declared?

A factory makes the checks from the declared tables and the registry. One step checks several assets, which must not
depend on each other (docs/decisions/grouped-checks.md). The rules and the names of the checks are in `rules`.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import dagster as dg

from recsys_assets.orchestration.assets import ASSETS, assets_of
from recsys_assets.orchestration.assets.common import SettingsParam
from recsys_assets.orchestration.assets.models import MODEL_TYPES, SERVING_MODEL, predictions_key
from recsys_assets.orchestration.checks.results import BEFORE_0_9, check_result, last_good_facts
from recsys_assets.orchestration.checks.rules import Stored, check_keys, look, meanings
from recsys_assets.orchestration.io_managers import AssetIOManager
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.registry import ENTRIES, Task

_PARENTS = {spec.key: [dep.asset_key for dep in spec.deps] for asset in ASSETS for spec in asset.specs}


def checks_in_one_step(step: str, keys: Sequence[dg.AssetKey], kind: DataKind) -> dg.AssetChecksDefinition:
    """The checks of several assets in one step. No asset may depend on another one of them."""

    @dg.multi_asset_check(
        name=f"{step}_checks",
        specs=[
            dg.AssetCheckSpec(name, asset=key, description=meaning, blocking=True)
            for key in keys
            for name, meaning in meanings(key).items()
        ],
        can_subset=True,
    )
    def check(
        context: dg.AssetCheckExecutionContext, settings: SettingsParam, io_manager: dg.ResourceParam[AssetIOManager]
    ) -> Iterator[dg.AssetCheckResult]:
        stored = Stored(io_manager.store, settings, kind, io_manager.session_of_checks())
        for key, selected in groupby(sorted(context.selected_asset_check_keys), lambda each: each.asset_key):
            found = look(stored, key, _before(context.instance, key))
            for check_key in selected:
                facts = found.facts.get(check_key.name, {}) if found.is_good else {}
                yield check_result(check_key, found.findings[check_key.name], facts)

    return check


def _before(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    """The facts of the last good state of an asset. Before version 0.9, one check of this name held them all."""
    facts = dict(last_good_facts(instance, dg.AssetCheckKey(key, BEFORE_0_9)))
    for check_key in check_keys(key):
        facts |= last_good_facts(instance, check_key)
    return facts


def _layers(step: str, keys: Collection[dg.AssetKey]) -> list[tuple[str, list[dg.AssetKey]]]:
    """Step and assets of each layer of the asset graph, for assets that depend on each other."""

    @cache
    def layer(key: dg.AssetKey) -> int:
        return max((layer(parent) + (parent in keys) for parent in _PARENTS.get(key, ())), default=1)

    layers = sorted({layer(key) for key in keys})
    return [(f"{step}_{number}", sorted(key for key in keys if layer(key) == number)) for number in layers]


@cache
def _follows_from(key: dg.AssetKey, source: dg.AssetKey) -> bool:
    return key == source or any(_follows_from(parent, source) for parent in _PARENTS.get(key, ()))


def _predictions(*tasks: Task) -> list[dg.AssetKey]:
    return [predictions_key(entry) for entry in ENTRIES if entry.task in tasks]


_MODELS = {dg.AssetKey(name) for name in MODEL_TYPES if name != SERVING_MODEL}
_OF_LATEST_RATINGS = {key for key in _MODELS if _follows_from(key, dg.AssetKey("train_histories"))}


@cache
def checks_of(kind: DataKind) -> Sequence[dg.AssetChecksDefinition]:
    """The checks of the assets of a kind of data."""
    present = {spec.key for asset in assets_of(kind) for spec in asset.specs}

    def of(step: str, assets: Sequence[str | dg.AssetKey]) -> list[dg.AssetChecksDefinition]:
        keys = [key for key in map(dg.AssetKey.from_coercible, assets) if key in present]
        return [checks_in_one_step(step, keys, kind)] if keys else []

    def by_layer(step: str, keys: Collection[dg.AssetKey]) -> list[dg.AssetChecksDefinition]:
        return [check for name, layer in _layers(step, keys) for check in of(name, layer)]

    return (
        *of("catalogue", ["users", "items"]),
        *of("ratings", ["ratings"]),
        *of("user_features", ["user_features"]),
        *of("user_clusters", ["user_clusters"]),
        *of("cut_in_time", ["train_ratings", "test_ratings"]),
        # Case study B has separate steps, so that recommendations are made even if its checks fail.
        *of("user_partition", ["user_partition"]),
        *of("latest_ratings", ["train_histories", "train_responses", "test_histories", "test_responses"]),
        *of("cluster_ratings", ["cluster_ratings"]),
        *of("adjusted_train_ratings", ["adjusted_train_ratings"]),
        *by_layer("models", _MODELS - _OF_LATEST_RATINGS),
        *by_layer("latest_rating_models", _MODELS & _OF_LATEST_RATINGS),
        *of("user_segments", ["user_segments"]),
        *of("segment_ratings", ["segment_ratings"]),
        *of("predictions", _predictions("time_cut", "top_n")),
        *of("latest_rating_predictions", _predictions("latest_rating", "next_item")),
        *of("evaluation_scores", ["evaluation_scores"]),
        *of("serving_model", ["serving_model"]),
        *of("recommendations", ["recommendations"]),
        *of("similar_items", ["similar_items"]),
        # No recommendation depends on these tables, so nothing waits for their checks.
        *of("overviews", ["cluster_sweep", "segment_items", "segment_shares"]),
        *of("published_folds", ["published_folds"]),
        *of("study", ["tuned_settings", "leakage_audit", "segment_sweep"]),
    )
