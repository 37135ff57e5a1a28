"""Carrying searches out on a slice: trials that are there are read, those that are missing are made, one is chosen.

What is searched is `searches`, where trials are kept `trials`. What is chosen for a home's settings is decided outside.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recsys_assets.recommender.evaluation.score_table import BASELINE
from recsys_assets.recommender.registry import Task
from recsys_assets.recommender.registry.fitting import ModelFitter, Parameters, entry, parameters_of
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.tuning.searches import KNOBS, SEARCHES, Knobs, Objective, Search, value_of, with_knobs
from recsys_assets.recommender.tuning.slices import Slice
from recsys_assets.recommender.tuning.trials import Question, Trial, Trials
from recsys_assets.recommender.tuning.validating import ValidationScores, validation_scores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CONFIDENCE = 0.95
# The fallback of models that do not predict every row, which protocols want to see.
_WITH_BASELINE: tuple[Task, ...] = ("time_cut", "latest_rating")
_SCORED_BY = "tuning.validating"


class Improvement(NamedTuple):
    """By how much a score is better than that of the built-in settings on the same users; positive is better.

    Attributes:
        value: the difference.
        low: lower end of its 95 % interval, which allows for how many candidates were tried.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tried:
    """A candidate of a search and its trial.

    Attributes:
        knobs: the values that were tried.
        trial: what came of them.
        value: the score by which is chosen; None where there is none.
        is_default: whether these are the built-in settings.
        improvement: over the built-in settings; None for these, and where one of the two has no score.
    """

    knobs: Knobs
    trial: Trial
    value: float | None
    is_default: bool
    improvement: Improvement | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found on a slice.

    Attributes:
        slice: name of the slice.
        search: what was searched.
        tried: the candidates of which there is a trial, the built-in settings first.
    """

    slice: str
    search: Search
    tried: Sequence[Tried]

    @property
    def default(self) -> Tried | None:
        """The built-in settings, if there is a trial of them."""
        return next((each for each in self.tried if each.is_default), None)

    @property
    def choice(self) -> Tried | None:
        """What is chosen: the built-in settings, unless others are surely better; None where nothing was tried.

        Surely is: the 95 % interval of the improvement lies above 0. The best of those is taken; where the built-in
        settings have no score, the best of all.
        """
        if self.default is None or self.default.value is None:
            return self._best(self.tried)
        return (
            self._best([each for each in self.tried if each.improvement and each.improvement.low > 0]) or self.default
        )

    @property
    def best_other(self) -> Tried | None:
        """The best candidate beside the built-in settings, whether it is surely better than these or not."""
        return self._best([each for each in self.tried if not each.is_default])

    def _best(self, among: Sequence[Tried]) -> Tried | None:
        """By value, the earlier one of equals."""
        scored = [tried for tried in among if tried.value is not None]
        sign = -1 if self.search.objective.higher else 1
        return min(scored, key=lambda tried: sign * (tried.value or 0.0), default=None)


class Tuning:
    """Searches on one slice.

    Args:
        of: the slice.
        settings: parameters of all stages by section. What is searched begins from the defaults instead.
        defaults: the same as they are built in.
        trials: where trials are kept.
        budget: candidates per search.
        seed: of the order of candidates.
        code: what trials depend on beside the package's own source: versions of libraries.
        spark: gives the Spark session; called when a model first needs one.
        scratch: folder for temporary files that the driver and the executors can reach.
        log: called with a line per trial.
    """

    def __init__(
        self,
        of: Slice,
        *,
        settings: Parameters,
        defaults: Parameters,
        trials: Trials,
        budget: int,
        seed: int,
        code: str,
        spark: "Callable[[], SparkSession]",
        scratch: Path,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._slice, self._trials, self._code, self._log = of, trials, code, log
        self._defaults, self._budget, self._seed = defaults, budget, seed
        self._parameters = starting_point(settings, defaults)
        self._spark, self._scratch = spark, scratch
        self._fitter: ModelFitter | None = None
        self._asked: list[Question] = []

    def run(self, searches: Collection[str] | None = None) -> list[SearchResult]:
        """Do these searches, by default all that apply; of the others, choose from the trials that are there."""
        return list(self._found(searches))

    def _found(self, searches: Collection[str] | None) -> Iterator[SearchResult]:
        for search in SEARCHES:
            if not search.applies(self._slice.name, self._slice.tasks):
                continue
            found = self._search(search, missing=searches is None or search.name in searches)
            if found.choice:
                self._parameters = with_knobs(self._parameters, found.choice.knobs)
            yield found

    def _search(self, search: Search, *, missing: bool) -> SearchResult:
        candidates = search.candidates(self._defaults, budget=self._budget, seed=self._seed)
        tried: list[Tried] = []
        default: Trial | None = None
        for number, knobs in enumerate(candidates, 1):
            parameters = with_knobs(self._parameters, knobs)
            known = self._trials.get(self._question(search, knobs, parameters))
            if known is None and not missing:
                continue
            trial = known or self.trial(search, knobs, parameters)
            if number == 1:
                default = trial
            tried.append(_judged(search.objective, knobs, trial, default, len(candidates) - 1))
            if known is None:
                self._log(f"{self._slice.name}, {search.name} {number} of {len(candidates)}: {_shown(tried[-1])}")
            if tried[0].value is None and not trial.refusal:
                # The slice has no row of that population, say: no candidate will have a score.
                break
        return SearchResult(self._slice.name, search, tried)

    def trial(self, search: Search, knobs: Knobs, parameters: Parameters) -> Trial:
        """The trial of a candidate: the one that is there, or a new one, which is kept.

        Args:
            search: tells the model.
            knobs: the values that are tried.
            parameters: of all stages by section, these values included.
        """
        question = self._question(search, knobs, parameters)
        self._asked.append(question)
        trial = self._trials.get(question)
        if trial is None:
            trial = self._try(question, parameters)
            self._trials.add(trial)
        return trial

    def forget_others(self) -> None:
        """Remove the slice's trials that were not asked for: they are of other ratings, settings or code."""
        self._trials.keep(self._slice.name, self._asked)

    def _question(self, search: Search, knobs: Knobs, parameters: Parameters) -> Question:
        model = search.model_of(knobs)
        used = parameters_of(entry(search.task, model), parameters)
        fitted = {model, BASELINE} if search.task in _WITH_BASELINE else {model}
        sources = [SOURCES.code_of_model(entry(search.task, name), parameters, _SCORED_BY) for name in sorted(fitted)]
        code = "; ".join([*sources, self._code])
        return Question(self._slice.name, self._slice.fingerprint, search.task, model, used, code)

    def _try(self, question: Question, parameters: Parameters) -> Trial:
        began = perf_counter()
        refusal = ""
        reached = ValidationScores({}, {})
        try:
            reached = self._scores(question.task, question.model, parameters)
        except ValueError as error:
            # A catalogue too large for a method, say: the candidate is out, the study goes on.
            refusal = str(error)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        seconds = round(perf_counter() - began, 2)
        return Trial(question, reached.scores, seconds, when, refusal, reached.resampled)

    def _scores(self, task: Task, model: str, parameters: Parameters) -> ValidationScores:
        names = {model, BASELINE} if task in _WITH_BASELINE else {model}
        fitted = self._fitted(parameters)
        entries = [entry(task, name) for name in sorted(names)]
        predictions = {each: fitted.predictions(each) for each in entries}
        judged_by = {search.objective.metric for search in SEARCHES}
        return validation_scores(task, self._slice.tables, predictions, model=model, judged_by=judged_by)

    def _fitted(self, parameters: Parameters) -> ModelFitter:
        """The models with these parameters; what the last trial fitted alike is taken over."""
        if self._fitter is None:
            self._fitter = ModelFitter(self._slice.tables, parameters, spark=self._spark, scratch=self._scratch)
        self._fitter = self._fitter.with_parameters(parameters)
        return self._fitter


def starting_point(settings: Parameters, defaults: Parameters) -> Parameters:
    """The settings, with what is searched as it is built in: a study must not start from what an earlier one chose."""
    return with_knobs(settings, {knob: value_of(defaults, knob) for knob in KNOBS})


def chosen(found: Sequence[SearchResult]) -> dict[str, Any]:
    """The value that was chosen for every knob that was searched; the latest search of a knob decides."""
    return {knob: value for each in found if each.choice for knob, value in each.choice.knobs.items()}


def improvement(better: np.ndarray, *, n_others: int) -> Improvement:
    """By how much a candidate is better, with an interval that allows for how many were tried.

    That of a normal distribution with the deviation over resamples, so wide that of all candidates that are no better,
    none is chosen in 95 % of the cases (Bonferroni).

    Args:
        better: for the users as they are, then for resamples of them; above 0 is better.
        n_others: candidates of the search beside the built-in settings, at least 1.
    """
    gain, resampled = float(better[0]), better[1:][np.isfinite(better[1:])]
    deviation = float(np.std(resampled)) if len(resampled) else 0.0
    reach = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / 2 / n_others) * deviation
    return Improvement(gain, gain - reach, gain + reach)


def _judged(objective: Objective, knobs: Knobs, trial: Trial, default: Trial | None, n_others: int) -> Tried:
    """A trial by the score of the search, held against that of the built-in settings, where there is one."""
    place = (objective.metric, objective.population)
    value = trial.score(*place)
    of_default = default.score(*place) if default else None
    if default is None or trial is default or value is None or of_default is None:
        return Tried(knobs, trial, value, is_default=trial is default)
    sign = 1 if objective.higher else -1
    own, other = (
        np.array([score, *each.resampled_score(*place)]) for score, each in ((value, trial), (of_default, default))
    )
    return Tried(knobs, trial, value, False, improvement(sign * (own - other), n_others=n_others))


def _shown(tried: Tried) -> str:
    text = ", ".join(f"{knob} {setting}" for knob, setting in tried.knobs.items())
    if tried.value is None:
        return f"{text} → {tried.trial.refusal or 'no score'}"
    better = tried.improvement
    by = f", better by {better.value:+.4f} ({better.low:+.4f} to {better.high:+.4f})" if better else ""
    return f"{text} → {tried.value:.4f}{by}"
