"""Searches: the settings, the values to try, and the score on the validation split that decides.

A new search is one entry in `SEARCHES`. Running searches belongs in `tuning`.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from recsys_assets.recommender.data.automatic import AUTO
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.evaluation.score_table import DECIDING
from recsys_assets.recommender.registry import ENTRIES, Task
from recsys_assets.recommender.registry.fitting import Parameters, entry
from recsys_assets.recommender.registry.kinds import has_entry

# Values of settings by section and name: `als.rank`.
Knobs = Mapping[str, Any]
SELECTED_KNOBS: Mapping[Task, str] = {
    "time_cut": "evaluation.selected_rating_model",
    "top_n": "evaluation.selected_ranking_model",
    "latest_rating": "evaluation.selected_response_model",
    "next_item": "evaluation.selected_next_item_model",
}
# The model that `auto` stands for until a search chooses another one.
_BUILT_IN = {SELECTED_KNOBS["top_n"]: "blend"}
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
# In a slice of case study B, `test_users` are held-out train users.
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
        where: protocols whose slices run the search; empty for all protocols with the task.
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
        """Whether the search runs on the slice of a protocol with these tasks."""
        return self.task in tasks and (not self.where or protocol in self.where)

    def candidates(
        self, defaults: Parameters, *, budget: int, seed: int, kind: DataKind = RATINGS_WITH_TIMES
    ) -> list[Knobs]:
        """The candidates: the defaults first, so that a choice is never worse on the slice, then others at random.

        A larger budget starts with the candidates of a smaller budget, so earlier trials are reused.

        Args:
            defaults: built-in parameters, by section.
            budget: maximum number of candidates.
            seed: random seed of the order.
            kind: kind of the data; models that it does not have are no candidates.
        """
        usual = {knob: value_of(defaults, knob) for knob in self.grid}
        others = [knobs for knobs in self._combinations() if knobs != usual and self.exists_for(kind, knobs)]
        random.Random(f"{seed} {self.name}").shuffle(others)
        return [usual, *others][: None if self.is_exhaustive else budget]

    def exists_for(self, kind: DataKind, knobs: Knobs) -> bool:
        """Whether a kind of data has the model whose score decides for a candidate."""
        return has_entry(kind, entry(self.task, self.model_of(knobs)))

    def _combinations(self) -> Iterator[Knobs]:
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def model_of(self, knobs: Knobs) -> str:
        """Name of the registry entry whose score decides for this candidate."""
        return self.model or str(knobs[SELECTED_KNOBS[self.task]])


def value_of(parameters: Parameters, knob: str) -> Any:
    """The value of a setting (`section.name`); the built-in model if the setting is a model and is `auto`."""
    section, name = knob.split(".")
    value = parameters[section][name]
    return _BUILT_IN.get(knob, value) if value == AUTO else value


def with_knobs(parameters: Parameters, knobs: Knobs) -> Parameters:
    """Returns the parameters with these settings replaced."""
    changed = dict(parameters)
    for knob, value in knobs.items():
        section, name = knob.split(".")
        changed[section] = {**changed[section], name: value}
    return changed


def _choice_of_model(task: Task, objective: Objective) -> Search:
    """The search over all models of a task, each with the settings that earlier searches chose."""
    knob = SELECTED_KNOBS[task]
    models = [entry.name for entry in ENTRIES if entry.task == task and entry.name not in _NOT_FOR_EVERYBODY]
    return Search(knob.split(".")[1], task, "", {knob: models}, objective, is_exhaustive=True)


# Order matters: a search starts from the choices of the searches before it.
SEARCHES = (
    Search(
        "als",
        "time_cut",
        "als_adjusted",
        {"als.rank": (10, 20, 50), "als.reg_param": (0.05, 0.07, 0.1), "als.max_iter": (10, 15)},
        RMSE,
        # Not under other protocols: other models win by far there, and each trial is two fits in Spark.
        ("time_cut",),
    ),
    Search("clusters", "time_cut", "als_adjusted", {"clusters.k": (2, 5, 10, 20, 40)}, RMSE_UNSEEN, ("time_cut",)),
    Search(
        "cold_start",
        "time_cut",
        "als_adjusted",
        {"cold_start.fill_size": ("median", "10", "30", "200", "500")},
        RMSE_UNSEEN,
        ("time_cut",),
    ),
    Search("cluster_mean", "time_cut", "cluster_mean", {"cluster_mean.shrinkage": (20.0, 50.0, 100.0, 200.0)}, RMSE),
    Search(
        "user_item_bias",
        "time_cut",
        "user_item_bias",
        {"user_item_bias.user_shrinkage": (2.0, 5.0, 10.0), "user_item_bias.item_shrinkage": (2.0, 5.0, 20.0)},
        RMSE,
    ),
    Search(
        "bayesian_factors",
        "time_cut",
        "bayesian_factors",
        {"bayesian_factors.rank": (12, 24, 36), "bayesian_factors.reg_links": (3.0, 10.0, 30.0)},
        RMSE,
    ),
    Search(
        "profile_factors",
        "time_cut",
        "profile_factors",
        {"profile_factors.rank": (24, 40), "profile_factors.n_profile": (30, 60)},
        RMSE,
    ),
    Search(
        "attribute_effects",
        "time_cut",
        "stack",
        {"attribute_effects.reg": (100.0, 300.0, 1000.0)},
        RMSE_UNSEEN,
        ("time_cut", "new_users_0"),
    ),
    Search("stack_holdout", "time_cut", "stack", {"stack_holdout.folds": ("time", "random")}, RMSE),
    Search("stack", "time_cut", "stack", {"stack.reg": (1e3, 1e4, 3e4, 1e5), "stack.level_share": (0.5, 1.0)}, RMSE),
    _choice_of_model("time_cut", RMSE),
    Search(
        "ranking",
        "top_n",
        "implicit_als",
        {
            "ranking.rank": (16, 32, 64, 128),
            "ranking.reg_param": (0.01, 0.1, 1.0),
            "ranking.alpha": (1.0, 4.0, 16.0),
            "ranking.max_iter": (10, 15),
        },
        NDCG,
    ),
    Search("ease", "top_n", "ease", {"ease.reg": ("auto * 0.1", "auto * 0.3", "auto", "auto * 3")}, NDCG),
    Search("ease_offset", "top_n", "ease", {"ease.neutral_offset": ("auto", "0", "-1.5")}, NDCG),
    Search("liking_age", "top_n", "liking", {"liking.half_life": ("auto * 0.3", "auto", "auto * 3")}, NDCG),
    Search("liking", "top_n", "liking", {"liking.reg": ("auto * 0.3", "auto", "auto * 3")}, NDCG),
    Search(
        "prior",
        "top_n",
        "blend",
        {"blend.prior_ratings": ("auto * 0.01", "auto * 0.1", "auto * 0.3", "auto", "auto * 3")},
        NDCG,
    ),
    Search("blend", "top_n", "blend", {"blend.ease_weight": (0.25, 0.5, 0.75, 1.0)}, NDCG),
    _choice_of_model("top_n", NDCG),
    Search(
        "segments",
        "next_item",
        "segment_mixture",
        {"segments.n_segments": (5, 10, 20, 40, 80)},
        HITS_ASIDE,
        # Not under other protocols: each candidate fits LDA again, and the next-item model does not use segments.
        ("latest_rating",),
    ),
    Search(
        "next_ease",
        "next_item",
        "ease",
        {"next_ease.reg": ("auto * 0.3", "auto", "auto * 3.2", "auto * 8")},
        HITS_ASIDE,
    ),
    Search(
        "transitions",
        "next_item",
        "transitions",
        {"transitions.window": (5, 10, 20), "transitions.half_life": (0.75, 1.5, 3.0, 6.0)},
        HITS_ASIDE,
    ),
    Search("sessions", "next_item", "sessions", {"sessions.start_weight": (0.1, 0.2, 0.5)}, HITS_ASIDE),
    Search(
        "item_neighbours",
        "latest_rating",
        "item_neighbours",
        {"item_neighbours.pair_shrinkage": (20.0, 50.0, 100.0), "item_neighbours.exponent": (1.0, 2.0, 3.0)},
        RMSE_ASIDE,
    ),
    Search("response_stack", "latest_rating", "response_stack", {"response_stack.reg": (3.0, 30.0, 300.0)}, RMSE_ASIDE),
    _choice_of_model("latest_rating", RMSE_ASIDE),
    _choice_of_model("next_item", HITS_ASIDE),
)
KNOBS = tuple(dict.fromkeys(knob for search in SEARCHES for knob in search.grid))
