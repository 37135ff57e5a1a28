"""The gate: decides whether a newly trained configuration replaces the configuration in use.

It holds configurations, paired comparisons of models on the same test rows, and the verdict. The record of promotions
belongs in `home`, fitting in `registry.fitting`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import narwhals as nw
import numpy as np

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates
from recsys_assets.recommender.evaluation.metrics import RankingMetrics
from recsys_assets.recommender.evaluation.result import difference
from recsys_assets.recommender.evaluation.rows import ScoredRows
from recsys_assets.recommender.evaluation.score_table import DECIDING
from recsys_assets.recommender.registry import Entry, Parameters, Task
from recsys_assets.recommender.registry.fitting import DEFAULTS, entry, parameters_of

Verdict = Literal["promoted", "kept", "rolled back"]
_FILE = "configuration.json"
_LISTS: Task = "top_n"
GATE_BASELINE = entry(_LISTS, "popularity")
_LIST_LENGTH = 10
# Normal quantiles: half-width of a 95 % confidence interval, and the effect detected with 80 % power, in standard
# errors.
_Z = 1.96
_DETECTABLE = _Z + 0.84
# Once the configuration in use has lost ground, new lists must be above the best ever promoted by this many standard
# errors. With 0, one of many worse lists soon scores above it by chance.
_LEAST_ABOVE = 1.0


@dataclass(frozen=True)
class Part:
    """One model of a configuration, with every setting that its predictions depend on.

    Attributes:
        model: name in the score tables.
        settings: parameters by section, including seeds; as they were stored.
    """

    model: str
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def all_settings(self) -> dict[str, dict[str, Any]]:
        """The settings, and the defaults of all that the part does not name, such as those of a later version."""
        sections = {**DEFAULTS, **self.settings}
        return {section: {**DEFAULTS.get(section, {}), **self.settings.get(section, {})} for section in sections}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Part):
            return NotImplemented
        return (self.model, self.all_settings) == (other.model, other.all_settings)

    def can_be_fitted(self, task: Task) -> bool:
        """Whether this version of the package still has the model and all its stored settings.

        Args:
            task: task of the model.
        """
        try:
            # The values are needed too: the set of settings that a model depends on can follow from their values.
            used = parameters_of(entry(task, self.model), self.all_settings)
        except ValueError:
            return False
        return all(
            name in used.get(section, {}) and name in DEFAULTS[section]
            for section, values in self.settings.items()
            for name in values
        )


@dataclass(frozen=True)
class Configuration:
    """A rating model and a ranking model with their settings; the ranking model is served.

    Attributes:
        rating: the rating model, scored under `time_cut`; None for events.
        ranking: the ranking model, scored under `top_n`.
    """

    rating: Part | None
    ranking: Part

    @classmethod
    def of(cls, parameters: Parameters, *, rating_model: str | None, ranking_model: str) -> "Configuration":
        """The configuration with the named models and these parameters (by section)."""

        def part(task: Task, name: str) -> Part:
            model = entry(task, name)
            return Part(model.name, parameters_of(model, parameters))

        return cls(part("time_cut", rating_model) if rating_model else None, part(_LISTS, ranking_model))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Configuration":
        """The configuration from the output of `content`."""
        rating = content["rating"]
        return cls(Part(**rating) if rating is not None else None, Part(**content["ranking"]))

    @property
    def content(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return asdict(self)

    @property
    def parts(self) -> dict[Task, Part]:
        """The parts by task."""
        rating: dict[Task, Part] = {} if self.rating is None else {"time_cut": self.rating}
        return {**rating, _LISTS: self.ranking}

    @property
    def models(self) -> str:
        """Names of the models, for people."""
        return ", ".join(part.model for part in self.parts.values())

    @property
    def entry(self) -> Entry:
        """The registry's entry of the ranking model.

        Raises:
            ValueError: the registry no longer has the model.
        """
        return entry(_LISTS, self.ranking.model)

    @property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """The settings of the parts, by section."""
        return {section: values for part in self.parts.values() for section, values in part.settings.items()}

    @property
    def name(self) -> str:
        """Hash of the models and settings, 8 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:8]

    def save(self, folder: Path) -> None:
        """Write configuration.json."""
        (folder / _FILE).write_text(json.dumps(self.content, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "Configuration":
        """Read what `save` wrote."""
        return cls.from_dict(json.loads((folder / _FILE).read_text()))


@dataclass(frozen=True)
class Comparison:
    """A paired bootstrap comparison of two models on the same test rows.

    Attributes:
        metric: name of the metric; higher is better.
        model: name of the candidate's model.
        score: score of the candidate.
        opponent: the baseline, or the model and configuration in use.
        opponent_score: score of the opponent.
        difference: score - opponent_score.
        low: lower end of the 95 % confidence interval of the difference (paired bootstrap over users).
        high: upper end of the interval of the difference.
        score_low: lower end of the 95 % confidence interval of the score; NaN in records made before version 0.4.
        score_high: upper end of the interval of the score.
    """

    metric: str
    model: str
    score: float
    opponent: str
    opponent_score: float
    difference: float
    low: float
    high: float
    score_low: float = math.nan
    score_high: float = math.nan

    @property
    def decides(self) -> bool:
        """Whether the comparison counts for the verdict.

        It does not if the two models have the same score for every user. Versions before 0.9 also recorded comparisons
        of rating models, which never counted.
        """
        return self.metric == DECIDING and (self.low, self.difference, self.high) != (0, 0, 0)

    @property
    def is_lost(self) -> bool:
        """Whether the whole confidence interval of the difference lies below zero."""
        return self.decides and self.high < 0

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return (self.high - self.low) / (2 * _Z)

    @property
    def is_above(self) -> bool:
        """Whether the difference is at least one standard error, or the lists are the same."""
        return not self.decides or self.difference >= _LEAST_ABOVE * self.error

    @property
    def power(self) -> str:
        """The largest loss that passes and the loss detected with 80 % power, in words."""
        margin, found = self.high - self.difference, _DETECTABLE * self.error
        return f"a loss of up to {margin:.4f} passes, one of {found:.4f} is found in 4 of 5 cases"

    def __str__(self) -> str:
        numbers = f"{self.score:.4f} against {self.opponent_score:.4f}"
        return f"{self.metric} {numbers} of {self.opponent} (difference {self.low:+.4f} to {self.high:+.4f})"


def _named(configuration: Configuration) -> str:
    return f"{configuration.ranking.model} {configuration.name}"


class Comparisons:
    """Compares the lists of models on the test rows by NDCG at 10.

    Args:
        test_ratings: table ratings.
        lowest_relevant: lowest rating of a relevant item.
        seed: random seed of ties and bootstrap.
        n_resamples: number of bootstrap resamples.
    """

    def __init__(self, test_ratings: nw.LazyFrame, *, lowest_relevant: float, seed: int, n_resamples: int) -> None:
        self._seed, self._n_resamples = seed, n_resamples
        rows = to_polars(test_ratings, "user", "item", "rating")
        self._relevant = ScoredRows.of(rows.filter(rows["rating"] >= lowest_relevant), seed=seed)

    def scored(self, model: str, ranks: nw.LazyFrame) -> UserMetric:
        """NDCG at 10 of each user.

        Args:
            model: name of the model.
            ranks: user, item, rank; its predictions.
        """
        scores = RankingMetrics(self._relevant, _LIST_LENGTH).of_ranks(self._relevant.ranks_of(model, ranks))
        return next(score for score in scores if score.name == DECIDING)

    def between(self, model: str, metric: UserMetric, opponent: str, opponent_metric: UserMetric) -> Comparison | None:
        """The comparison of two models; None if a score is undefined, such as NDCG without a relevant item.

        Args:
            model: name of the candidate's model.
            metric: output of `scored` for the candidate.
            opponent: name of the baseline, or the model and configuration of the opponent.
            opponent_metric: output of `scored` for the opponent.
        """
        paired = difference(metric, opponent_metric, "difference")
        everyone = np.ones(len(metric.parts[0]), dtype=bool)
        own, theirs, gap = estimates(
            [metric, opponent_metric, paired], everyone, seed=self._seed, n_resamples=self._n_resamples
        )
        if own is None or theirs is None or gap is None:
            return None
        return Comparison(
            metric.name,
            model,
            own.value,
            opponent,
            theirs.value,
            gap.value,
            gap.low,
            gap.high,
            score_low=own.low,
            score_high=own.high,
        )


@dataclass(frozen=True)
class Decision:
    """The configuration to use from now on, and the reason.

    Attributes:
        verdict: `promoted` (the candidate), `kept` (the configuration in use) or `rolled back` (a configuration that
            a person chose).
        reason: the reason, in words.
    """

    verdict: Verdict
    reason: str


def decide(
    candidate: Configuration,
    current: Configuration | None,
    *,
    baseline: Sequence[Comparison],
    champion: Sequence[Comparison],
    best: Sequence[Comparison] = (),
    withdrawn: Collection[Part] = (),
    outdated: Collection[str] = (),
    undefined: Collection[str] = (),
) -> Decision:
    """Decides whether the candidate replaces the configuration in use, by the scores of lists alone.

    The candidate is promoted if it beats popularity, is not significantly worse than the configuration in use, and is
    one standard error above the best configuration ever promoted, if that is not in use. docs/decisions/promotion.md
    gives the reasons and the cases without a comparison.

    Args:
        candidate: the newly trained configuration.
        current: the configuration in use; None for the first configuration.
        baseline: comparison with popularity; none if the test ratings do not define the metric.
        champion: comparisons with the configuration in use.
        best: comparisons with the best configuration ever promoted, if that is not the configuration in use.
        withdrawn: ranking models, with their settings, that a person rolled back from.
        outdated: ranking models in use that this version of the package cannot fit, so that nothing was compared.
        undefined: metrics of lists that the test ratings do not define.
    """
    lost = [str(contest) for contest in baseline if contest.decides and contest.difference <= 0]
    worse = [f"{contest}; {contest.power}" for contest in champion if contest.is_lost]
    below = [f"{contest}; the settings in use have lost the margin already" for contest in best if not contest.is_above]
    unknown = f"the test ratings do not define {' and '.join(undefined)}" if undefined else ""
    doubts = [*([f"they do not beat the baseline: {'; '.join(lost)}"] if lost else []), *filter(None, [unknown])]
    but = f", but {', and '.join(doubts)}." if doubts else ", and they beat the baseline."
    if current is None:
        return Decision("promoted", f"These are the first settings{but}")
    if outdated:
        why = f"{' and '.join(outdated)} in use is of another version of this package and cannot be fitted any more"
        return Decision("promoted", f"{why}; the new settings are used{but}")
    if candidate == current:
        return Decision("kept", f"The settings are those in use{but}")
    if candidate.ranking in withdrawn:
        return Decision("kept", "These settings were rolled back from; to use them again, roll back to them.")
    if undefined:
        return Decision("promoted", f"The new settings are used without a comparison, because {unknown}.")
    if lost:
        return Decision("kept", f"The new settings do not beat the baseline: {'; '.join(lost)}.")
    if worse:
        return Decision("kept", f"The new settings are worse than those in use: {'; '.join(worse)}.")
    if below:
        return Decision("kept", f"The new settings are not clearly above the best ever promoted: {'; '.join(below)}.")
    compared = [f"{contest}; {contest.power}" if contest.decides else str(contest) for contest in champion]
    told = f", and are not worse than those in use: {'; '.join(compared)}" if compared else ""
    level = f", and are above the best ever promoted: {'; '.join(map(str, best))}" if best else ""
    return Decision("promoted", f"The new settings beat the baseline{told}{level}.")


def best_of(decisions: Iterable[tuple[Verdict, Configuration, Sequence[Comparison]]]) -> Configuration | None:
    """The best configuration that was ever in use, from all decisions in order; None if there was none.

    It is the first promoted configuration, or the last one that a person rolled back to. A later configuration
    replaces it only if the whole confidence interval of their difference lies above zero. A higher score alone is not
    enough: then a series of small losses, each within the interval, could pass the gate. Users see lists only, so a
    comparison with the ranking model of the best configuration counts, whatever rating model was beside it.
    """
    best = None
    rankings: dict[str, Part] = {}
    for verdict, configuration, contests in decisions:
        rankings[_named(configuration)] = configuration.ranking
        if verdict == "kept":
            continue
        better = best and any(
            each.decides and each.low > 0 and rankings.get(each.opponent) == best.ranking for each in contests
        )
        if best is None or verdict == "rolled back" or better:
            best = configuration
    return best


# From the configuration of a model and its entry to the ranks of the test rows.
Predict = Callable[[Configuration, Entry], nw.LazyFrame]


def gate(
    candidate: Configuration,
    current: Configuration | None,
    train_ratings: nw.LazyFrame,
    test_ratings: nw.LazyFrame,
    *,
    predict: Predict,
    best: Configuration | None = None,
    withdrawn: Collection[Part],
    seed: int,
    n_resamples: int,
) -> tuple[Decision, list[Comparison]]:
    """Compares the candidate with popularity, the configuration in use and the best one ever promoted, and decides.

    Args:
        candidate: the newly trained configuration.
        current: the configuration in use; None for the first configuration.
        train_ratings: table ratings; the training rows.
        test_ratings: table ratings.
        predict: returns the ranks that a model with the settings of a configuration gives to the test rows, fitted on
            the present training rows. Earlier ranks of the configuration in use are useless, because new ratings
            change the test rows. Called for another configuration only if a comparison with it can decide.
        best: the best configuration ever promoted, from `best_of`.
        withdrawn: ranking models, with their settings, that a person rolled back from.
        seed: random seed of ties and bootstrap.
        n_resamples: number of bootstrap resamples.

    Returns:
        The decision, and all comparisons behind it.
    """
    contests = Comparisons(
        test_ratings, lowest_relevant=relevant_from(train_ratings), seed=seed, n_resamples=n_resamples
    )
    model, popularity = candidate.ranking.model, GATE_BASELINE.name
    own = contests.scored(model, predict(candidate, candidate.entry))
    level = contests.scored(popularity, predict(candidate, GATE_BASELINE))
    baseline = _existing(contests.between(model, own, popularity, level))
    undefined = [] if baseline else [DECIDING]
    is_new = current and candidate != current and candidate.ranking not in withdrawn and not undefined

    def against(other: Configuration | None) -> list[Comparison]:
        if other is None or not is_new or not other.ranking.can_be_fitted(_LISTS):
            return []
        # An identical ranking model makes identical predictions: it is not fitted twice.
        is_shared = other.ranking == candidate.ranking
        theirs = own if is_shared else contests.scored(other.ranking.model, predict(other, other.entry))
        return _existing(contests.between(model, own, _named(other), theirs))

    is_outdated = current is not None and not current.ranking.can_be_fitted(_LISTS)
    champion = against(current)
    above = against(best) if best and current and best.ranking != current.ranking else []
    decision = decide(
        candidate,
        current,
        baseline=baseline,
        champion=champion,
        best=above,
        withdrawn=withdrawn,
        outdated=[current.ranking.model] if current and is_outdated else [],
        undefined=undefined,
    )
    return decision, [*baseline, *champion, *above]


def _existing(comparison: Comparison | None) -> list[Comparison]:
    return [comparison] if comparison else []
