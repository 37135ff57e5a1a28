"""Study section of the page: trials, winners by protocol with their uncertainty, chosen settings.

All data come from the tables of the study. Charts belong in `study_charts`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import OF_THE_PIPELINE
from recsys_assets.recommender.evaluation.settings import SELECTED
from recsys_assets.recommender.registry import Task
from recsys_assets.recommender.report import labels
from recsys_assets.recommender.tuning.validation_splits import PROTOCOLS, chosen_with, is_searched

_METRICS: Mapping[Task, tuple[str, ...]] = {
    "time_cut": ("top5pct_rating", "rmse"),
    "top_n": ("ndcg_10",),
    "latest_rating": ("r2",),
    "next_item": ("next_item_hit_10",),
}
# Populations shown for the protocols of the pipeline; other protocols only show all users.
_POPULATIONS = ("all", "seen", "unseen", "train_users", "test_users")
_EVERYBODY = ("all",)
# The selected model is compared with the stronger of these baselines.
OPPONENTS = ("item_mean", "popularity")
SIGNIFICANT = 0.05

Verdict = Literal["better", "worse", "may be chance", ""]


@dataclass(frozen=True)
class StudyTables:
    """The tables of a study; protocols that were not run have no rows.

    Attributes:
        trials: table `study_trials`.
        settings: table `tuned_settings`.
        scores: table `study_scores`.
        tests: table `paired_tests`.
        audit: table `leakage_audit`.
        sweep: table `segment_sweep`.
    """

    trials: pl.DataFrame
    settings: pl.DataFrame
    scores: pl.DataFrame
    tests: pl.DataFrame
    audit: pl.DataFrame
    sweep: pl.DataFrame


@dataclass(frozen=True)
class Result:
    """The score of the selected model on the test rows of one protocol.

    Attributes:
        protocol, metric, population: protocol, metric and population of the score.
        model: the selected model.
        value: its score, formatted.
        interval: 95 % confidence interval of the score.
        over_seeds: standard deviation of the score over seeds; empty if there is only one seed.
        best: the model with the best score, if that is not the selected model.
        opponent: the baseline of the comparison.
        improvement: improvement over the baseline, with the confidence interval of the paired difference.
        p: p-value of the difference with Holm's correction.
        verdict: the result in one word.
    """

    protocol: str
    metric: str
    population: str
    model: str
    value: str
    interval: str
    over_seeds: str
    best: str
    opponent: str
    improvement: str
    p: str
    verdict: Verdict


@dataclass(frozen=True)
class ChosenSetting:
    """A setting that was chosen on a validation split, formatted."""

    setting: str
    default: str
    chosen: str
    metric: str
    value: str
    value_of_default: str
    improvement: str
    interval: str
    trials: int
    is_changed: bool


@dataclass(frozen=True)
class StudySection:
    """Texts of the page about a study."""

    tables: StudyTables

    @property
    def summary(self) -> list[str]:
        """Summary of the trials and results, in sentences."""
        trials = self.tables.trials.unique("trial")
        scored = self.tables.scores
        models = [name for name in scored["model"].unique() if name not in (*labels.BOUNDS, labels.SELECTED)]
        minutes = trials["seconds"].sum() / 60
        compared = (
            f"{len(trials)} candidates in {trials['search'].n_unique()} searches were compared on validation splits "
            f"of training ratings ({minutes:,.0f} minutes of fitting). The winner is the selected model of a "
            f"protocol. All {len(models)} models were then scored on the test rows of "
            f"{scored['protocol'].n_unique()} protocols."
        )
        exceptions = self._exceptions()
        honest = f"No {'other ' if exceptions else ''}choice used a test row of its own protocol."
        return [compared, *exceptions, honest, *self._verdicts()]

    def _exceptions(self) -> list[str]:
        """Sentences about protocols that take over the choices of another protocol."""
        there = set(self.tables.scores["protocol"])
        names = [name for name in PROTOCOLS if name in there and not is_searched(name)]
        if not names:
            return []
        return [
            f"For {' and '.join(names)} nothing was chosen: they show the models of {chosen_with(names[0])}, "
            "whose choice may have used their test rows, under splits that leak the future. Their scores do not say "
            "what users will get."
        ]

    def _verdicts(self) -> list[str]:
        told = [result.verdict for result in self.results if result.verdict]
        if not told:
            return []
        won = [result for result in self.results if result.best]
        better, worse = told.count("better"), told.count("worse")
        sure = (
            f"Against the simple baseline the selected model is better in {better} of {len(told)} comparisons and "
            f"worse in {worse}, at a corrected p below {SIGNIFICANT}; elsewhere the difference may be chance."
        )
        other = (
            f" In {len(won)} of {len(self.results)} rows another model scores better on the test rows: the choice must "
            "not use them."
            if won
            else ""
        )
        return [sure + other]

    @property
    def results(self) -> list[Result]:
        """The selected model by protocol, leading metric and population."""
        there = set(self.tables.scores["protocol"])
        names = [name for name in PROTOCOLS if name in there]
        return [
            result
            for name in names
            for task in protocols.tasks(name)
            for metric in _METRICS[task]
            for population in (_POPULATIONS if name in OF_THE_PIPELINE else _EVERYBODY)
            if (result := self._result(name, task, metric, population))
        ]

    def _result(self, protocol: str, task: Task, metric: str, population: str) -> Result | None:
        rows = self.tables.scores.filter(protocol=protocol, metric=metric, population=population)
        own = rows.filter(model=labels.SELECTED)
        bounds = rows.filter(pl.col("model").is_in(labels.BOUNDS))["value"]
        # If random reaches the upper bound, as with one rating per user, the score is the same for all models.
        if own.is_empty() or (len(bounds) > 1 and bounds.n_unique() == 1):
            return None
        facts = labels.metric(metric)
        score = own.row(0, named=True)
        model = self.selected(protocol, task)
        return Result(
            protocol,
            metric,
            population,
            labels.model(model) if model else labels.model(labels.SELECTED),
            facts.shown(score["value"]),
            f"{facts.shown(score['low'])} to {facts.shown(score['high'])}",
            labels.over_seeds(score),
            _better_one(rows, score["value"], facts.better),
            *self._against(protocol, model, metric, population),
        )

    def selected(self, protocol: str, task: Task) -> str:
        """The model chosen on the validation split of the protocol; empty without its trials."""
        setting = SELECTED[task]
        rows = self.tables.trials.filter(
            pl.col("validation_split") == chosen_with(protocol),
            pl.col("search") == setting.split(".")[1],
            pl.col("is_chosen"),
        )
        return str(json.loads(rows["candidate"][0])[setting]) if len(rows) else ""

    def _against(self, protocol: str, model: str, metric: str, population: str) -> tuple[str, str, str, Verdict]:
        rows = self.tables.tests.filter(protocol=protocol, model=model, metric=metric, population=population)
        strongest = rows.filter(pl.col("baseline").is_in(OPPONENTS)).sort("improvement", "baseline").head(1)
        for row in strongest.iter_rows(named=True):
            shown = labels.metric(metric).shown
            improvement = f"{row['improvement']:+.4f} ({shown(row['low'])} to {shown(row['high'])})"
            return labels.model(row["baseline"]), improvement, _p_value(row["p_holm"]), _verdict(row)
        return "", "", "", ""

    @property
    def choices(self) -> list[ChosenSetting]:
        """Every searched setting, changed settings first."""
        made = [_choice(row) for row in self.tables.settings.sort("setting").iter_rows(named=True)]
        return sorted(made, key=lambda choice: not choice.is_changed)


def _better_one(rows: pl.DataFrame, value: float, better: str | None) -> str:
    """Label of the best model with a better score than `value`; empty if there is none."""
    others = rows.filter(~pl.col("model").is_in([*labels.BOUNDS, labels.SELECTED])).sort(
        "value", "model", descending=[better == "higher", False]
    )
    if better is None or others.is_empty():
        return ""
    best = others.row(0, named=True)
    is_better = best["value"] > value if better == "higher" else best["value"] < value
    return f"{labels.model(best['model'])} {labels.metric(best['metric']).shown(best['value'])}" if is_better else ""


def _p_value(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def _verdict(row: Mapping[str, float]) -> Verdict:
    if row["p_holm"] >= SIGNIFICANT:
        return "may be chance"
    return "better" if row["improvement"] > 0 else "worse"


def _choice(row: Mapping[str, object]) -> ChosenSetting:
    facts = labels.metric(str(row["metric"]))
    chosen, default = json.loads(str(row["chosen"])), json.loads(str(row["default"]))
    of_default = row["value_of_default"]
    return ChosenSetting(
        str(row["setting"]),
        str(default),
        str(chosen),
        f"{facts.label}, {labels.population(str(row['population'])).lower()}",
        f"{row['value']:.4f}",
        "–" if of_default is None else f"{of_default:.4f}",
        "–" if row["improvement"] is None else f"{row['improvement']:+.4f}",
        "" if row["improvement"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}",
        int(str(row["trials"])),
        chosen != default,
    )
