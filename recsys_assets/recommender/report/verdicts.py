"""The first screen of the report: what is served, how well ratings are predicted, what new users get, what to do next.

Every sentence is generated from the current scores. Differences are the paired improvements of `evaluation_scores`.
Tables of scores belong in `score_tables`, the case studies in `case_studies`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.standings import (
    FEWEST_USERS,
    NOTHING_SELECTED,
    ModelScore,
    Selected,
    find,
    repeated,
    scored_users,
)

Tone = Literal["better", "unsure", "worse", "none"]
_RANKED, _RATED, _ERROR = ("top_n", "ndcg_10"), ("time_cut", "rmse"), ("latest_rating", "r2")
_CHOSEN = "Models are chosen on validation data, not on these ratings."
_DECIDES = "The scores here decide whether the chosen model is served."
_LIKED_BY_ALIKE = "They get what users with the same attributes like"
# What a model makes of a user without a rating; others have one list for everybody.
_FOR_NEW_USERS = {
    **dict.fromkeys(("blend", "ease", "item_knn", "demographic_popularity"), _LIKED_BY_ALIKE),
    **dict.fromkeys(("als_adjusted", "implicit_als"), "They get what users of the same cluster like"),
}
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
        is_rolled_back: whether a person went back to it.
        score: NDCG at 10 at its promotion; None after a rollback, or if the test ratings did not define it.
        popularity: NDCG at 10 of popularity on the same rows; None without a score.
        instead_of: why another model than the selected one is served; empty if the selected one is served.
    """

    model: str
    since: date
    is_scored: bool = True
    is_rolled_back: bool = False
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
        facts: sentences with the numbers.
        details: further sentences; folded on the page.
        score: name and direction of the score.
        bars: scores on one axis, from the random order to the perfect prediction.
    """

    question: str
    answer: str
    tone: Tone
    facts: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    score: str = ""
    bars: tuple[Bar, ...] = ()

    @property
    def judged(self) -> str:
        """The tone in words."""
        return TONES[self.tone]


def verdicts(
    scores: pl.DataFrame,
    served: Served | None,
    kind: DataKind = RATINGS_WITH_TIMES,
    *,
    selected: Selected = NOTHING_SELECTED,
    has_attributes: bool = True,
) -> list[Verdict]:
    """The three verdicts of the first screen; of events, those about lists.

    Args:
        scores: the table `evaluation_scores`.
        served: the ranking model behind the recommendations; None before the first promotion.
        kind: kind of the data.
        selected: the selected model of each task.
        has_attributes: whether anything is known of users but their ratings.
    """
    of_ratings = [] if kind.is_events else [_ratings(scores, selected)]
    return [_lists(scores, served, selected), *of_ratings, _new_users(scores, served, selected, has_attributes)]


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
    elif tone == "unsure":
        yield "Bring more ratings: so far, the lists may be no better than popularity."
    rival = _rival(scores, (*_RANKED, "all"), served.model if served else labels.SELECTED)
    if not studied:
        compared = (
            f"Compare all models, also {labels.model(rival)}," if rival else "Look for better settings of all models"
        )
        yield f"There has been no study. {compared} on validation data: `recsys-assets study`."
    if tone == "better":
        yield "Look at the list of a user: `recsys-assets recommend USER_ID`."
        yield "Use the lists in an application: `recsys-assets export recommendations lists.parquet`."


def _lists(scores: pl.DataFrame, served: Served | None, selected: Selected = NOTHING_SELECTED) -> Verdict:
    question = f"What is {'served' if served else 'selected'}, and is it better than popularity?"
    name = served.model if served else labels.SELECTED
    if served and not served.is_scored:
        return Verdict(
            question,
            f"{labels.model(name)} is served, with settings that are not scored here.",
            "none",
            tuple(_promoted(served, None)),
        )
    model = name if served else _twin(scores, _RANKED, selected)
    means = labels.meaning(model)
    own = find(scores, _RANKED[0], name, "all", _RANKED[1])
    details = [means, " ".join(_promoted(served, own)) if served else ""]
    return _against(scores, question, labels.model(name), name, (*_RANKED, "all"), details, model=model)


def _promoted(served: Served, own: ModelScore | None) -> Iterator[str]:
    """Since when the model is served; its scores at that time if they were others than now."""
    shown = labels.metric(_RANKED[1]).shown
    if served.is_rolled_back:
        yield f"A rollback brought it back on {served.since}."
    elif served.score is None or served.popularity is None:
        yield f"Served since {served.since}; it was not scored at its promotion."
    elif own and shown(own.value) == shown(served.score):
        yield f"Served since {served.since}."
    else:
        yield (
            f"Served since {served.since}; at its promotion it scored {shown(served.score)}, popularity "
            f"{shown(served.popularity)}."
        )


def _ratings(scores: pl.DataFrame, selected: Selected) -> Verdict:
    question = "How well are ratings predicted?"
    own = find(scores, _RATED[0], labels.SELECTED, "all", _RATED[1])
    latest, of_mean = (
        find(scores, _ERROR[0], model, "test_users", _ERROR[1]) for model in (labels.SELECTED, labels.ITEM_MEAN)
    )
    name = _twin(scores, _RATED, selected)
    details = [
        f"{labels.model(name)} is selected for this; it does not make the lists. {labels.meaning(name)}".strip(),
        f"Of the variance of the latest ratings of test users, {100 * latest.value:.1f} % is predicted (R²); the item "
        f"mean predicts {100 * of_mean.value:.1f} %."
        if latest and of_mean
        else "",
    ]
    subject = f"With an error of {labels.metric(_RATED[1]).shown(own.value)} rating points" if own else "Not scored"
    row = (*_RATED, "all")
    return _against(scores, question, subject, labels.SELECTED, row, details, model=name, label=labels.model(name))


def _new_users(scores: pl.DataFrame, served: Served | None, selected: Selected, has_attributes: bool) -> Verdict:
    question = "What do new users get?"
    name = served.model if served else labels.SELECTED
    if served and not served.is_scored:
        # The scores of this model are those of other settings, and the selected model is another one.
        return Verdict(
            question, f"{_for_new_users(name, has_attributes)}. It is not scored with these settings.", "none", ()
        )
    if not scores.filter(protocol=_RANKED[0], metric=_RANKED[1], population="unseen", model=name).height:
        return Verdict(question, "They get a list, but no test user was new, so it is not scored.", "none", ())
    model = _twin(scores, _RANKED, selected) if name == labels.SELECTED else name
    got = _for_new_users(model, has_attributes)
    details = ["New users have no rating in the training data."]
    return _against(scores, question, got, name, (*_RANKED, "unseen"), details, model=model, label="What they get")


def _for_new_users(model: str, has_attributes: bool) -> str:
    got = _FOR_NEW_USERS.get(model, "They get the list for everybody")
    return "They get what most users like" if got == _LIKED_BY_ALIKE and not has_attributes else got


def _against(
    scores: pl.DataFrame,
    question: str,
    subject: str,
    name: str,
    row: tuple[str, str, str],
    details: Sequence[str],
    *,
    model: str,
    label: str = "",
) -> Verdict:
    """The verdict on a model beside the simple baseline: protocol, metric and population are `row`.

    Empty details are left out. `model` is `name`, or the model that it repeats. `label` names the model in the chart;
    by default the label of `name`.
    """
    protocol, metric, population = row
    told = tuple(filter(None, details))
    own = find(scores, protocol, name, population, metric)
    if own is None:
        return Verdict(question, f"{subject}; there is no score of it yet.", "none", details=told)
    over = _improvement(scores, protocol, name, population, metric)
    if over is None:
        return Verdict(question, f"{subject}; there is no baseline to compare it with.", "none", details=told)
    baseline, lead = over
    tone: Tone = "better" if lead.low > 0 else "worse" if lead.high < 0 else "unsure"
    against = _BASELINES[baseline]
    answer = {
        "better": f"{subject}: surely better than {against}{_relative(scores, row, baseline, lead)}.",
        "unsure": f"{subject}: no sure difference from {against}.",
        "worse": f"{subject}: surely worse than {against}.",
    }[tone]
    facts_of = labels.metric(metric)
    users = _count(scored_users(scores, protocol, population), "new user" if population == "unseen" else "test user")
    gained = "Improvement over" if facts_of.better == "higher" else "Error below that of"
    numbers = f"{gained} {against}: {_interval(lead, metric)}, on the same {users}."
    rival = _rival(scores, row, name)
    ahead = _lead_of(scores, row, rival, own)
    bars = _bars(scores, row, {baseline: "", name: label or labels.model(name), rival: ""})
    score = f"{facts_of.label}, {facts_of.direction}"
    answer += _beside(rival, ahead) if tone == "better" else ""
    told = (*told, _DECIDES, facts_of.meaning) if rival else (*told, facts_of.meaning)
    others = _ahead(scores, row, rival, ahead) if rival else _behind(_compared(scores, row), model, own, metric)
    return Verdict(question, answer, tone, (numbers, others), told, score, bars)


def _relative(scores: pl.DataFrame, row: tuple[str, str, str], baseline: str, lead: ModelScore) -> str:
    """The improvement in percent of the baseline's score."""
    protocol, metric, population = row
    score = find(scores, protocol, baseline, population, metric)
    share = lead.value / score.value if score and score.value else 0.0
    return f", by {100 * share:.{0 if share >= 0.1 else 1}f} %" if share >= 0.0005 else ""


def _rival(scores: pl.DataFrame, row: tuple[str, str, str], name: str) -> str:
    """The model with the best score, if it is another one than `name`; else an empty string."""
    protocol, metric, population = row
    models, own = _compared(scores, row), find(scores, protocol, name, population, metric)
    if models.is_empty() or own is None:
        return ""
    best = _best_first(models, metric).row(0, named=True)
    return "" if best["value"] == own.value else str(best["model"])


def _compared(scores: pl.DataFrame, row: tuple[str, str, str]) -> pl.DataFrame:
    """The scores of all models in a row, without bounds and without `selected`, which repeats a model."""
    protocol, metric, population = row
    rows = scores.filter(protocol=protocol, metric=metric, population=population)
    return rows.filter(~pl.col("model").is_in([*labels.BOUNDS, labels.SELECTED]))


def _lead_of(scores: pl.DataFrame, row: tuple[str, str, str], rival: str, own: ModelScore) -> ModelScore | None:
    """The paired improvement of `rival` over the model that scores `own`; None unless that is the selected model.

    Improvements of other models are stored over baselines and the selected model only.
    """
    protocol, metric, population = row
    selected = find(scores, protocol, labels.SELECTED, population, metric)
    if not rival or selected is None or selected.value != own.value:
        return None
    return find(scores, protocol, rival, population, labels.improvement(metric, labels.SELECTED))


def _ahead(scores: pl.DataFrame, row: tuple[str, str, str], rival: str, lead: ModelScore | None) -> str:
    """How far the best model is ahead of the one of the verdict."""
    protocol, metric, population = row
    best = find(scores, protocol, rival, population, metric)
    assert best is not None
    told = f"{labels.model(rival)} scores {labels.metric(metric).shown(best.value)}, which is better"
    if lead:
        sure = "surely" if lead.low > 0 else "perhaps by chance"
        told = f"{told} by {_interval(lead, metric, sign='')}, {sure}"
    return f"{told}. {_CHOSEN}"


def _behind(models: pl.DataFrame, model: str, own: ModelScore, metric: str) -> str:
    """How many models the best one was compared with, and which of them comes next or scores the same."""
    others = _best_first(models.filter(pl.col("model") != model), metric)
    if others.is_empty():
        return "No other model is scored."
    following = others.row(0, named=True)
    label, score = labels.model(following["model"]), labels.metric(metric).shown(following["value"])
    none = (
        f"None of the {len(others)} other models scores better" if len(others) > 1 else "The other model is not better"
    )
    same = following["value"] == own.value
    return f"{none}; {label} scores the same." if same else f"{none}; the next is {label}, {score}."


def _best_first(models: pl.DataFrame, metric: str) -> pl.DataFrame:
    return models.sort("value", "model", descending=[labels.metric(metric).better == "higher", False])


def _beside(rival: str, lead: ModelScore | None) -> str:
    """What the headline says of a model that scores better; empty without a known lead."""
    if lead is None:
        return ""
    return f" {labels.model(rival)} is surely better." if lead.low > 0 else f" {labels.model(rival)} may be as good."


def _improvement(
    scores: pl.DataFrame, protocol: str, model: str, population: str, metric: str
) -> tuple[str, ModelScore] | None:
    """The simple baseline and the paired improvement over it; None without a baseline."""
    for baseline in reversed(labels.BASELINES):
        if found := find(scores, protocol, model, population, labels.improvement(metric, baseline)):
            return baseline, found
    return None


def _bars(scores: pl.DataFrame, row: tuple[str, str, str], models: Mapping[str, str]) -> tuple[Bar, ...]:
    """Scores of models between random and perfect. `models` has the label of one model, and empty labels."""
    protocol, metric, population = row
    named = {
        labels.RANDOM: labels.model(labels.RANDOM) if labels.metric(metric).better == "higher" else "Random ratings",
        **{model: label or labels.model(model) for model, label in models.items() if model},
        labels.UPPER_BOUND: "Perfect prediction",
    }
    own = next(model for model, label in models.items() if label)
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
            role="own" if model == own else labels.role(model),
        )
        for model, score in given.items()
    )


def _twin(scores: pl.DataFrame, row: tuple[str, str], selected: Selected) -> str:
    """The model that `selected` repeats; `selected` where none is found."""
    return repeated(scores, *row, selected) or labels.SELECTED


def _interval(score: ModelScore, metric: str, sign: str = "+") -> str:
    """A difference with its interval: +0.045 (95 % interval 0.029 to 0.060); of errors, without a sign."""
    facts = labels.metric(metric)
    digits, sign = facts.digits, sign if facts.better == "higher" else ""
    shown = f"{score.value:{sign}.{digits}f} (95 % interval {score.low:.{digits}f} to {score.high:.{digits}f})"
    return shown.replace("-", "−")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
