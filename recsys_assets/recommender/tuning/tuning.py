"""Runs searches on a validation split: reads stored trials, makes missing ones and chooses a candidate.

The grids belong in `searches`, the storage in `trials`. Applying a choice to the settings of a home belongs in
`orchestration`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import NormalDist
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.evaluation.score_table import BASELINE
from recsys_assets.recommender.registry import Task
from recsys_assets.recommender.registry.fitting import ModelFitter, Parameters, entry, parameters_of
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.tuning.searches import (
    SEARCHES,
    TUNED,
    Candidate,
    Objective,
    Search,
    value_of,
    with_values,
)
from recsys_assets.recommender.tuning.trials import Question, Trial, Trials
from recsys_assets.recommender.tuning.validating import ValidationScores, validation_scores
from recsys_assets.recommender.tuning.validation_splits import ValidationSplit

_CONFIDENCE = 0.95
# Tasks whose protocols require the predictions of the item mean, the fallback for missing predictions.
_WITH_BASELINE: tuple[Task, ...] = ("time_cut", "latest_rating")
_SCORED_BY = "tuning.validating"


class Improvement(NamedTuple):
    """Improvement of a score over the built-in settings on the same users; positive is better.

    Attributes:
        value: the difference.
        low: lower end of its 95 % confidence interval, corrected for the number of candidates.
        high: upper end of the interval.
        error: standard error of the difference.
    """

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Tried:
    """A candidate of a search and its trial.

    Attributes:
        candidate: values of the candidate, by setting.
        trial: the trial of the candidate.
        value: the deciding score; None if it is undefined.
        is_default: whether the candidate is the built-in settings.
        improvement: improvement over the built-in settings; None for the built-in settings themselves, and if one of
            the two has no score.
    """

    candidate: Candidate
    trial: Trial
    value: float | None
    is_default: bool
    improvement: Improvement | None = None


@dataclass(frozen=True)
class SearchResult:
    """The result of a search on a split.

    Attributes:
        validation_split: name of the split.
        search: the search.
        tried: the candidates with a trial, the built-in settings first.
        least_errors: least improvement over the built-in settings, in standard errors, for a candidate that decides by
            a personal model; see `Entry.is_personal`. Other candidates, and all candidates with None, need a 95 %
            confidence interval above 0, corrected for the number of candidates.
    """

    validation_split: str
    search: Search
    tried: Sequence[Tried]
    least_errors: float | None = None

    @property
    def default(self) -> Tried | None:
        """The built-in settings, or None without a trial of them."""
        return next((each for each in self.tried if each.is_default), None)

    @property
    def choice(self) -> Tried | None:
        """The chosen candidate, or None if no candidate has a score.

        It is the best candidate that is better than the built-in settings as `least_errors` says, otherwise the
        built-in settings. If the built-in settings have no score, it is the best candidate.
        """
        if self.default is None or self.default.value is None:
            return self._best(self.tried)
        return self._best([each for each in self.tried if self._is_better(each)]) or self.default

    def _is_better(self, tried: Tried) -> bool:
        by = tried.improvement
        if by is None:
            return False
        if self.least_errors is None or not entry(self.search.task, self.search.model_of(tried.candidate)).is_personal:
            return by.low > 0
        return by.value > self.least_errors * by.error

    @property
    def best_other(self) -> Tried | None:
        """The best candidate other than the built-in settings, even if it is not significantly better."""
        return self._best([each for each in self.tried if not each.is_default])

    def _best(self, among: Sequence[Tried]) -> Tried | None:
        """The candidate with the best score; the first one of equals."""
        scored = [tried for tried in among if tried.value is not None]
        sign = -1 if self.search.objective.higher else 1
        return min(scored, key=lambda tried: sign * (tried.value or 0.0), default=None)


class Tuning:
    """Searches on one split.

    Args:
        of: the split.
        settings: parameters of all stages, by section. Searched settings start from `defaults` instead.
        defaults: built-in parameters of all stages, by section.
        trials: store of the trials.
        budget: maximum number of candidates per search.
        seed: random seed of the order of candidates.
        code: versions of the libraries that trials depend on.
        log: called with one line per trial.
    """

    def __init__(
        self,
        of: ValidationSplit,
        *,
        settings: Parameters,
        defaults: Parameters,
        trials: Trials,
        budget: int,
        seed: int,
        code: str,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._split, self._trials, self._code, self._log = of, trials, code, log
        self._defaults, self._budget, self._seed = defaults, budget, seed
        self._parameters = starting_point(settings, defaults)
        self._fitter: ModelFitter | None = None
        self._asked: list[Question] = []

    @property
    def kind(self) -> DataKind:
        """Kind of the data of the split."""
        return self._split.kind

    def run(self, searches: Collection[str] | None = None) -> list[SearchResult]:
        """Runs these searches (None for all that apply); all other searches choose from the stored trials."""
        return list(self._found(searches))

    def _found(self, searches: Collection[str] | None) -> Iterator[SearchResult]:
        for search in SEARCHES:
            if not search.applies(self._split.name, self._split.tasks):
                continue
            found = self._search(search, missing=searches is None or search.name in searches)
            if found.choice:
                self._parameters = with_values(self._parameters, found.choice.candidate)
            yield found

    def _search(self, search: Search, *, missing: bool) -> SearchResult:
        candidates = search.candidates(self._defaults, budget=self._budget, seed=self._seed, kind=self.kind)
        tried: list[Tried] = []
        default: Trial | None = None
        for number, candidate in enumerate(candidates, 1):
            parameters = with_values(self._parameters, candidate)
            known = self._trials.get(self._question(search, candidate, parameters))
            if known is None and not missing:
                continue
            trial = known or self.trial(search, candidate, parameters)
            if number == 1:
                default = trial
            tried.append(_judged(search.objective, candidate, trial, default, len(candidates) - 1))
            if known is None:
                self._log(f"{self._split.name}, {search.name} {number} of {len(candidates)}: {_shown(tried[-1])}")
            if tried[0].value is None and not trial.refusal:
                # The split has, for example, no row of the population: no candidate will have a score.
                break
        return SearchResult(self._split.name, search, tried)

    def trial(self, search: Search, candidate: Candidate, parameters: Parameters) -> Trial:
        """Returns the stored trial of a candidate, or makes and stores it.

        Args:
            search: the search.
            candidate: values of the candidate, by setting.
            parameters: settings of all stages, by section, including the candidate's values.
        """
        question = self._question(search, candidate, parameters)
        self._asked.append(question)
        trial = self._trials.get(question)
        if trial is None:
            trial = self._try(question, parameters)
            self._trials.add(trial)
        return trial

    def forget_others(self) -> None:
        """Removes trials of the split that were not requested: their ratings, settings or code have changed."""
        self._trials.keep(self._split.name, self._asked)

    def _question(self, search: Search, candidate: Candidate, parameters: Parameters) -> Question:
        model = search.model_of(candidate)
        used = parameters_of(entry(search.task, model), parameters)
        fitted = {model, BASELINE} if search.task in _WITH_BASELINE else {model}
        sources = [SOURCES.code_of_model(entry(search.task, name), parameters, _SCORED_BY) for name in sorted(fitted)]
        code = "; ".join([*sources, self._code, str(Scale.of(parameters))])
        return Question(self._split.name, self._split.fingerprint, search.task, model, used, code)

    def _try(self, question: Question, parameters: Parameters) -> Trial:
        began = perf_counter()
        refusal = ""
        reached = ValidationScores({}, {})
        try:
            reached = self._scores(question.task, question.model, parameters)
        except ValueError as error:
            # For example, the catalogue is too large for a method: the study continues without the candidate.
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
        return validation_scores(task, self._split.tables, predictions, model=model, judged_by=judged_by)

    def _fitted(self, parameters: Parameters) -> ModelFitter:
        """The model fitter with these parameters; it reuses models that the last trial fitted in the same way."""
        if self._fitter is None:
            self._fitter = ModelFitter(self._split.tables, parameters)
        self._fitter = self._fitter.with_parameters(parameters)
        return self._fitter


def starting_point(settings: Parameters, defaults: Parameters) -> Parameters:
    """The settings with built-in values for all searched settings, so that a study ignores earlier choices."""
    return with_values(settings, {setting: value_of(defaults, setting) for setting in TUNED})


def chosen(found: Sequence[SearchResult]) -> dict[str, Any]:
    """The chosen value of every searched setting; the last search of a setting decides."""
    return {setting: value for each in found if each.choice for setting, value in each.choice.candidate.items()}


def improvement(better: np.ndarray, *, n_others: int) -> Improvement:
    """The improvement of a candidate, with a confidence interval corrected for the number of candidates.

    The interval is normal, with the standard deviation over resamples. Bonferroni's correction makes it so wide that
    in 95 % of all searches without a better candidate, none is chosen.

    Args:
        better: improvement for the users, then for the resamples, shape (1 + n_resamples,); above 0 is better.
        n_others: number of candidates other than the built-in settings, at least 1.
    """
    gain, resampled = float(better[0]), better[1:][np.isfinite(better[1:])]
    deviation = float(np.std(resampled)) if len(resampled) else 0.0
    reach = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / 2 / n_others) * deviation
    return Improvement(gain, gain - reach, gain + reach, deviation)


def _judged(objective: Objective, candidate: Candidate, trial: Trial, default: Trial | None, n_others: int) -> Tried:
    """The deciding score of a trial, and its improvement over the built-in settings if both have a score."""
    place = (objective.metric, objective.population)
    value = trial.score(*place)
    of_default = default.score(*place) if default else None
    if default is None or trial is default or value is None or of_default is None:
        return Tried(candidate, trial, value, is_default=trial is default)
    sign = 1 if objective.higher else -1
    own, other = (
        np.array([score, *each.resampled_score(*place)]) for score, each in ((value, trial), (of_default, default))
    )
    return Tried(candidate, trial, value, False, improvement(sign * (own - other), n_others=n_others))


def _shown(tried: Tried) -> str:
    text = ", ".join(f"{setting} {value}" for setting, value in tried.candidate.items())
    if tried.value is None:
        return f"{text} → {tried.trial.refusal or 'no score'}"
    better = tried.improvement
    by = f", better by {better.value:+.4f} ({better.low:+.4f} to {better.high:+.4f})" if better else ""
    return f"{text} → {tried.value:.4f}{by}"
