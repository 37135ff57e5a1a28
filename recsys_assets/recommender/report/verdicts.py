"""The first screen of the report: what is served, how well ratings are predicted, what new users get, what to do next.

Every sentence is generated from the current scores. Differences are the paired improvements of `evaluation_scores`.
Tables of scores belong in `score_tables`, the case studies in `case_studies`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.standings import FEWEST_USERS, ModelScore, find, scored_users

Tone = Literal["better", "unsure", "worse", "none"]
_RANKED, _RATED, _ERROR = ("top_n", "ndcg_10"), ("time_cut", "rmse"), ("latest_rating", "r2")
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
        score: name and direction of the score.
        meaning: what the score means; folded on the page.
        bars: scores on one axis, from the random order to the perfect prediction.
    """

    question: str
    answer: str
    tone: Tone
    facts: tuple[str, ...] = ()
    score: str = ""
    meaning: str = ""
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
    has_attributes: bool = True,
) -> list[Verdict]:
    """The three verdicts of the first screen; of events, those about lists.

    Args:
        scores: the table `evaluation_scores`.
        served: the ranking model behind the recommendations; None before the first promotion.
        kind: kind of the data.
        has_attributes: whether anything is known of users but their ratings.
    """
    of_ratings = [] if kind.is_events else [_ratings(scores)]
    return [_lists(scores, served), *of_ratings, _new_users(scores, served, has_attributes)]


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
    if not studied:
        yield "Look for better settings of all models, on validation data: `recsys-assets study`."
    if tone == "better":
        yield "Look at the list of a user: `recsys-assets recommend USER_ID`."
        yield "Use the lists in an application: `recsys-assets export recommendations lists.parquet`."


def _lists(scores: pl.DataFrame, served: Served | None) -> Verdict:
    question = f"What is {'served' if served else 'selected'}, and is it better than popularity?"
    name = served.model if served else labels.SELECTED
    if served and not served.is_scored:
        return Verdict(
            question,
            f"{labels.model(name)} is served, with settings that are not scored here.",
            "none",
            tuple(_promoted(served, None)),
        )
    means = labels.meaning(name if served else _twin(scores, *_RANKED))
    own = find(scores, _RANKED[0], name, "all", _RANKED[1])
    facts = [means, " ".join([*(_promoted(served, own) if served else ()), *_best(scores, name)])]
    return _against(scores, question, labels.model(name), name, (*_RANKED, "all"), facts)


def _promoted(served: Served, own: ModelScore | None) -> Iterator[str]:
    """Since when the model is served; its scores at that time if they were others than now."""
    shown = labels.metric(_RANKED[1]).shown
    if served.score is None or served.popularity is None:
        yield f"Somebody went back to it on {served.since}."
    elif own and shown(own.value) == shown(served.score):
        yield f"In use since {served.since}."
    else:
        yield (
            f"In use since {served.since}; at its promotion it scored {shown(served.score)}, popularity "
            f"{shown(served.popularity)}."
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
    question = "How well are ratings predicted?"
    own = find(scores, _RATED[0], labels.SELECTED, "all", _RATED[1])
    latest = find(scores, _ERROR[0], labels.SELECTED, "test_users", _ERROR[1])
    name = _twin(scores, *_RATED)
    facts = [
        f"{labels.model(name)} is selected. {labels.meaning(name)}".strip(),
        f"Of the variance of each test user's latest rating, {100 * latest.value:.1f} % is predicted (R²)."
        if latest
        else "",
    ]
    subject = f"With an error of {labels.metric(_RATED[1]).shown(own.value)} rating points" if own else "Not scored"
    return _against(scores, question, subject, labels.SELECTED, (*_RATED, "all"), facts, label=labels.model(name))


def _new_users(scores: pl.DataFrame, served: Served | None, has_attributes: bool) -> Verdict:
    question = "What do new users get?"
    name = served.model if served else labels.SELECTED
    if served and not served.is_scored:
        # The scores of this model are those of other settings, and the selected model is another one.
        return Verdict(
            question, f"{_for_new_users(name, has_attributes)}. It is not scored with these settings.", "none", ()
        )
    if not scores.filter(protocol=_RANKED[0], metric=_RANKED[1], population="unseen", model=name).height:
        return Verdict(question, "They get a list, but no test user was new, so it is not scored.", "none", ())
    model = _twin(scores, *_RANKED) if name == labels.SELECTED else name
    got = _for_new_users(model, has_attributes)
    return _against(scores, question, got, name, (*_RANKED, "unseen"), [], label=labels.model(model))


def _for_new_users(model: str, has_attributes: bool) -> str:
    got = _FOR_NEW_USERS.get(model, "They get the list for everybody")
    return "They get what most users like" if got == _LIKED_BY_ALIKE and not has_attributes else got


def _against(
    scores: pl.DataFrame,
    question: str,
    subject: str,
    name: str,
    row: tuple[str, str, str],
    facts: Sequence[str],
    *,
    label: str = "",
) -> Verdict:
    """The verdict on a model beside the simple baseline: protocol, metric and population are `row`.

    Empty facts are left out. `label` names the model in the chart; by default the label of `name`.
    """
    protocol, metric, population = row
    told = tuple(filter(None, facts))
    own = find(scores, protocol, name, population, metric)
    if own is None:
        return Verdict(question, f"{subject}; there is no score of it yet.", "none", told)
    over = _improvement(scores, protocol, name, population, metric)
    if over is None:
        return Verdict(question, f"{subject}; there is no baseline to compare it with.", "none", told)
    baseline, lead = over
    tone: Tone = "better" if lead.low > 0 else "worse" if lead.high < 0 else "unsure"
    against = _BASELINES[baseline]
    answer = {
        "better": f"{subject}: surely better than {against}.",
        "unsure": f"{subject}: no sure difference from {against}.",
        "worse": f"{subject}: surely worse than {against}.",
    }[tone]
    facts_of = labels.metric(metric)
    users = _count(scored_users(scores, protocol, population), "user")
    numbers = f"Improvement over {against}: {_interval(lead, metric, '95 % interval ')}, on the same {users}."
    bars = _bars(scores, row, (name, label or labels.model(name)), baseline)
    score = f"{facts_of.label}, {facts_of.direction}"
    return Verdict(question, answer, tone, (*told[:1], numbers, *told[1:]), score, facts_of.meaning, bars)


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
        name: label,
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


def _interval(score: ModelScore, metric: str, named: str = "") -> str:
    """A difference with its interval: +0.045 (0.029 to 0.060)."""
    digits = labels.metric(metric).digits
    return f"{score.value:+.{digits}f} ({named}{score.low:.{digits}f} to {score.high:.{digits}f})".replace("-", "−")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
