"""A study of one catalogue: for each protocol, what is chosen on its validation slice, and the scores of all models.

Everything that was tried and scored is kept in one folder and read from there the next time. What becomes of what was
chosen, and where tables are stored, is not known here.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.data.splitting import Cut
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import FOLDS, LATEST_RATING_LEAKAGE_AUDIT, Tables
from recsys_assets.recommender.registry.fitting import Parameters, entry
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.tuning.scoring import KeptScores, ProtocolScores, Scoring, protocol_scores
from recsys_assets.recommender.tuning.searches import value_of, with_knobs
from recsys_assets.recommender.tuning.segment_sweep import SWEPT, segment_sweep
from recsys_assets.recommender.tuning.slices import Slice, chosen_with, is_searched, validation_slice
from recsys_assets.recommender.tuning.trials import Trials
from recsys_assets.recommender.tuning.tuning import SearchResult, Tried, Tuning, chosen, starting_point

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Splits:
    """How the pipeline itself splits, which the protocols follow.

    Attributes:
        cut: where training ends in time.
        train_share: share of the users that train in case study B.
        seed: of what is drawn.
    """

    cut: Cut = "auto"
    train_share: float = 0.7
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """What choosing and scoring need.

    Attributes:
        tables: users, movies, user_features, ratings; published_folds where the data came with some.
        settings: parameters of all stages by section.
        defaults: the same as they are built in: where searches begin.
        folder: where trials and scores are kept.
        code: what trials and scores depend on beside the package's own source: versions of libraries.
        spark: gives the Spark session; called when a model first needs one.
        scratch: folder for temporary files that the driver and the executors can reach.
        splits: how the pipeline splits.
        scoring: how scores are computed.
        budget: candidates per search.
        seed: of slices and of the order of candidates.
        log: called with a line per trial and per model.
    """

    tables: Tables
    settings: Parameters
    defaults: Parameters
    folder: Path
    code: str
    spark: "Callable[[], SparkSession]"
    scratch: Path
    splits: Splits = field(default_factory=Splits)
    scoring: Scoring = field(default_factory=Scoring)
    budget: int = 8
    seed: int = 0
    log: Callable[[str], None] = lambda _: None

    def is_possible(self, protocol: str) -> bool:
        """Whether the data have rows that the protocol scores by."""
        folds = self.tables.get("published_folds")
        if protocol in FOLDS and (folds is None or row_count(folds.filter(nw.col("fold") == protocol)) == 0):
            return False
        scored_by = "test_responses" if protocol in LATEST_RATING_LEAKAGE_AUDIT else "test_ratings"
        return row_count(self._split(protocol)[scored_by]) > 0

    def found(self, protocol: str, searches: Collection[str] | None = None) -> list[SearchResult]:
        """What is chosen for a protocol.

        Args:
            protocol: one of `slices.PROTOCOLS`.
            searches: those whose missing trials are made, by default all; none: what is there decides, as it always
                does where `slices.is_searched` says no.
        """
        name = chosen_with(protocol)
        tuning = Tuning(
            self._slice(name),
            settings=self.settings,
            defaults=self.defaults,
            trials=Trials(self.folder / "trials"),
            budget=self.budget,
            seed=self.seed,
            code=self.code,
            spark=self.spark,
            scratch=self.scratch,
            log=self.log,
        )
        return tuning.run(searches if is_searched(protocol) else ())

    def scores(self, protocol: str) -> ProtocolScores:
        """The scores of all models with what the trials that are there choose for the protocol."""
        return protocol_scores(
            protocol,
            self._split(protocol),
            self._chosen(protocol),
            self.scoring,
            kept=self.kept,
            code=self.code,
            spark=self.spark,
            scratch=self.scratch,
            log=self.log,
        )

    def segment_sweep(self) -> pl.DataFrame:
        """Table `segment_sweep`, with what the trials that are there choose beside the number of segments."""
        of = self._slice("latest_rating")
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
            swept = segment_sweep(
                of, parameters, spark=self.spark, scratch=self.scratch, log=self.log, **self.scoring.drawn
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}-{os.getpid()}")
            swept.write_parquet(unfinished)
            unfinished.replace(path)
        return pl.read_parquet(path)

    def _chosen(self, protocol: str) -> Parameters:
        """All parameters, with what the trials that are there choose for the protocol."""
        return with_knobs(starting_point(self.settings, self.defaults), chosen(self.found(protocol, ())))

    def _slice(self, protocol: str) -> Slice:
        return validation_slice(protocol, self._split(protocol), seed=self._seed_of_slices)

    @property
    def kept(self) -> KeptScores:
        """The scores that are there."""
        return KeptScores(self.folder / "scores")

    @property
    def _seed_of_slices(self) -> int:
        # With the seed of the protocol's own split, a hash would put no training row into the slice.
        return self.splits.seed + 1 + self.seed

    def _split(self, protocol: str) -> Tables:
        how = self.splits
        return protocols.split(protocol, self.tables, seed=how.seed, cut=how.cut, train_share=how.train_share)


def trials_table(found: Sequence[SearchResult]) -> pl.DataFrame:
    """Every candidate with its score: table `study_trials`."""
    rows = [
        {
            "slice": each.slice,
            "search": each.search.name,
            "trial": tried.trial.question.key,
            "model": tried.trial.question.model,
            "candidate": json.dumps(tried.knobs),
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
    **dict.fromkeys(("slice", "search", "trial", "model", "candidate", "metric", "population"), pl.String),
    **dict.fromkeys(("value", "improvement", "low", "high"), pl.Float64),
    "is_default": pl.Boolean,
    "is_chosen": pl.Boolean,
    "seconds": pl.Float64,
    "refusal": pl.String,
}


def choices_table(found: Sequence[SearchResult], defaults: Parameters) -> pl.DataFrame:
    """Every knob with what was chosen for it: table `studied_settings`.

    Args:
        found: of the pipeline's own protocols.
        defaults: by section.
    """
    rows = [
        {
            "knob": knob,
            "chosen": json.dumps(value),
            "default": json.dumps(value_of(defaults, knob)),
            "slice": each.slice,
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
        for knob, value in each.choice.knobs.items()
    ]
    return pl.DataFrame(rows, schema=_CHOICES)


def _improvement(tried: Tried | None) -> dict[str, float | None]:
    value, low, high = (tried and tried.improvement) or (None, None, None)
    return {"improvement": value, "low": low, "high": high}


_CHOICES: dict[str, Any] = {
    **dict.fromkeys(("knob", "chosen", "default", "slice", "search", "metric", "population"), pl.String),
    **dict.fromkeys(("value", "value_of_default", "improvement", "low", "high"), pl.Float64),
    "trials": pl.Int32,
}
