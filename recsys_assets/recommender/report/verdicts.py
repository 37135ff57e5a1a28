"""The first screen of the report: what is served, how well ratings are predicted, what new users get, what to do next.

Every sentence is generated from the current scores. Differences are the paired improvements of `evaluation_scores`.
Tables of scores belong in `score_tables`, the case studies in `case_studies`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.standings import FEWEST_USERS, ModelScore, find, scored_users

Tone = Literal["better", "unsure", "worse", "none"]
_RANKED, _RATED, _ERROR = ("top_n", "ndcg_10"), ("time_cut", "rmse"), ("latest_rating", "r2")
_BASELINES = {labels.ITEM_MEAN: "the item mean", "popularity": "popularity"}
TONES: dict[Tone, str] = {
    "better": "better, sure",
    "unsure": "no sure difference",
    "worse": "worse, sure",
    "none": "not scored",
}


@dataclass(frozen=True)
class Served:
    """The ranking model behind the recommendations.

    Attributes:
        model: name in the scores.
        since: day of its promotion or rollback.
        is_scored: whether the scores are those of its present settings; False if other settings were scored since.
        score: NDCG at 10 at its promotion; None after a rollback.
        popularity: NDCG at 10 of popularity on the same rows; None after a rollback.
        instead_of: why another model than the selected one is served; empty if the selected one is served.
    """

    model: str
    since: date
    is_scored: bool = True
    score: float | None = None
    popularity: float | None = None
    instead_of: str = ""


@dataclass(frozen=True)
class Bar:
    """One score on the axis of a verdict. Positions are shares of the axis, 0 to 1."""

    label: str
    shown: str
    at: float
    low: float
    high: float
    role: str


@dataclass(frozen=True)
class Verdict:
    """One question, its answer in a sentence, the numbers behind it, and its chart.

    Attributes:
        question: the question of the reader.
        answer: the answer in one sentence.
        tone: whether the model is better than the simple baseline, by the paired 95 % interval.
        facts: further sentences.
        bars: scores on one axis, from the random order to the perfect prediction.
    """

    question: str
    answer: str
    tone: Tone
    facts: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()

    @property
    def judged(self) -> str:
        """The tone in words."""
        return TONES[self.tone]


def verdicts(scores: pl.DataFrame, served: Served | None, kind: DataKind = RATINGS_WITH_TIMES) -> list[Verdict]:
    """The three verdicts of the first screen; of events, those about lists.

    Args:
        scores: the table `evaluation_scores`.
        served: the ranking model behind the recommendations; None before the first promotion.
        kind: kind of the data.
    """
    of_ratings = [] if kind.is_events else [_ratings(scores)]
    return [_lists(scores, served), *of_ratings, _new_users(scores, served)]


def next_steps(scores: pl.DataFrame, served: Served | None, *, studied: bool) -> list[str]:
    """What the reader should do next, most urgent first; commands are in backquotes.

    Args:
        scores: the table `evaluation_scores`.
        served: the ranking model behind the recommendations; None before the first promotion.
        studied: whether there has been a study.
    """
    return list(_steps(scores, served, studied))


def _steps(scores: pl.DataFrame, served: Served | None, studied: bool) -> Iterator[str]:
    tone = _lists(scores, served).tone
    users = scored_users(scores, _RANKED[0], "all")
    if tone == "worse":
        yield "The lists are worse than popularity: see `recsys-assets promotions`, then `recsys-assets rollback`."
    if served and served.instead_of:
        yield served.instead_of
    if users < FEWEST_USERS:
        yield f"Bring more ratings: {_count(users, 'scored user')} cannot tell which model is best."
    if not studied:
        yield "Search all models and settings on validation data: `recsys-assets study`."
    if tone == "better":
        yield "Look at lists: `recsys-assets recommend USER`; write all of them to files: `recsys-assets export`."


def _lists(scores: pl.DataFrame, served: Served | None) -> Verdict:
    question = "What is recommended, and is it better than popularity?"
    name = served.model if served else labels.SELECTED
    if served and not served.is_scored:
        return Verdict(
            question,
            f"{labels.model(name)} is served, with settings that are not scored here.",
            "none",
            tuple(_promoted(served)),
        )
    said = "is served" if served else "is selected"
    facts = [*(_promoted(served) if served else ()), *_best(scores, name)]
    return _against(scores, question, f"{labels.model(name)} {said}", name, (*_RANKED, "all"), tuple(facts))


def _promoted(served: Served) -> Iterator[str]:
    if served.score is None or served.popularity is None:
        yield f"Somebody went back to it on {served.since}."
    else:
        shown = labels.metric(_RANKED[1]).shown
        yield (
            f"In use since {served.since}; at its promotion {shown(served.score)} beside {shown(served.popularity)} "
            "of popularity."
        )


def _best(scores: pl.DataFrame, name: str) -> Iterator[str]:
    """The model with the highest score, where another than `name` has it, with its paired lead over `selected`."""
    protocol, metric = _RANKED
    rows = scores.filter(protocol=protocol, metric=metric, population="all")
    models = rows.filter(~pl.col("model").is_in([*labels.BOUNDS, labels.SELECTED]))
    own = find(scores, protocol, name, "all", metric)
    if own is None or models.is_empty():
        return
    best = models.sort("value", descending=True).row(0, named=True)
    if best["value"] <= own.value:
        yield "No other model scores higher."
        return
    lead = find(scores, protocol, best["model"], "all", labels.improvement(metric, labels.SELECTED))
    selected = find(scores, protocol, labels.SELECTED, "all", metric)
    if lead and selected and selected.value == own.value:
        sure = "a sure lead" if lead.low > 0 else "which may be chance"
        yield f"{labels.model(best['model'])} scores higher by {_interval(lead, metric)}, {sure}."
    else:
        yield f"{labels.model(best['model'])} scores higher: {labels.metric(metric).shown(best['value'])}."


def _ratings(scores: pl.DataFrame) -> Verdict:
    found = find(scores, _ERROR[0], labels.SELECTED, "test_users", _ERROR[1])
    latest = (
        [f"Of the variance of each test user's latest rating, {found.value:.1%} is predicted (R²)."] if found else []
    )
    name = _twin(scores, *_RATED)
    return _against(
        scores,
        "How well are ratings predicted?",
        f"{labels.model(name)} is selected",
        labels.SELECTED,
        (*_RATED, "all"),
        tuple(latest),
    )


def _new_users(scores: pl.DataFrame, served: Served | None) -> Verdict:
    question = "What do new users get?"
    scored = served is None or served.is_scored
    name = served.model if served and scored else labels.SELECTED
    if not scores.filter(protocol=_RANKED[0], metric=_RANKED[1], population="unseen", model=name).height:
        return Verdict(question, "They get a list, but no test user was new, so it is not scored.", "none", ())
    return _against(scores, question, "They get a list at once", name, (*_RANKED, "unseen"), ())


def _against(
    scores: pl.DataFrame, question: str, subject: str, name: str, row: tuple[str, str, str], facts: tuple[str, ...]
) -> Verdict:
    """The verdict on a model beside the simple baseline: protocol, metric and population are `row`."""
    protocol, metric, population = row
    own = find(scores, protocol, name, population, metric)
    if own is None:
        return Verdict(question, f"{subject}; there is no score of it yet.", "none", facts)
    over = _improvement(scores, protocol, name, population, metric)
    if over is None:
        return Verdict(question, f"{subject}; there is no baseline to compare it with.", "none", facts)
    baseline, lead = over
    tone: Tone = "better" if lead.low > 0 else "worse" if lead.high < 0 else "unsure"
    against = _BASELINES[baseline]
    answer = {
        "better": f"{subject}: better than {against}.",
        "unsure": f"{subject}: no sure difference from {against}.",
        "worse": f"{subject}: worse than {against}.",
    }[tone]
    facts_of = labels.metric(metric)
    users = scored_users(scores, protocol, population)
    numbers = (
        f"{facts_of.label} {facts_of.shown(own.value)}, {facts_of.direction}. Improvement over {against}: "
        f"{_interval(lead, metric)}, paired on {_count(users, 'user')}."
    )
    bars = _bars(scores, (protocol, metric, population), (name, subject.split(" is ")[0]), baseline)
    return Verdict(question, answer, tone, (numbers, *facts), bars)


def _improvement(
    scores: pl.DataFrame, protocol: str, model: str, population: str, metric: str
) -> tuple[str, ModelScore] | None:
    """The simple baseline and the paired improvement over it; None without a baseline."""
    for baseline in reversed(labels.BASELINES):
        if found := find(scores, protocol, model, population, labels.improvement(metric, baseline)):
            return baseline, found
    return None


def _bars(scores: pl.DataFrame, row: tuple[str, str, str], own: tuple[str, str], baseline: str) -> tuple[Bar, ...]:
    protocol, metric, population = row
    name, label = own
    named = {
        labels.RANDOM: labels.model(labels.RANDOM),
        baseline: labels.model(baseline),
        name: labels.model(name) if name != labels.SELECTED else label,
        labels.UPPER_BOUND: "Perfect prediction",
    }
    there = {model: find(scores, protocol, model, population, metric) for model in named}
    given = {model: score for model, score in there.items() if score is not None}
    ends = [0.0, *(score.high for score in given.values()), *(score.low for score in given.values())]
    start, width = min(ends), (max(ends) - min(ends)) or 1.0
    shown = labels.metric(metric).shown
    return tuple(
        Bar(
            label=named[model],
            shown=shown(score.value),
            at=(score.value - start) / width,
            low=(score.low - start) / width,
            high=(score.high - start) / width,
            role="own" if model == name else labels.role(model),
        )
        for model, score in given.items()
    )


def _twin(scores: pl.DataFrame, protocol: str, metric: str) -> str:
    """The model that `selected` repeats; `selected` where none is found."""
    rows = scores.filter(protocol=protocol, metric=metric, population="all")
    selected = rows.filter(model=labels.SELECTED)
    same = rows.filter(pl.col("model") != labels.SELECTED).join(
        selected.select("value", "low", "high", "n"), on=["value", "low", "high", "n"], how="semi"
    )
    return str(same["model"][0]) if len(same) else labels.SELECTED


def _interval(score: ModelScore, metric: str) -> str:
    """A difference with its interval: +0.045 (0.029 to 0.060)."""
    digits = labels.metric(metric).digits
    return f"{score.value:+.{digits}f} ({score.low:.{digits}f} to {score.high:.{digits}f})".replace("-", "−")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
