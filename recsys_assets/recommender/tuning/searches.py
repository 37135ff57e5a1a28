"""Searches: the settings, the values to try, and the score on the validation split that decides.

The values stand beside the settings of each model (`Section.tried`). A new search is one entry in `SEARCHES`. Running
searches belongs in `tuning`.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from recsys_assets.recommender.data.automatic import AUTO
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.evaluation.score_table import DECIDING
from recsys_assets.recommender.evaluation.settings import SELECTED
from recsys_assets.recommender.registry import DERIVED, ENTRIES, FITS, Task
from recsys_assets.recommender.registry.fitting import Parameters, entry
from recsys_assets.recommender.registry.kinds import has_entry

# Values of settings by section and name: `als.rank`.
Candidate = Mapping[str, Any]
# The model that `auto` stands for until a search chooses another one.
_BUILT_IN = {SELECTED["top_n"]: "blend"}
# Scored for comparison only: it has no prediction for some users, so it can never be selected.
_NOT_FOR_EVERYBODY = ("als_unadjusted",)


@dataclass(frozen=True)
class Objective:
    """The score that decides a search.

    Attributes:
        metric: name in the score tables.
        population: the population whose score counts.
        higher: whether a higher score is better.
    """

    metric: str
    population: str = "all"
    higher: bool = False


RMSE = Objective("rmse")
RMSE_UNSEEN = Objective("rmse", "unseen")
NDCG = Objective(DECIDING, higher=True)
# In the validation split of case study B, `test_users` are held-out train users.
RMSE_ASIDE = Objective("rmse", "test_users")
HITS_ASIDE = Objective("next_item_hit_10", "test_users", higher=True)


@dataclass(frozen=True)
class Search:
    """Settings that are tried together.

    Attributes:
        name: name of the search.
        task: task of the model.
        model: entry of the registry whose score decides; empty for the model that the candidate names.
        grid: values by setting; every combination is a candidate.
        objective: the score that decides.
        where: protocols whose splits run the search; empty for all protocols with the task.
        is_exhaustive: whether all candidates are tried regardless of the budget.
    """

    name: str
    task: Task
    model: str
    grid: Mapping[str, Sequence[Any]]
    objective: Objective
    where: tuple[str, ...] = ()
    is_exhaustive: bool = False

    def applies(self, protocol: str, tasks: Sequence[Task]) -> bool:
        """Whether the search runs on the split of a protocol with these tasks."""
        return self.task in tasks and (not self.where or protocol in self.where)

    def candidates(
        self, defaults: Parameters, *, budget: int, seed: int, kind: DataKind = RATINGS_WITH_TIMES
    ) -> list[Candidate]:
        """The candidates: the defaults first, so that a choice is never worse on the split, then others at random.

        A larger budget starts with the candidates of a smaller budget, so earlier trials are reused.

        Args:
            defaults: built-in parameters, by section.
            budget: maximum number of candidates.
            seed: random seed of the order.
            kind: kind of the data; models that it does not have are no candidates.
        """
        usual = {setting: value_of(defaults, setting) for setting in self.grid}
        others = [
            candidate for candidate in self._combinations() if candidate != usual and self.exists_for(kind, candidate)
        ]
        random.Random(f"{seed} {self.name}").shuffle(others)
        return [usual, *others][: None if self.is_exhaustive else budget]

    def exists_for(self, kind: DataKind, candidate: Candidate) -> bool:
        """Whether a kind of data has the model whose score decides for a candidate."""
        return has_entry(kind, entry(self.task, self.model_of(candidate)))

    def _combinations(self) -> Iterator[Candidate]:
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def model_of(self, candidate: Candidate) -> str:
        """Name of the registry entry whose score decides for this candidate."""
        return self.model or str(candidate[SELECTED[self.task]])


def value_of(parameters: Parameters, setting: str) -> Any:
    """The value of a setting (`section.name`); the built-in model if the setting is a model and is `auto`."""
    section, name = setting.split(".")
    value = parameters[section][name]
    return _BUILT_IN.get(setting, value) if value == AUTO else value


def with_values(parameters: Parameters, changes: Candidate) -> Parameters:
    """Returns the parameters with these settings replaced."""
    changed = dict(parameters)
    for setting, value in changes.items():
        section, name = setting.split(".")
        changed[section] = {**changed[section], name: value}
    return changed


def _choice_of_model(task: Task, objective: Objective) -> Search:
    """The search over all models of a task, each with the settings that earlier searches chose."""
    setting = SELECTED[task]
    models = [entry.name for entry in ENTRIES if entry.task == task and entry.name not in _NOT_FOR_EVERYBODY]
    return Search(setting.split(".")[1], task, "", {setting: models}, objective, is_exhaustive=True)


def _of_section(
    section: str,
    *names: str,
    task: Task,
    model: str = "",
    objective: Objective,
    where: tuple[str, ...] = (),
    name: str = "",
) -> Search:
    """The search over the values that the section of a model lists as `tried`.

    Args:
        section: name of the section, and of the model whose score decides.
        names: settings that are tried together; all of the section by default.
        task: task of the model.
        model: the model whose score decides, if it has another name.
        objective: the score that decides.
        where: see `Search`.
        name: name of the search, if it is not the name of the section.
    """
    tried = _SECTIONS[section].tried
    grid = {f"{section}.{setting}": tried[setting] for setting in names or tried}
    return Search(name or section, task, model or section, grid, objective, where)


_SECTIONS = {of.settings: of.section for of in FITS} | {of.settings: of.section for of in DERIVED}
_rating = partial(_of_section, task="time_cut", objective=RMSE)
_unseen = partial(_of_section, task="time_cut", objective=RMSE_UNSEEN)
_lists = partial(_of_section, task="top_n", objective=NDCG)
_latest = partial(_of_section, task="latest_rating", objective=RMSE_ASIDE)
_next = partial(_of_section, task="next_item", objective=HITS_ASIDE)

# Order matters: a search starts from the choices of the searches before it.
SEARCHES = (
    # Explicit ALS is searched under `time_cut` only: other models win by far elsewhere.
    _rating("als", model="als_adjusted", where=("time_cut",)),
    _unseen("clusters", model="als_adjusted", where=("time_cut",)),
    _unseen("cold_start", model="als_adjusted", where=("time_cut",)),
    _rating("cluster_mean"),
    _rating("user_item_bias"),
    _rating("bayesian_factors"),
    _rating("profile_factors"),
    _unseen("attribute_effects", model="stack", where=("time_cut", "new_users_0")),
    _rating("stack_holdout", model="stack"),
    _rating("stack"),
    _choice_of_model("time_cut", RMSE),
    _lists("implicit_als"),
    _lists("ease", "reg"),
    _lists("ease", "neutral_offset", name="ease_offset"),
    _lists("demographic_popularity", "half_life", name="demographic_popularity_half_life"),
    _lists("demographic_popularity", "reg"),
    _lists("blend", "prior_ratings", name="prior"),
    _lists("blend", "ease_weight"),
    _choice_of_model("top_n", NDCG),
    # Under one protocol only: each candidate fits LDA again, and the next-item model does not use segments.
    _next("segments", model="segment_mixture", where=("latest_rating",)),
    _next("next_ease", model="ease"),
    _next("transitions"),
    _next("sessions"),
    _latest("item_neighbours"),
    _latest("response_stack"),
    _choice_of_model("latest_rating", RMSE_ASIDE),
    _choice_of_model("next_item", HITS_ASIDE),
)
TUNED = tuple(dict.fromkeys(setting for search in SEARCHES for setting in search.grid))
