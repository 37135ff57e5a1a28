"""The asset check `sound`: is every stored table and model as declared?

A factory makes the checks from the declared tables and the registry. One step checks several assets, which must not
depend on each other (docs/decisions/grouped-checks.md). Checks read stored tables with Polars, also if the engine is
Spark, because a check should not wait for a cluster.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property

import dagster as dg
import narwhals as nw
import numpy as np
from scipy import sparse
from sklearn.decomposition import LatentDirichletAllocation

from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore, Model, load, scan
from recsys_assets.orchestration.assets import ASSETS, assets_of
from recsys_assets.orchestration.assets.common import SettingsParam
from recsys_assets.orchestration.assets.models import MODEL_TYPES, SERVING_MODEL, predictions_key
from recsys_assets.orchestration.checks.results import check_result, last_good_facts
from recsys_assets.orchestration.io_managers import AssetIOManager, table_of
from recsys_assets.recommender.data.frames import row_count, to_polars
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.data.tables import Table
from recsys_assets.recommender.evaluation import quality
from recsys_assets.recommender.evaluation.quality import Finding
from recsys_assets.recommender.registry import ENTRIES, Task
from recsys_assets.recommender.serving.similar import similar_findings

NAME = "sound"
_INDEXED = ("users", "items")
# Only these tables are compared with their last good size. A loss of rows in one of them shrinks all downstream tables.
_ARE_NOT_TO_SHRINK = {"users", "items", "ratings"}
_RAW = ("raw_ratings", "raw_users", "raw_items")
_PARENTS = {spec.key: [dep.asset_key for dep in spec.deps] for asset in ASSETS for spec in asset.specs}


# The findings of a check, and the facts that later checks are compared with.
Found = tuple[list[Finding], dict[str, object]]


@dataclass(frozen=True)
class Stored:
    """The stored assets, the settings and the kind of data that the checks of one step read."""

    store: AssetStore
    settings: Settings
    kind: DataKind

    def table(self, name: str, batch: str | None = None) -> nw.LazyFrame:
        """A stored table."""
        return scan(self.store.current(name.split("/"), batch))

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Number of users and of items."""
        return {name: row_count(self.table(name)) for name in _INDEXED}

    def rejected(self) -> tuple[dict[str, int], dict[str, int]]:
        """Number of rejected rows and number of accepted rows, for each batch that has rejected rows."""
        rejected = {
            batch: row_count(self.table("rejected_rows", batch)) for batch in self.store.batches(["rejected_rows"])
        }
        some = {batch: n for batch, n in rejected.items() if n}
        return some, {batch: sum(row_count(self.table(name, batch)) for name in _RAW) for batch in some}


def _declared_findings(stored: Stored, key: dg.AssetKey, table: Table, before: Mapping[str, object]) -> Found:
    name = key.to_user_string()
    frame = stored.table(name)
    refers = any(column.refers_to for column in table.columns.values())
    rows, findings = quality.schema_findings(frame, table, stored.sizes if refers else {})
    facts: dict[str, object] = {"rows": rows}
    if name in _ARE_NOT_TO_SHRINK:
        rows_before = before.get("rows")
        known = rows_before if isinstance(rows_before, int) else None
        findings += quality.drop_finding(rows, known, max_drop=stored.settings.checks.max_row_drop)
    # Further rules would fail on a table that lacks declared columns.
    if findings[0].passed and name in _FURTHER:
        more, further = _FURTHER[name](stored, before)
        findings, facts = findings + more, facts | further
    return findings, facts


def _of_ratings(stored: Stored, before: Mapping[str, object]) -> Found:
    limits, shares = stored.settings.checks, quality.rating_shares(stored.table("ratings"))
    known = before.get("shares")
    findings = [
        *quality.shift_finding(
            shares, known if isinstance(known, Mapping) else None, max_shift=limits.max_distribution_shift
        ),
        quality.rejected_finding(*stored.rejected(), max_share=stored.settings.data.max_rejected_share),
        *([] if stored.kind.is_events else quality.scale_findings(stored.table("ratings"))),
        *([quality.times_finding(stored.table("ratings"))] if stored.kind.times else []),
    ]
    return findings, {"shares": shares}


def _of_test_ratings(stored: Stored, _: Mapping[str, object]) -> Found:
    train, test = stored.table("train_ratings"), stored.table("test_ratings")
    n_users, scale = row_count(stored.table("users")), Scale.of(stored.settings.model_dump())
    cut = quality.cut_findings(train, test, stored.table("ratings"), n_users=n_users, scale=scale)
    return [*cut, quality.scored_finding(train, test)], {}


def _of_train_histories(stored: Stored, _: Mapping[str, object]) -> Found:
    return [quality.histories_finding(row_count(stored.table("train_histories")))], {}


def _of_scores(stored: Stored, _: Mapping[str, object]) -> Found:
    return quality.score_findings(to_polars(stored.table("evaluation_scores"))), {}


def _of_segment_shares(stored: Stored, _: Mapping[str, object]) -> Found:
    shares, limit = to_polars(stored.table("segment_shares")), stored.settings.checks.max_segment_shift
    return quality.segment_shift_finding(shares, max_shift=limit), {}


def _of_recommendations(stored: Stored, _: Mapping[str, object]) -> Found:
    shown, users, items, ratings = map(stored.table, ("recommendations", *_INDEXED, "ratings"))
    serving, catalogue = stored.settings.serving, to_polars(items)
    rules = rules_for_lists(Home(stored.store.root.parent), serving)
    allowed = catalogue.filter(rules.allowed(catalogue))["item_id"]
    excluded = rules.excluded(ratings)
    return quality.recommendation_findings(
        shown, users, items, excluded, n=serving.n, allowed=allowed, most=serving.max_per_value
    ), {}


def _of_similar_items(stored: Stored, _: Mapping[str, object]) -> Found:
    found, catalogue = to_polars(stored.table("similar_items")), to_polars(stored.table("items"))
    serving = stored.settings.serving
    rules = rules_for_lists(Home(stored.store.root.parent), serving)
    allowed = catalogue.filter(rules.allowed(catalogue))["item_id"]
    return similar_findings(found, catalogue, n=serving.n, allowed=allowed), {}


_FURTHER: Mapping[str, Callable[[Stored, Mapping[str, object]], Found]] = {
    "ratings": _of_ratings,
    "test_ratings": _of_test_ratings,
    "train_histories": _of_train_histories,
    "evaluation_scores": _of_scores,
    "segment_shares": _of_segment_shares,
    "recommendations": _of_recommendations,
    "similar_items": _of_similar_items,
}


def parameters(part: object, name: str = "") -> dict[str, np.ndarray]:
    """The numeric parameters of a model and of its parts, by name."""
    match part:
        case np.ndarray() | float():
            return {name: np.asarray(part)}
        case sparse.sparray():
            return {name: part.data}
        case LatentDirichletAllocation():
            return {name: part.components_}
        case Mapping():
            parts = dict(part)
        case _ if is_dataclass(part):
            parts = {field.name: getattr(part, field.name) for field in fields(part)}
        case _:
            return {}
    return {
        inner: numbers
        for key, value in parts.items()
        for inner, numbers in parameters(value, f"{name} {key}".strip()).items()
    }


def _findings(stored: Stored, key: dg.AssetKey, before: Mapping[str, object]) -> Found:
    table = table_of(key)
    if table:
        return _declared_findings(stored, key, table, before)
    model_type: type[Model] = MODEL_TYPES[key.to_user_string()]
    return [quality.finite_finding(parameters(load(model_type, stored.store.current(key.path))))], {}


def sound(step: str, keys: Sequence[dg.AssetKey], kind: DataKind) -> dg.AssetChecksDefinition:
    """The checks `sound` of several assets in one step. No asset may depend on another one of them."""

    @dg.multi_asset_check(
        name=f"{step}_sound",
        specs=[dg.AssetCheckSpec(NAME, asset=key, description=_meaning(key), blocking=True) for key in keys],
        can_subset=True,
    )
    def check(
        context: dg.AssetCheckExecutionContext, settings: SettingsParam, io_manager: dg.ResourceParam[AssetIOManager]
    ) -> Iterator[dg.AssetCheckResult]:
        stored = Stored(io_manager.store, settings, kind)
        for check_key in sorted(context.selected_asset_check_keys):
            before = last_good_facts(context.instance, check_key)
            yield check_result(check_key, *_findings(stored, check_key.asset_key, before))

    return check


def _layers(step: str, keys: Collection[dg.AssetKey]) -> list[tuple[str, list[dg.AssetKey]]]:
    """Step and assets of each layer of the asset graph, for assets that depend on each other."""

    @cache
    def layer(key: dg.AssetKey) -> int:
        return max((layer(parent) + (parent in keys) for parent in _PARENTS.get(key, ())), default=1)

    layers = sorted({layer(key) for key in keys})
    return [(f"{step}_{number}", sorted(key for key in keys if layer(key) == number)) for number in layers]


def _meaning(key: dg.AssetKey) -> str:
    if table_of(key) is None:
        return "All parameters of the model are finite numbers."
    more = " Further rules are listed with the result." if key.to_user_string() in _FURTHER else ""
    return f"Columns, nulls, numbers, ranges, indices and key are as `recommender/data/tables.py` declares them.{more}"


@cache
def _follows_from(key: dg.AssetKey, source: dg.AssetKey) -> bool:
    return key == source or any(_follows_from(parent, source) for parent in _PARENTS.get(key, ()))


def _predictions(*tasks: Task) -> list[dg.AssetKey]:
    return [predictions_key(entry) for entry in ENTRIES if entry.task in tasks]


_MODELS = {dg.AssetKey(name) for name in MODEL_TYPES if name != SERVING_MODEL}
_OF_LATEST_RATINGS = {key for key in _MODELS if _follows_from(key, dg.AssetKey("train_histories"))}


@cache
def checks_of(kind: DataKind) -> Sequence[dg.AssetChecksDefinition]:
    """The checks `sound` of the assets of a kind of data."""
    present = {spec.key for asset in assets_of(kind) for spec in asset.specs}

    def of(step: str, assets: Sequence[str | dg.AssetKey]) -> list[dg.AssetChecksDefinition]:
        keys = [key for key in map(dg.AssetKey.from_coercible, assets) if key in present]
        return [sound(step, keys, kind)] if keys else []

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
        *of("study", ["studied_settings", "leakage_audit", "segment_sweep"]),
    )
