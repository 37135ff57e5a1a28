"""Plans runs from the state of a home: which batches to ingest, and which assets to compute again.

`launch` executes the planned runs in this process, `backfill` in the instance that serves the home.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import dagster as dg

from recsys_assets.home.batches import read_batches
from recsys_assets.home.layout import Home, is_batch_name
from recsys_assets.home.merged import rests_on_others
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets.ingest import merged_from, rests_on
from recsys_assets.orchestration.assets.serving import recommendations, similar_items
from recsys_assets.orchestration.jobs import everything, ingest, recommend, refresh, study
from recsys_assets.orchestration.landing_watch import MERGED, RAW, contiguous, selections
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.sensors import are_of_present_ratings, why_invalid
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind

# A title lists up to this many batches; of more it gives the number, the first and the last.
_NAMED = 5
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
# The promoted configuration and the assets that a rollback computes again.
_FOLLOWING = ("promoted_configuration", "serving_model", "recommendations", "similar_items")
_STUDIED_PER_PROTOCOL = ("study_trials", "study_scores", "user_scores", "paired_tests")
_STUDIED_TOGETHER = ("tuned_settings", "leakage_audit")


@dataclass(frozen=True)
class Launch:
    """One run of a job.

    Attributes:
        job: name of the job.
        title: one line for people about the run.
        batches: a contiguous range of batches (or one protocol of the study).
        assets: selected assets of the job; all by default.
        config: run config.
        is_extra: whether the next launch starts even if this one fails.
    """

    job: str
    title: str
    batches: Sequence[str] = ()
    assets: Sequence[dg.AssetKey] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    is_extra: bool = False

    @property
    def tags(self) -> dict[str, str]:
        """Run tags for the range of batches."""
        return {_RANGE_START: self.batches[0], _RANGE_END: self.batches[-1]} if self.batches else {}


# Lists by the configuration in use come first, so that users do not wait for scores. This run may fail: if the
# configuration cannot be fitted on the present ratings, the refresh finds another one.
_RECOMMEND = Launch(recommend.name, "Recommending with the configuration in use", is_extra=True)
_REFRESH = Launch(refresh.name, "All batches are ingested; refreshing everything that depends on the ratings")


def pipeline_assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    """The assets with code. Each definition is one step of a run, named after its op."""
    return [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]


def plan(
    home: Home,
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetsDefinition],
    *,
    refused: Collection[str] = (),
) -> list[Launch]:
    """The runs that bring a home up to date: ingest of pending batches, then everything downstream of `ratings`.

    Landed and ingested batches get a partition in the instance. A batch counts as ingested if all its raw tables are
    stored.

    Args:
        home: the home with the batches.
        instance: the home's Dagster instance.
        assets: assets of the pipeline.
        refused: batches to leave out.
    """
    ingested = read_batches(home)
    known = _register(home, instance, ingested, refused)
    pieces = _contiguous(known, ingested)
    in_use = AssetStore(home.assets).has(["promoted_configuration"])
    if pieces:
        # The merge needs all batches, so only the last range includes it.
        first = [Launch(everything.name, f"Ingesting {_named(piece)}", piece, RAW) for piece in pieces[:-1]]
        title = f"Ingesting {_named(pieces[-1])}"
        if in_use:
            return [*first, Launch(ingest.name, title, pieces[-1]), _RECOMMEND, _REFRESH]
        return [*first, Launch(everything.name, f"{title}, then everything else", pieces[-1])]
    if not known:
        return []
    is_older = min(_last_written(instance, MERGED)) < max(_last_written(instance, RAW))
    # Tables that failed their check are merged again, because the merge repeats the check. `refresh` would skip it.
    if is_older or _rests_on_others(home, instance) or why_invalid(instance):
        if in_use:
            return [Launch(ingest.name, "All batches are read; merging them", assets=MERGED), _RECOMMEND, _REFRESH]
        return [merging("All batches are read; merging them, then everything else", assets)]
    is_recommended = not in_use or are_of_present_ratings(instance, [recommendations.key])
    return [_REFRESH] if is_recommended else [_RECOMMEND, _REFRESH]


def merging(title: str, assets: Sequence[dg.AssetsDefinition]) -> Launch:
    """The merge of all ingested batches and everything downstream."""
    unmerged = [
        spec.key
        for asset in assets
        for spec in asset.specs
        if spec.group_name != "study" and spec.partitions_def is None
    ]
    return Launch(everything.name, title, assets=unmerged)


def _rests_on_others(home: Home, instance: dg.DagsterInstance) -> bool:
    """Whether the batches, the exclusion list, the sample or the damping of events have changed since the last merge.

    A new run history has no record of the merge, so the tables count as well: `status --check` looks at them, and would
    ask for a run for ever.
    """
    recorded, known = rests_on(instance), instance.get_dynamic_partitions(str(BATCHES.name))
    is_recorded_otherwise = bool(recorded) and recorded != merged_from(known, home, Settings.load(home))
    return is_recorded_otherwise or rests_on_others(home)


def _register(
    home: Home, instance: dg.DagsterInstance, ingested: Collection[str], refused: Collection[str]
) -> list[str]:
    """Add missing partitions, in the order of their names, and return all known batches in order.

    A new run history does not know the ingested batches, and their sources may be gone. The merge reads the batches
    that have a partition, so they need one. The partition of a batch that was never read is deleted if the batch was
    refused or has left the landing folder.
    """
    name = str(BATCHES.name)
    landed = [batch for batch in home.landed_batches() if batch not in refused and is_batch_name(batch)]
    wanted, known = {*landed, *ingested}, set(instance.get_dynamic_partitions(name))
    instance.add_dynamic_partitions(name, sorted(wanted - known))
    for batch in known - wanted:
        instance.delete_dynamic_partition(name, batch)
    return list(instance.get_dynamic_partitions(name))


def _contiguous(known: Sequence[str], ingested: Collection[str]) -> list[list[str]]:
    """The batches that are not ingested, split into contiguous ranges, because a run takes one range of partitions."""
    runs = groupby(known, lambda batch: batch in ingested)
    return [list(batches) for is_ingested, batches in runs if not is_ingested]


def _named(batches: Sequence[str]) -> str:
    few = len(batches) <= _NAMED
    return ", ".join(batches) if few else f"{len(batches)} batches, {batches[0]} to {batches[-1]}"


def _last_written(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> list[int]:
    """Position of each asset's newest materialization in the event log; 0 if there is none."""
    records = [instance.fetch_materializations(key, limit=1).records for key in keys]
    return [found[0].storage_id if found else 0 for found in records]


def reading_again(instance: dg.DagsterInstance, batches: Collection[str]) -> list[Launch]:
    """Launches that read known batches again and merge all batches: one launch per contiguous range."""
    pieces = contiguous(instance.get_dynamic_partitions(str(BATCHES.name)), batches)
    titled = [(f"Ingesting {_named(piece)}", piece) for piece in pieces]
    return [
        Launch(ingest.name, title, piece, keys or ())
        for (title, piece), keys in zip(titled, selections(pieces), strict=True)
    ]


def reading_the_rest(
    home: Home,
    instance: dg.DagsterInstance,
    batches: Collection[str],
    *,
    read: Collection[str],
    refused: Collection[str],
) -> list[Launch]:
    """The remaining launches of `reading_again` after a refusal.

    The partition of a refused batch that was never read is deleted, because a merge would fail on it.
    """
    name = str(BATCHES.name)
    for batch in set(refused) - read_batches(home):
        instance.delete_dynamic_partition(name, batch)
    if left := {*batches} - {*read, *refused}:
        return reading_again(instance, left)
    return [Launch(ingest.name, "Merging", assets=MERGED)] if read_batches(home) else []


def lists_anew(*, fits: bool) -> Launch:
    """The launch that makes the lists of all users by the present rules.

    Args:
        fits: whether the served model has to be fitted first, because users or items were added or removed since.
    """
    if fits:
        return Launch(recommend.name, "Users or items have changed: fitting the model in use and making lists")
    return Launch(
        recommend.name,
        "Making lists with the model in use and the present rules",
        assets=[recommendations.key, similar_items.key],
    )


def rollback(number: int, configuration: str) -> Launch:
    """The launch that goes back to the configuration of an earlier promotion.

    Args:
        number: number of the promotion.
        configuration: name of its configuration.
    """
    return Launch(
        refresh.name,
        f"Going back to configuration {configuration} of promotion {number}",
        assets=[dg.AssetKey(name) for name in _FOLLOWING],
        config={"ops": {_FOLLOWING[0]: {"config": {"rollback_to": number}}}},
    )


def study_of(
    protocols: Sequence[str],
    searches: Sequence[str],
    budget: int | None,
    *,
    is_reported: bool,
    kind: DataKind = RATINGS_WITH_TIMES,
) -> list[Launch]:
    """The launches of a study: one run per protocol, then the assets that need all protocols.

    With one run per protocol, finished protocols are stored even if a later run is stopped.

    Args:
        protocols: names of the protocols.
        searches: names of the searches; all if empty.
        budget: candidates per search; the setting `study.budget` if None.
        is_reported: whether to write the report at the end.
        kind: kind of the data; only ratings with times have a sweep of the number of segments.
    """
    changed = ({"searches": list(searches)} if searches else {}) | ({"budget": budget} if budget else {})
    config = {"resources": {"settings": {"config": {"study": changed}}}} if changed else {}

    def keys(*names: str) -> list[dg.AssetKey]:
        return [dg.AssetKey(name) for name in names]

    folds = Launch(study.name, "Splits that came with the data", assets=keys("published_folds"))
    each = [
        Launch(
            study.name, f"Protocol {name} ({number} of {len(protocols)})", [name], keys(*_STUDIED_PER_PROTOCOL), config
        )
        for number, name in enumerate(protocols, 1)
    ]
    swept = ["segment_sweep"] if "latest_rating" in protocols and kind == RATINGS_WITH_TIMES else []
    rest = Launch(study.name, "Choosing", assets=keys(*_STUDIED_TOGETHER, *swept), config=config)
    report = [Launch(refresh.name, "Writing the report", assets=keys("evaluation_report"))] if is_reported else []
    return [folds, *each, rest, *report]
