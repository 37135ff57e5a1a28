"""Study of one catalogue: for each protocol, chooses settings on its validation split and scores all models.

Trials and scores are stored in one folder and reused by the next study. Applying choices and storing tables belong in
`orchestration`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.data.splitting import Cut
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import FOLDS, LATEST_RATING_LEAKAGE_AUDIT, Tables
from recsys_assets.recommender.registry.fitting import Parameters, entry
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.tuning.scoring import KeptScores, ProtocolScores, Scoring, protocol_scores
from recsys_assets.recommender.tuning.searches import value_of, with_values
from recsys_assets.recommender.tuning.segment_sweep import SWEPT, segment_sweep
from recsys_assets.recommender.tuning.trials import Trials
from recsys_assets.recommender.tuning.tuning import SearchResult, Tried, Tuning, chosen, starting_point
from recsys_assets.recommender.tuning.validation_splits import (
    ValidationSplit,
    chosen_with,
    is_searched,
    validation_split,
)


@dataclass(frozen=True)
class Splits:
    """The split settings of the pipeline, which the protocols share.

    Attributes:
        cut: the cut in time.
        train_share: share of train users in case study B.
        seed: random seed of the splits.
    """

    cut: Cut = "auto"
    train_share: float = 0.7
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A study: its data, settings and folder.

    Attributes:
        tables: users, items, user_features, ratings; published_folds if the data have them.
        settings: parameters of all stages, by section.
        defaults: built-in parameters of all stages, by section; searches start from them.
        folder: folder of the trials and scores.
        code: versions of the libraries that trials and scores depend on.
        kind: kind of the data.
        splits: split settings of the pipeline.
        scoring: how scores are computed.
        budget: maximum number of candidates per search.
        seed: random seed of the splits and of the order of candidates.
        log: called with one line per trial and per model.
    """

    tables: Tables
    settings: Parameters
    defaults: Parameters
    folder: Path
    code: str
    kind: DataKind = RATINGS_WITH_TIMES
    splits: Splits = field(default_factory=Splits)
    scoring: Scoring = field(default_factory=Scoring)
    budget: int = 8
    seed: int = 0
    log: Callable[[str], None] = lambda _: None

    def is_possible(self, protocol: str) -> bool:
        """Whether the data have rows that the protocol can score."""
        if not protocols.exists_for(self.kind, protocol):
            return False
        folds = self.tables.get("published_folds")
        if protocol in FOLDS and (folds is None or row_count(folds.filter(nw.col("fold") == protocol)) == 0):
            return False
        scored_by = "test_responses" if protocol in LATEST_RATING_LEAKAGE_AUDIT else "test_ratings"
        return row_count(self._split(protocol)[scored_by]) > 0

    def found(self, protocol: str, searches: Collection[str] | None = None) -> list[SearchResult]:
        """Runs the searches of a protocol and returns their results.

        Args:
            protocol: one of `validation_splits.PROTOCOLS`.
            searches: names of the searches whose missing trials are made; None for all. All other searches, and all
                searches of a protocol without `validation_splits.is_searched`, decide from the stored trials.
        """
        name = chosen_with(protocol)
        tuning = Tuning(
            self._validation_split(name),
            settings=self.settings,
            defaults=self.defaults,
            trials=Trials(self.folder / "trials"),
            budget=self.budget,
            seed=self.seed,
            code=self.code,
            log=self.log,
        )
        return tuning.run(searches if is_searched(protocol) else ())

    def scores(self, protocol: str) -> ProtocolScores:
        """The scores of all models with the settings that the stored trials choose for the protocol."""
        return protocol_scores(
            protocol,
            self._split(protocol),
            self._chosen(protocol),
            self.scoring,
            kept=self.kept,
            code=self.code,
            log=self.log,
        )

    def segment_sweep(self) -> pl.DataFrame:
        """Table `segment_sweep`; all settings but the number of segments are chosen from the stored trials."""
        of = self._validation_split("latest_rating")
        parameters = self._chosen("latest_rating")
        sources = [
            SOURCES.code_of_model(entry(task, model), parameters, "tuning.segment_sweep")
            for task, models in SWEPT.items()
            for model in models
        ]
        depends_on = [of.fingerprint, parameters, sources, self.code, self.scoring.drawn]
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / "segment_sweeps" / f"{key}.parquet"
        if not path.exists():
            swept = segment_sweep(of, parameters, log=self.log, **self.scoring.drawn)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}-{os.getpid()}")
            swept.write_parquet(unfinished)
            unfinished.replace(path)
        return pl.read_parquet(path)

    def _chosen(self, protocol: str) -> Parameters:
        """All parameters, with the choices of the stored trials for the protocol."""
        return with_values(starting_point(self.settings, self.defaults), chosen(self.found(protocol, ())))

    def _validation_split(self, protocol: str) -> ValidationSplit:
        scale = Scale.of(self.settings)
        return validation_split(protocol, self._split(protocol), seed=self._seed_of_splits, scale=scale)

    @property
    def kept(self) -> KeptScores:
        """The stored scores."""
        return KeptScores(self.folder / "scores")

    @property
    def _seed_of_splits(self) -> int:
        # With the seed of the protocol's own split, the hash puts no training row into the validation rows.
        return self.splits.seed + 1 + self.seed

    def _split(self, protocol: str) -> Tables:
        how = self.splits
        return protocols.split(
            protocol,
            self.tables,
            seed=how.seed,
            cut=how.cut,
            train_share=how.train_share,
            scale=Scale.of(self.settings),
        )


def trials_table(found: Sequence[SearchResult]) -> pl.DataFrame:
    """Every candidate with its score: table `study_trials`."""
    rows = [
        {
            "validation_split": each.validation_split,
            "search": each.search.name,
            "trial": tried.trial.question.key,
            "model": tried.trial.question.model,
            "candidate": json.dumps(tried.candidate),
            "metric": each.search.objective.metric,
            "population": each.search.objective.population,
            "value": tried.value,
            "is_default": tried.is_default,
            **_improvement(tried),
            "is_chosen": tried is each.choice,
            "seconds": tried.trial.seconds,
            "refusal": tried.trial.refusal or None,
        }
        for each in found
        for tried in each.tried
    ]
    return pl.DataFrame(rows, schema=_TRIALS)


_TRIALS: dict[str, Any] = {
    **dict.fromkeys(("validation_split", "search", "trial", "model", "candidate", "metric", "population"), pl.String),
    **dict.fromkeys(("value", "improvement", "low", "high"), pl.Float64),
    "is_default": pl.Boolean,
    "is_chosen": pl.Boolean,
    "seconds": pl.Float64,
    "refusal": pl.String,
}


def choices_table(found: Sequence[SearchResult], defaults: Parameters) -> pl.DataFrame:
    """Every searched setting with its chosen value: table `tuned_settings`.

    Args:
        found: search results of the protocols of the pipeline.
        defaults: built-in parameters, by section.
    """
    rows = [
        {
            "setting": setting,
            "chosen": json.dumps(value),
            "default": json.dumps(value_of(defaults, setting)),
            "validation_split": each.validation_split,
            "search": each.search.name,
            "metric": each.search.objective.metric,
            "population": each.search.objective.population,
            "value": each.choice.value,
            "value_of_default": each.default and each.default.value,
            **_improvement(each.best_other),
            "trials": len(each.tried),
        }
        for each in found
        if each.choice
        for setting, value in each.choice.candidate.items()
    ]
    return pl.DataFrame(rows, schema=_CHOICES)


def _improvement(tried: Tried | None) -> dict[str, float | None]:
    value, low, high, _ = (tried and tried.improvement) or (None, None, None, None)
    return {"improvement": value, "low": low, "high": high}


_CHOICES: dict[str, Any] = {
    **dict.fromkeys(("setting", "chosen", "default", "validation_split", "search", "metric", "population"), pl.String),
    **dict.fromkeys(("value", "value_of_default", "improvement", "low", "high"), pl.Float64),
    "trials": pl.Int32,
}
