"""Published results of the two case studies beside the scores of this data, in words.

The published values are in `published`. The report shows these sentences only if the data are those of a case study.
"""

from dataclasses import dataclass

import polars as pl

from recsys_assets.recommender.report import labels
from recsys_assets.recommender.report.published import (
    SEGMENT_MEAN,
    WITH_FILL,
    WITHOUT_FILL,
    Published,
)
from recsys_assets.recommender.report.standings import find


@dataclass(frozen=True)
class CaseStudies:
    """The case studies beside the present scores.

    Attributes:
        scores: the table `evaluation_scores`.
    """

    scores: pl.DataFrame

    def statements(self) -> list[str]:
        """One paragraph per case study whose scores are there."""
        return [*self._case_study_a(), *self._case_study_b()]

    def _case_study_a(self) -> list[str]:
        without, filled = self._value(WITHOUT_FILL), self._value(WITH_FILL)
        if without is None or filled is None:
            return []
        first = (
            f"{_published(WITHOUT_FILL)} without and {WITH_FILL.value:.4f} with its fill of cold users. "
            f"By the same rule this data gives {without:.4f} and {filled:.4f}. "
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
        beside = f" (random order: {chance.value:.4f})" if chance else ""
        portion = "more than the whole rise" if share > 1 else f"{_percent(max(share, 0))} of the rise"
        return [
            f"The item mean, which gives all users the same order, scores {plain.value:.4f}{beside}: this accounts for "
            f"{portion} from {without:.4f} to {filled:.4f}."
        ]

    def _case_study_b(self) -> list[str]:
        train = self._value(SEGMENT_MEAN)
        if train is None:
            return []
        test = find(self.scores, "latest_rating", "segment_mean", "test_users", "r2")
        plain = find(self.scores, "latest_rating", labels.ITEM_MEAN, "test_users", "r2")
        here = f"Here that gives {train:.4f}" + (f", and {test.value:.4f} for test users" if test else "")
        verdict = (
            f". The item mean, without any segment, scores {plain.value:.4f} for test users: "
            f"the segment mean is {'better' if test.value > plain.value else 'not better'}"
            if test and plain
            else ""
        )
        return [
            f"{_published(SEGMENT_MEAN, 'an R² of ')}: each user's latest rating "
            "predicted by the item's mean in the user's segment, scored on the users the means were computed from. "
            f"{here}{verdict}."
        ]

    def _value(self, published: Published) -> float | None:
        found = find(self.scores, published.protocol, published.model, published.population, published.metric)
        return found.value if found else None


def _published(published: Published, before: str = "") -> str:
    return f"{published.study.name} ({published.study.data}) reported {before}{published.value:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"
