"""The rules of each stored table and model, by the asset check that reports them.

A check is named after what it looks at. `declared` decides in which step an asset is checked. Polars checks the tables
of a home with fewer than `scale.spark_from_rows` ratings, also with the engine Spark, because a check of a small
table should not wait for a cluster.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg
import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import STATE_FOLDER, AssetStore, Model, load, scan
from recsys_assets.orchestration.assets.models import MODEL_TYPES
from recsys_assets.orchestration.io_managers import table_of
from recsys_assets.recommender.data.frames import row_count, to_polars
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.evaluation import quality
from recsys_assets.recommender.evaluation.quality import Finding
from recsys_assets.recommender.ranking.rules import Rules
from recsys_assets.recommender.serving.recommendations import MadeWith
from recsys_assets.recommender.serving.similar import similar_findings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COLUMNS, KEY, DROP, PARAMETERS = "columns_and_types", "one_row_per_key", "no_sudden_drop", "finite_parameters"
_INDEXED = ("users", "items")
# Only these tables are compared with their last good size. A loss of rows in one of them shrinks all downstream tables.
_ARE_NOT_TO_SHRINK = {"users", "items", "ratings"}
_RAW = ("raw_ratings", "raw_users", "raw_items")


@dataclass
class Found:
    """What the checks of an asset have found.

    Attributes:
        findings: by check; at least one of each.
        facts: by check, what later results of it are compared with.
    """

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    facts: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether no severe rule of the asset is broken. Only then may later results be compared with it."""
        return all(each.passed or not each.severe for of in self.findings.values() for each in of)


@dataclass(frozen=True)
class Stored:
    """The stored assets, the settings and the kind of data that the checks of one step read.

    Attributes:
        spark: the session, if Spark checks the tables.
    """

    store: AssetStore
    settings: Settings
    kind: DataKind
    spark: "SparkSession | None" = None

    def table(self, name: str, batch: str | None = None) -> nw.LazyFrame:
        """A stored table."""
        return scan(self.store.current(name.split("/"), batch), self.spark)

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


# Findings, and the facts that later ones are compared with.
_Rules = tuple[list[Finding], dict[str, object]]


def _of_ratings(stored: Stored, before: Mapping[str, object]) -> _Rules:
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


def _of_test_ratings(stored: Stored, _: Mapping[str, object]) -> _Rules:
    train, test = stored.table("train_ratings"), stored.table("test_ratings")
    n_users, scale = row_count(stored.table("users")), Scale.of(stored.settings.model_dump())
    cut = quality.cut_findings(train, test, stored.table("ratings"), n_users=n_users, scale=scale)
    return [*cut, quality.scored_finding(train, test)], {}


def _of_train_histories(stored: Stored, _: Mapping[str, object]) -> _Rules:
    return [quality.histories_finding(row_count(stored.table("train_histories")))], {}


def _of_scores(stored: Stored, _: Mapping[str, object]) -> _Rules:
    return quality.score_findings(to_polars(stored.table("evaluation_scores"))), {}


def _of_segment_shares(stored: Stored, _: Mapping[str, object]) -> _Rules:
    shares, limit = to_polars(stored.table("segment_shares")), stored.settings.checks.max_segment_shift
    return quality.segment_shift_finding(shares, max_shift=limit), {}


def _of_recommendations(stored: Stored, _: Mapping[str, object]) -> _Rules:
    shown, users, items, ratings = map(stored.table, ("recommendations", *_INDEXED, "ratings"))
    serving, rules = stored.settings.serving, _rules_of(stored, "recommendations")
    allowed = _allowed(rules, to_polars(items))
    return quality.recommendation_findings(
        shown, users, items, rules.excluded(ratings), n=serving.n, allowed=allowed, most=serving.max_per_value
    ), {}


def _of_similar_items(stored: Stored, _: Mapping[str, object]) -> _Rules:
    found, catalogue = to_polars(stored.table("similar_items")), to_polars(stored.table("items"))
    allowed = _allowed(_rules_of(stored, "similar_items"), catalogue)
    return similar_findings(found, catalogue, n=stored.settings.serving.n, allowed=allowed), {}


def _rules_of(stored: Stored, lists: str) -> Rules:
    """The rules that stored lists were made by. Somebody may have blocked or unblocked items since."""
    made_with = load(MadeWith, stored.store.current([lists]) / STATE_FOLDER)
    return rules_for_lists(Home(stored.store.root.parent), stored.settings.serving, made_with.blocked)


def _allowed(rules: Rules, items: pl.DataFrame) -> pl.Series:
    """The ids of the items that may be shown."""
    return items.filter(rules.allowed(items))["item_id"]


@dataclass(frozen=True)
class _Further:
    """A check of one table beyond its declaration."""

    name: str
    meaning: str
    find: Callable[[Stored, Mapping[str, object]], _Rules]


_FURTHER: Mapping[str, _Further] = {
    "ratings": _Further(
        "plausible_ratings",
        "Few rows of each batch were rejected. Ratings are distributed as before, on one scale and at different times.",
        _of_ratings,
    ),
    "test_ratings": _Further(
        "nothing_leaks_or_is_lost",
        "No training rating is later than a test rating, training and test ratings together are all ratings, and "
        "enough users can be scored.",
        _of_test_ratings,
    ),
    "train_histories": _Further(
        "enough_to_learn_from", "Train users have ratings before their latest ones.", _of_train_histories
    ),
    "evaluation_scores": _Further(
        "scores_within_bounds", "No rating model scores above the best possible score or below random.", _of_scores
    ),
    "segment_shares": _Further(
        "segments_as_before", "Segments are about as large as after the previous fit.", _of_segment_shares
    ),
    "recommendations": _Further(
        "whole_and_allowed_lists",
        "Every user has a list of full length, without rated items and within the rules for lists.",
        _of_recommendations,
    ),
    "similar_items": _Further(
        "allowed_lists", "No item is similar to itself, and lists keep to the rules.", _of_similar_items
    ),
}


def meanings(key: dg.AssetKey) -> dict[str, str]:
    """The checks of an asset by name, each with what it looks at."""
    table, name = table_of(key), key.to_user_string()
    if table is None:
        return {PARAMETERS: "All parameters of the model are finite numbers."}
    found = {COLUMNS: "Columns, types, nulls, finite numbers, ranges and indices are as the table declares them."}
    if table.key:
        found[KEY] = f"One row per {', '.join(table.key)}."
    if name in _ARE_NOT_TO_SHRINK:
        found[DROP] = "The table does not have many fewer rows than in its last good state (`checks.max_row_drop`)."
    if name in _FURTHER:
        found[_FURTHER[name].name] = _FURTHER[name].meaning
    return found


def check_keys(key: dg.AssetKey) -> list[dg.AssetCheckKey]:
    """The checks of an asset."""
    return [dg.AssetCheckKey(key, name) for name in meanings(key)]


def look(stored: Stored, key: dg.AssetKey, before: Mapping[str, object]) -> Found:
    """Look at a stored asset.

    Args:
        stored: the stored assets.
        key: a table or model.
        before: the facts of its last good state.
    """
    table, name = table_of(key), key.to_user_string()
    if table is None:
        model: type[Model] = MODEL_TYPES[name]
        arrays = parameters(load(model, stored.store.current(key.path)))
        return Found({PARAMETERS: [quality.finite_finding(arrays)]})
    frame = stored.table(name)
    refers = any(column.refers_to for column in table.columns.values())
    rows, declared = quality.schema_findings(frame, table, stored.sizes if refers else {})
    found = Found({COLUMNS: [each for each in declared if not each.is_of_key]})
    if table.key:
        found.findings[KEY] = [each for each in declared if each.is_of_key] or [_unseen(KEY)]
    if name in _ARE_NOT_TO_SHRINK:
        _compare_rows(found, rows, before, stored.settings.checks.max_row_drop)
    if further := _FURTHER.get(name):
        # Further rules would fail on a table that lacks declared columns.
        has_columns = declared[0].passed
        rules, facts = further.find(stored, before) if has_columns else ([], {})
        found.findings[further.name] = rules or [_nothing(further.name) if has_columns else _unseen(further.name)]
        found.facts[further.name] = facts
    return found


def _compare_rows(found: Found, rows: int, before: Mapping[str, object], max_drop: float) -> None:
    rows_before = before.get("rows")
    known = rows_before if isinstance(rows_before, int) else None
    found.findings[DROP] = quality.drop_finding(rows, known, max_drop=max_drop) or [_nothing(DROP)]
    found.facts[DROP] = {"rows": rows}


def _nothing(check: str) -> Finding:
    """A finding that passes, because there is no earlier state to compare with."""
    return Finding(check, "nothing to compare with yet", "", "", passed=True)


def _unseen(check: str) -> Finding:
    return Finding(check, "not checked, because columns are missing", "", "", passed=False)


def parameters(part: object, name: str = "") -> dict[str, np.ndarray]:
    """The numeric parameters of a model and of its parts, by name."""
    match part:
        case np.ndarray() | float():
            return {name: np.asarray(part)}
        case sparse.sparray():
            return {name: part.data}
        # A LatentDirichletAllocation, told by its attribute: importing scikit-learn would slow the start of a process.
        case _ if hasattr(part, "components_"):
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
