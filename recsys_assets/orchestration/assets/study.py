"""The study: settings and models chosen by validation, and scores of every model under every protocol.

A study runs on request; it is not part of `refresh`. Every trial is stored in the folder `study` of the home, so that a
stopped study continues from there. The method is in `recommender.tuning`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.home.batches import read_batches
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.tuned_settings import overruled, write_tuned
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.orchestration.assets.common import TABLE_KINDS, SettingsParam, pictures, pipeline_asset
from recsys_assets.orchestration.assets.evaluation import shares
from recsys_assets.orchestration.partitions import PROTOCOL_PARTITIONS
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.data.frames import empty, lazy, row_count
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.comparing import leakage_audit as audit
from recsys_assets.recommender.evaluation.protocols import LEAKAGE_AUDITS, of_the_pipeline
from recsys_assets.recommender.evaluation.score_table import marked
from recsys_assets.recommender.ingest import folds
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.registry.provenance import libraries
from recsys_assets.recommender.report import study_charts
from recsys_assets.recommender.tuning.scoring import KeptScores, ProtocolScores, Scoring
from recsys_assets.recommender.tuning.study import Splits, Study, choices_table, trials_table
from recsys_assets.recommender.tuning.tuning import chosen

_Tables = dict[str, nw.LazyFrame]
# Inputs of every part of a study.
_INS = {
    name: dg.AssetIn(name, dagster_type=nw.LazyFrame)
    for name in ("users", "items", "user_features", "ratings", "published_folds")
}


def _study(
    context: dg.AssetExecutionContext,
    tables: Mapping[str, nw.LazyFrame],
    settings: Settings,
    home: HomeResource,
) -> Study:
    split, scored = settings.splitting, settings.evaluation
    return Study(
        tables,
        settings.model_dump(),
        _defaults(),
        home.folders.study,
        code=libraries(),
        splits=Splits(split.parsed_cut, split.train_share, split.seed),
        scoring=Scoring(scored.seed, scored.n_resamples, settings.study.n_seeds),
        kind=kept_kind(home.folders),
        budget=settings.study.budget,
        seed=settings.study.seed,
        log=context.log.info,
    )


def _defaults() -> dict[str, Any]:
    """The built-in settings by section, without settings files and environment."""
    fields = Settings.model_fields.items()
    return {name: field.default.model_dump() for name, field in fields if hasattr(field.default, "model_dump")}


def _empty(name: str) -> nw.LazyFrame:
    return lazy(empty(TABLES[name]))


# Options of the assets whose code version covers the trials and scores of a study.
_DEPENDS_ON: dict[str, Any] = {"settings": ("data", "evaluation", "splitting", "study"), "fits_models": True}


@pipeline_asset(group="study", kinds=TABLE_KINDS, settings=("data",))
def published_folds(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    settings: SettingsParam,
    home: HomeResource,
) -> nw.LazyFrame:
    """The splits that the authors of the data published with them, such as u1 to u5 of MovieLens 100K.

    The table has no rows if no accepted batch contains published splits.
    """
    limit = settings.data.max_unpacked_bytes
    # Refused and waiting batches are left out: the ratings do not contain their rows.
    for batch in sorted({*home.folders.landed_batches()} & read_batches(home.folders)):
        try:
            landed = home.folders.batch(batch)
        except FileNotFoundError:
            # The batch is a broken link, or its link leads out of the landing folder.
            continue
        source = Source(landed, home.scratch / f"folds-{batch}", limit)
        if (found := folds.published_folds(source, users, items)) is not None:
            context.log.info(f"Folds of {batch}")
            return lazy(found)
    return _empty("published_folds")


@pipeline_asset(
    group="study",
    ins=_INS,
    kinds=TABLE_KINDS,
    partitions_def=PROTOCOL_PARTITIONS,
    **_DEPENDS_ON,
)
def study_trials(
    context: dg.AssetExecutionContext,
    settings: SettingsParam,
    home: HomeResource,
    **tables: nw.LazyFrame,
) -> _Tables:
    """The trials of each protocol: settings and models, scored on a validation split of its training rows.

    The folder `study` of the home keeps each trial as soon as it is finished. A trial is never repeated for the same
    rows, settings and code. No validation split contains test rows of its protocol. The protocols
    `top_n_random_80_20` and `top_n_leave_last_out` have no trials: they use the choices of `top_n`, because the leakage
    audit compares the same models.
    """
    study = _study(context, tables, settings, home)
    made = {}
    for protocol in context.partition_keys:
        possible = study.is_possible(protocol)
        found = study.found(protocol, settings.study.searches or None) if possible else []
        made[protocol] = lazy(trials_table(found))
        facts: dict[str, Any] = {setting: str(value) for setting, value in chosen(found).items()}
        context.add_asset_metadata(facts, asset_key=context.asset_key, partition_key=protocol)
    return made


@pipeline_asset(
    group="study",
    ins=_INS,
    kinds=TABLE_KINDS,
    deps=[study_trials],
    **_DEPENDS_ON,
)
def tuned_settings(
    context: dg.AssetExecutionContext,
    settings: SettingsParam,
    home: HomeResource,
    **tables: nw.LazyFrame,
) -> nw.LazyFrame:
    """The settings that the trials of the pipeline's own splits choose, also written to `tuned.toml` in the home.

    Every later refresh uses these settings. Your own `settings.toml` takes precedence over `tuned.toml`. The served
    model changes only if the new configuration passes the gate of `promoted_configuration`.
    """
    study = _study(context, tables, settings, home)
    found = [each for protocol in of_the_pipeline(study.kind) for each in study.found(protocol, ())]
    tuned = chosen(found)
    changed = write_tuned(home.folders, tuned)
    for setting, value in overruled(tuned, Settings.load(home.folders)).items():
        context.log.warning(f"{setting}: your own setting {value} takes precedence over {tuned[setting]} of the study.")
    context.add_output_metadata(
        {
            "file": dg.MetadataValue.path(home.folders.tuned_file),
            "changed": len(changed),
            "changes": dg.MetadataValue.md(_listed(changed)),
        }
    )
    return lazy(choices_table(found, _defaults()))


def _listed(changed: Mapping[str, tuple[Any, Any]]) -> str:
    rows = [f"| {setting} | {'built-in' if old is None else old} | {new} |" for setting, (old, new) in changed.items()]
    return "\n".join(["| setting | before | now |", "|---|---|---|", *rows])


@pipeline_asset(
    group="study",
    ins=_INS,
    kinds=TABLE_KINDS,
    partitions_def=PROTOCOL_PARTITIONS,
    deps=[study_trials],
    **_DEPENDS_ON,
)
def study_scores(
    context: dg.AssetExecutionContext,
    settings: SettingsParam,
    home: HomeResource,
    **tables: nw.LazyFrame,
) -> _Tables:
    """The scores of every model under each protocol, with the settings chosen on the protocol's validation split.

    `selected` is the model that won on the validation split. The protocols `top_n_random_80_20` and
    `top_n_leave_last_out` serve the leakage audit only and use the choices of `top_n`. A protocol that the data do not
    allow has no rows: for example, the data contain no published splits, or no user has enough ratings.

    Under the pipeline's own splits, models that depend on a seed are fitted with several seeds (`study.n_seeds`):
    `value` is the mean of their scores, `seed_sd` the standard deviation.
    """
    study = _study(context, tables, settings, home)
    of = shares(settings, tables["ratings"], tables["users"])
    made = {}
    for protocol in context.partition_keys:
        if study.is_possible(protocol):
            made[protocol] = lazy(marked(study.scores(protocol).scores, of))
        else:
            context.log.info(f"{protocol}: the data have no rows to score by")
            made[protocol] = _empty("study_scores")
    return made


@pipeline_asset(group="study", kinds=TABLE_KINDS, partitions_def=PROTOCOL_PARTITIONS, deps=[study_scores])
def user_scores(context: dg.AssetExecutionContext, home: HomeResource) -> _Tables:
    """Every metric of every model per user, on the user's own test rows, under each protocol.

    Each model has the seed of the settings, even if `study_scores` is a mean over several seeds.
    """
    return _kept(context, home.folders, "user_scores")


@pipeline_asset(group="study", kinds=TABLE_KINDS, partitions_def=PROTOCOL_PARTITIONS, deps=[study_scores])
def paired_tests(context: dg.AssetExecutionContext, home: HomeResource) -> _Tables:
    """Paired tests of every model against the baselines on the same users, under each protocol.

    The p-values are corrected for the number of tests. Each model has the seed of the settings, even if `study_scores`
    is a mean over several seeds.
    """
    return _kept(context, home.folders, "paired_tests")


def _kept(context: dg.AssetExecutionContext, home: Home, table: str) -> _Tables:
    """A table that was computed together with `study_scores`."""
    there = {protocol: newest_scores(home, protocol) for protocol in context.partition_keys}
    return {protocol: lazy(getattr(scores, table)) if scores else _empty(table) for protocol, scores in there.items()}


def newest_scores(home: Home, protocol: str) -> ProtocolScores | None:
    """The newest kept scores of a protocol; None if its partition of `study_scores` now has no rows.

    Older scores may still be kept then, from data that allowed the protocol.
    """
    store, asset = AssetStore(home.assets), ["study_scores"]
    is_scored = store.has(asset, protocol) and row_count(scan(store.current(asset, protocol))) > 0
    return KeptScores(home.study / "scores").newest(protocol) if is_scored else None


@pipeline_asset(group="study", kinds=TABLE_KINDS, deps=[study_scores])
def leakage_audit(home: HomeResource) -> nw.LazyFrame:
    """Optimism of random and leave-last-out splits: how much better a model scores there than under a cut in time.

    The cut in time is `time_cut` for rating models, `top_n` for ranking models, and `latest_rating_time_cut` for models
    of the latest rating and of the next item. The audit covers the protocols that have been scored. Without scores of
    the cut in time, the table has no rows.
    """
    protocols = [protocol for audited in LEAKAGE_AUDITS for protocol in audited]
    scored = [scores.scores for protocol in protocols if (scores := newest_scores(home.folders, protocol))]
    return lazy(audit(pl.concat(scored, how="diagonal"))) if scored else _empty("leakage_audit")


@pipeline_asset(
    group="study",
    ins=_INS,
    kinds=TABLE_KINDS | {"scikitlearn"},
    deps=[study_trials],
    **_DEPENDS_ON,
)
def segment_sweep(
    context: dg.AssetExecutionContext,
    settings: SettingsParam,
    home: HomeResource,
    **tables: nw.LazyFrame,
) -> nw.LazyFrame:
    """Perplexity, R² and next-item hits by number of segments, on the validation split of case study B's train users.

    All other settings are those that the trials chose for case study B.
    """
    swept = _study(context, tables, settings, home).segment_sweep()
    context.add_output_metadata(
        pictures("by number of segments", study_charts.segment_sweep, swept, settings.segments.n_segments)
    )
    return lazy(swept)


def assets_of(kind: DataKind) -> list[dg.AssetsDefinition]:
    """The assets of a study of a kind of data. Numbers of segments are compared by predicted latest ratings."""
    swept = [segment_sweep] if kind == RATINGS_WITH_TIMES else []
    parts = [published_folds, study_trials, tuned_settings, study_scores, user_scores, paired_tests, leakage_audit]
    return [*parts, *swept]


ASSETS = assets_of(RATINGS_WITH_TIMES)
