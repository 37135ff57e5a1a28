"""The scores in words: compared models, winners per population, uncertainty, published results of the case studies.

Every sentence is generated from the current scores, so no sentence can be out of date. Tables belong in
`score_tables`, charts in `charts`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import polars as pl

from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.published import (
    CASE_STUDY_A,
    CASE_STUDY_B,
    SEGMENT_MEAN,
    WITH_FILL,
    WITHOUT_FILL,
    CaseStudy,
    Published,
)
from recsys_assets.recommender.report.standings import APART, Standings, contests, find

_BOUND_MEANINGS = {
    labels.RANDOM: "random order, which knows nothing,",
    labels.UPPER_BOUND: "a perfect prediction, which nothing can beat",
}


@dataclass(frozen=True)
class Statement:
    """A question of the reader and the paragraphs of its answer."""

    question: str
    answer: tuple[str, ...]


@dataclass(frozen=True)
class Served:
    """The ranking model behind the recommendations.

    Attributes:
        model: name in the scores.
        since: day of its promotion or rollback.
        score: NDCG at 10 at its promotion; None after a rollback.
        popularity: NDCG at 10 of popularity on the same rows; None after a rollback.
    """

    model: str
    since: date
    score: float | None = None
    popularity: float | None = None

    def __str__(self) -> str:
        """The model, its date and its score in one sentence."""
        ndcg = labels.metric("ndcg_10")
        how = (
            "somebody went back to it"
            if self.score is None or self.popularity is None
            else f"it was promoted with an {ndcg.label} of {ndcg.shown(self.score)} on the test ratings "
            f"(popularity: {ndcg.shown(self.popularity)})"
        )
        return f"With “{labels.model(self.model)}”, in use since {self.since}, when {how}."


@dataclass(frozen=True)
class Headline:
    """The scores in words.

    Attributes:
        scores: the table `evaluation_scores`.
        users: number of users with a rating.
        ratings: number of ratings.
        served: the ranking model behind the recommendations; None before the first promotion.
        kind: kind of the data.
    """

    scores: pl.DataFrame
    users: int
    ratings: int
    served: Served | None = None
    kind: DataKind = RATINGS_WITH_TIMES

    @cached_property
    def contests(self) -> tuple[Standings, ...]:
        """The standings by the leading metrics of each protocol, populations in order."""
        return contests(self.scores)

    @cached_property
    def questions(self) -> dict[tuple[str, str], list[Standings]]:
        """The standings by protocol and metric."""
        grouped: dict[tuple[str, str], list[Standings]] = {}
        for each in self.contests:
            grouped.setdefault((each.protocol, each.metric), []).append(each)
        return grouped

    def statements(self) -> list[Statement]:
        """The reader's questions with answers; a single statement if there are no scores."""
        if not len(self.scores):
            return [Statement("What was compared?", ("There are no scores yet.",))]
        answers = {
            "What are recommendations made with?": [str(self.served)] if self.served else [],
            "What was compared?": [*labels.notices(self.scores, self.kind), self._compared()],
            "Who wins for whom?": self._winners(),
            "How sure is that?": [self._sure()],
            "How do the case studies' published results compare?": [*self._case_study_a(), *self._case_study_b()],
        }
        return [Statement(question, tuple(answer)) for question, answer in answers.items() if answer]

    def _compared(self) -> str:
        models = [name for name in self.scores["model"].unique() if name not in labels.BOUNDS]
        questions = [
            labels.protocol(name, self.kind).label
            for name in labels.ordered(self.scores["protocol"], labels.PROTOCOL_LABELS)
        ]
        bounds = [_BOUND_MEANINGS[name] for name in labels.BOUNDS if name in set(self.scores["model"])]
        beside = f" Beside them stand {_listed(bounds)}." if bounds else ""
        return (
            f"{_count(len(models), 'model')}, by {_count(len(questions), 'question')}: "
            f"{_listed(f'“{question}”' for question in questions)}. "
            f"Within a question every model is scored on the same rows.{beside}"
        )

    def _winners(self) -> list[str]:
        return [_won(question, self.kind) for question in self.questions.values()]

    def _sure(self) -> str:
        against = [
            (name, [each.certainty(other) for each, other in pairs if other is not None])
            for name, pairs in (
                ("the runner-up's", [(each, each.runner_up) for each in self.contests]),
                ("the best simple baseline's", [(each, each.baseline) for each in self.contests]),
            )
        ]
        counted = [
            f"in {verdicts.count(APART)} of {len(verdicts)} comparisons the winner's interval does not overlap {name}"
            for name, verdicts in against
            if verdicts
        ]
        return (
            f"Intervals are 95\u00a0% bootstrap intervals over users; {_listed(counted)}. "
            "Where intervals overlap, the order may be chance. With fewer than 150\u00a0users, the intervals of RMSE "
            "and of the rating of the top\u00a05\u00a0% are too narrow: their coverage is 89 to 95\u00a0%."
            if counted
            else "There is nothing to compare the winners with."
        )

    def _case_study_a(self) -> list[str]:
        without, filled = self._value(WITHOUT_FILL), self._value(WITH_FILL)
        if without is None or filled is None:
            return []
        first = (
            f"{_published(WITHOUT_FILL)} without and {WITH_FILL.value:.3f} with its fill of cold users"
            f"{self._about(CASE_STUDY_A)}. By the same rule this data gives {without:.3f} and {filled:.3f}. "
            "The rule takes the top 5 % of a user's test items, or all of them if the model predicts none. Without "
            "the fill, it mostly averages the ratings of such users."
        )
        return [" ".join([first, *self._share_of_unseen(), *self._share_of_rise(without, filled)])]

    def _share_of_unseen(self) -> list[str]:
        rows = self.scores.filter(pl.col("protocol") == "time_cut", pl.col("metric") == "rmse")
        rows = rows.filter(pl.col("model") == labels.ITEM_MEAN)
        n = dict(rows.select("population", "n").iter_rows())
        if not n.get("all") or "unseen" not in n:
            return []
        return [f"These users have {_percent(n['unseen'] / n['all'])} of the test ratings."]

    def _share_of_rise(self, without: float, filled: float) -> list[str]:
        plain = find(self.scores, "time_cut", labels.ITEM_MEAN, "all", WITH_FILL.metric)
        plain = plain or find(self.scores, "time_cut", labels.ITEM_MEAN, "all", "top5pct_rating")
        chance = find(self.scores, "time_cut", labels.RANDOM, "all", "top5pct_rating")
        if plain is None or filled <= without:
            return []
        share = (plain.value - without) / (filled - without)
        beside = f" (random order: {chance.value:.3f})" if chance else ""
        portion = "more than the whole rise" if share > 1 else f"{_percent(max(share, 0))} of the rise"
        return [
            f"The item mean, which gives all users the same order, scores {plain.value:.3f}{beside}: this accounts for "
            f"{portion} from {without:.3f} to {filled:.3f}."
        ]

    def _case_study_b(self) -> list[str]:
        train = self._value(SEGMENT_MEAN)
        if train is None:
            return []
        test = find(self.scores, "latest_rating", "segment_mean", "test_users", "r2")
        plain = find(self.scores, "latest_rating", labels.ITEM_MEAN, "test_users", "r2")
        here = f"Here that gives {train:.3f}" + (f", and {test.value:.3f} for test users" if test else "")
        verdict = (
            f". The item mean, without any segment, scores {plain.value:.3f} for test users: "
            f"the segment mean is {'better' if test.value > plain.value else 'not better'}"
            if test and plain
            else ""
        )
        return [
            f"{_published(SEGMENT_MEAN, 'an R² of ')}{self._about(CASE_STUDY_B)}: each user's latest rating "
            "predicted by the item's mean in the user's segment, scored on the users the means were computed from. "
            f"{here}{verdict}."
        ]

    def _about(self, study: CaseStudy) -> str:
        same = study.is_about(self.users, self.ratings)
        return f", on {study.data}{', this same data' if same else ' (this report is about other data)'}"

    def _value(self, published: Published) -> float | None:
        found = find(self.scores, published.protocol, published.model, published.population, published.metric)
        return found.value if found else None


def _won(question: Sequence[Standings], kind: DataKind) -> str:
    by_winner: dict[str, list[str]] = {}
    for each in question:
        place = f"{labels.population(each.population).lower()} ({each.shown(each.models[0])})"
        by_winner.setdefault(each.winner, []).append(place)
    name = f"{labels.protocol(question[0].protocol, kind).label} ({_inside(labels.metric(question[0].metric).label)})"
    return f"{name}: {'; '.join(f'{winner} for {_listed(places)}' for winner, places in by_winner.items())}."


def _published(published: Published, before: str = "") -> str:
    return f"{published.study.name} reported {before}{published.value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _inside(text: str) -> str:
    """A label for use inside a sentence: lower case unless it is an abbreviation."""
    return text if text[1:2].isupper() or not text[1:2].isalpha() else text[:1].lower() + text[1:]


def _listed(parts: Iterable[str]) -> str:
    *first, last = list(parts) or [""]
    return f"{', '.join(first)} and {last}" if first else last
