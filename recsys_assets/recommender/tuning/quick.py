"""Quick choice: a refresh of all models chooses its ranking model and the few settings that matter.

It is a study on a small budget: a few of the searches, on rolling validation splits of the training ratings. Test rows
are in no split. Applying a choice to a run belongs in `orchestration`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.automatic import AUTO
from recsys_assets.recommender.data.frames import in_memory, lazy, pseudo_random, row_count, to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.splitting import cut_in_time
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import Tables
from recsys_assets.recommender.evaluation.settings import SELECTED
from recsys_assets.recommender.registry.fitting import Parameters, entry
from recsys_assets.recommender.tuning.searches import (
    SEARCHES,
    Candidate,
    Objective,
    Search,
    value_of,
    with_values,
)
from recsys_assets.recommender.tuning.trials import Trial, Trials
from recsys_assets.recommender.tuning.tuning import SearchResult, Tried, Tuning, improvement
from recsys_assets.recommender.tuning.validation_splits import ValidationSplit

MODEL = SELECTED["top_n"]
# In the order of `SEARCHES`.
QUICK = (
    "ease",
    "ease_offset",
    "demographic_popularity_half_life",
    "demographic_popularity",
    "prior",
    MODEL.split(".")[1],
)
# Sections of the settings that the quick choice changes.
SECTIONS = frozenset(
    setting.split(".")[0] for search in SEARCHES if search.name in QUICK for setting in search.grid if setting != MODEL
)
# Rolling validation splits as shares of the training ratings in time: end of the training rows, and of the validation
# rows.
_CUTS = ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0))
# Another personal model replaces the built-in one if it is better by this many standard errors. With few users, hardly
# any model is better by a 95 % interval. A model that is not personal needs the interval: it learns all it can from a
# sample, from which a personal model learns less than from all ratings.
_LEAST_ERRORS = 0.5
# A split that scores fewer users than this with or without training ratings is scored on all users together: the
# resamples of a handful of users vary too little.
_LEAST_USERS = 10
# A larger table is sampled by user, so that the quick choice takes about a minute on two cores.
_MOST_RATINGS = 150_000
# Scored users per split.
_MOST_USERS = 2_000
# The time to fit EASE grows with the cube of the number of items: 2,000 items take half a second.
_MOST_ITEMS = 2_000
_PRECISION = 10_000
_NOT_SCORED = "no list of the training ratings can be scored"


@dataclass(frozen=True)
class Choice:
    """The chosen settings; empty if the user has named a ranking model.

    Attributes:
        settings: values by section and name (`ease.reg`), as in `searches.with_values`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, parameters: Parameters) -> Parameters:
        """The parameters with the chosen settings; with the built-in ranking model if no model was chosen.

        A setting that the user has fixed since the choice keeps the user's value.
        """
        searched = {setting for search in searches(parameters) for setting in search.grid}
        own = {setting: value for setting, value in self.settings.items() if setting in searched}
        return with_values(parameters, {MODEL: value_of(parameters, MODEL), **own})

    def save(self, folder: Path) -> None:
        """Write choice.json."""
        (folder / "choice.json").write_text(json.dumps(dict(self.settings), indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "Choice":
        """Read what `save` wrote."""
        return cls(json.loads((folder / "choice.json").read_text()))


def searches(settings: Parameters) -> list[Search]:
    """The searches of `QUICK` that these settings allow.

    A named ranking model turns all searches off. A setting other than `auto` turns its own search off. Models that rank
    by predicted ratings are no candidates: on small splits they can be ahead by chance alone.
    """
    if settings[MODEL.split(".")[0]][MODEL.split(".")[1]] != AUTO:
        return []
    return [
        _without_rating_models(search) if MODEL in search.grid else search
        for search in SEARCHES
        if search.name in QUICK
        and (MODEL in search.grid or all(value_of(settings, setting) == AUTO for setting in search.grid))
    ]


def _without_rating_models(search: Search) -> Search:
    names = [name for name in search.grid[MODEL] if not entry(search.task, name).ranks_by_rating]
    return replace(search, grid={MODEL: names})


def quick_choice(
    tables: Tables,
    settings: Parameters,
    *,
    trials: Path,
    code: str,
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
) -> list[SearchResult]:
    """Searches for the best ranking model and settings on the training ratings; `tuning.chosen` reads the result.

    All splits have the same weight. Within a split, users with and without training ratings have the same weight,
    because their shares differ between the splits and the test rows. Other settings replace the automatic ones only if
    the confidence interval of their mean improvement over the splits, corrected for the number of candidates, lies
    above 0. Another personal model replaces the built-in one if its mean improvement exceeds half a standard error; a
    model that is not personal needs the same interval as settings.

    Args:
        tables: users, items, user_features and train_ratings.
        settings: parameters of all stages, by section.
        trials: folder of the trials; trials of earlier choices are removed.
        code: versions of the libraries that trials depend on.
        seed: random seed of the samples.
        log: called with one line per search.
    """
    parameters = with_values(settings, {"ease.max_items": min(settings["ease"]["max_items"], _MOST_ITEMS)})
    to_do = searches(settings)
    given: dict[str, Any] = {"settings": parameters, "defaults": parameters, "budget": 1, "seed": seed, "code": code}
    given |= {"trials": Trials(trials), "log": log}
    cuts = [_Cut(Tuning(of, **given), populations(of)) for of in rolling_splits(tables, seed=seed)] if to_do else []
    found: list[SearchResult] = []
    for search in to_do if cuts else []:
        found.append(_search(search, cuts, parameters, seed))
        log(_told(found[-1]))
        if found[-1].choice:
            parameters = with_values(parameters, found[-1].choice.candidate)
    for cut in cuts:
        cut.tuning.forget_others()
    return found


def rolling_splits(tables: Tables, *, seed: int) -> list[ValidationSplit]:
    """Rolling validation splits: each has earlier training ratings, and the next ones in place of the test ratings.

    Args:
        tables: users, items, user_features and train_ratings.
        seed: random seed of the sample of users.

    Returns:
        The splits with ratings on both sides.
    """
    shared = {name: tables[name] for name in ("users", "items", "user_features")}
    ratings = tables["train_ratings"]
    share = _MOST_RATINGS / max(row_count(ratings), 1)
    if share < 1:
        shared, ratings = _rated(shared, _of_some(ratings, share, seed))
    else:
        shared, ratings = {name: in_memory(table) for name, table in shared.items()}, in_memory(ratings)
    n_ratings = row_count(ratings)
    made = []
    for start, end in _CUTS:
        trained, until = int(n_ratings * start), int(n_ratings * end)
        if not 0 < trained < until:
            continue
        within = ratings if until == n_ratings else cut_in_time(ratings, "train", cut=until)
        split = protocols.split("top_n", shared | {"ratings": within}, cut=trained)
        scored = split["test_ratings"]
        share = _MOST_USERS / max(row_count(scored.select("user").unique()), 1)
        of = {**split, "test_ratings": _of_some(scored, share, seed, stream=1)}
        made.append(ValidationSplit(f"quick_{start:g}", "top_n", of))
    return made


def _rated(shared: Tables, ratings: nw.LazyFrame) -> tuple[dict[str, nw.LazyFrame], nw.LazyFrame]:
    """The tables without users and items that have no rating, numbered anew in the same order; in memory.

    A model has a row per user and item. Of a large data set, nearly all of these rows would be of users outside the
    sample, and case study A would fill each of them with ratings.
    """
    rows, made = to_polars(ratings), {name: to_polars(table) for name, table in shared.items()}
    for column, names in (("user", ("users", "user_features")), ("item", ("items",))):
        kept = rows[column].unique().sort()
        numbers = pl.DataFrame({column: kept, "new": pl.int_range(len(kept), dtype=pl.Int32, eager=True)})
        rows = _renumbered(rows, column, numbers)
        made |= {name: _renumbered(made[name].sort(column), column, numbers) for name in names}
    return {name: lazy(table) for name, table in made.items()}, lazy(rows)


def _renumbered(rows: pl.DataFrame, column: str, numbers: pl.DataFrame) -> pl.DataFrame:
    found = rows.join(numbers, on=column, maintain_order="left")
    return found.with_columns(pl.col("new").alias(column)).drop("new")


def populations(of: ValidationSplit) -> tuple[str, ...]:
    """The populations whose mean scores a split: `seen` and `unseen`, or `all` if one of the two is too small."""
    train, tested = of.tables["train_ratings"], of.tables["test_ratings"]
    scored = tested.filter(nw.col("rating") >= relevant_from(train)).select("user").unique()
    n_seen = row_count(scored.join(train.select("user").unique(), on="user", how="semi"))
    return ("seen", "unseen") if min(n_seen, row_count(scored) - n_seen) >= _LEAST_USERS else ("all",)


def _of_some(ratings: nw.LazyFrame, share: float, seed: int, *, stream: int = 0) -> nw.LazyFrame:
    """The ratings of a share of the users, sampled by hash; all ratings if the share is at least 1."""
    if share >= 1:
        return ratings
    return ratings.filter(pseudo_random(seed, ["user"], stream=stream) % _PRECISION < int(share * _PRECISION))


class _Cut(NamedTuple):
    """A rolling validation split: its searches, and the populations whose mean scores it."""

    tuning: Tuning
    populations: tuple[str, ...]

    def drawn(self, trial: Trial, metric: str) -> np.ndarray | None:
        """The score of the users, then the scores of the resamples: shape (1 + n_resamples,); None if undefined."""
        if any(trial.score(metric, each) is None for each in self.populations):
            return None
        drawn = [[trial.score(metric, each), *trial.resampled_score(metric, each)] for each in self.populations]
        return np.mean(np.array(drawn, np.float64), axis=0)


def _search(search: Search, cuts: Sequence[_Cut], parameters: Parameters, seed: int) -> SearchResult:
    """Tries all candidates of a search on all splits; a candidate that is significantly worse is not tried further."""
    every = math.prod(map(len, search.grid.values()))
    candidates = search.candidates(parameters, budget=every, seed=seed, kind=cuts[0].tuning.kind)
    tried: list[Tried] = []
    default: list[Trial] = []
    for candidate in candidates:
        trials: list[Trial] = []
        for cut in cuts:
            trials.append(cut.tuning.trial(search, candidate, with_values(parameters, candidate)))
            judged = _judged(search.objective, candidate, cuts, trials, default, len(candidates) - 1)
            if judged.improvement and judged.improvement.high < 0:
                break
        default = default or trials
        tried.append(judged)
        if tried[0].value is None and not any(trial.refusal for trial in default):
            # There is no user to score: no candidate will have a score.
            break
    return SearchResult("quick", search, tried, _LEAST_ERRORS if MODEL in search.grid else None)


def _judged(
    objective: Objective,
    candidate: Candidate,
    cuts: Sequence[_Cut],
    trials: Sequence[Trial],
    default: Sequence[Trial],
    n_others: int,
) -> Tried:
    """The mean score of a candidate over the splits, and its improvement over the automatic settings.

    Splits on which the automatic settings have no score are ignored, unless they were refused on all splits.

    Args:
        objective: the score that decides.
        candidate: the candidate.
        cuts: all splits.
        trials: trials of the candidate, from the first split on.
        default: trials of the automatic settings on all splits; empty if the candidate is the automatic settings.
        n_others: number of candidates other than the automatic settings.
    """
    drawn = [
        (cut.drawn(own, objective.metric), cut.drawn(other, objective.metric))
        for cut, own, other in zip(cuts, trials, default or trials, strict=False)
    ]
    pairs = [(own, other) for own, other in drawn if other is not None]
    if not pairs and default and not any(trial.refusal for trial in trials):
        alone = [own[0] for own, _ in drawn if own is not None]
        return Tried(candidate, trials[-1], float(np.mean(alone)) if alone else None, is_default=False)
    scored = [(own, other) for own, other in pairs if own is not None]
    if not pairs or len(scored) < len(pairs):
        return Tried(candidate, trials[-1], None, is_default=not default)
    value = float(np.mean([own[0] for own, _ in scored]))
    if not default:
        return Tried(candidate, trials[-1], value, is_default=True)
    better = np.mean([own - other for own, other in scored], axis=0)
    sign = 1 if objective.higher else -1
    return Tried(candidate, trials[-1], value, False, improvement(sign * better, n_others=n_others))


def _told(found: SearchResult) -> str:
    """The log line of a search: the choice and its improvement."""
    if found.choice is None:
        refusal = next((tried.trial.refusal for tried in found.tried if tried.trial.refusal), "")
        return f"{found.search.name}: {refusal or _NOT_SCORED}, so nothing is chosen"
    told = ", ".join(f"{setting} {value}" for setting, value in found.choice.candidate.items())
    better = found.choice.improvement
    gain = f", better by {better.value:+.4f} ({better.low:+.4f} to {better.high:+.4f})" if better else ""
    return f"{told}: {found.search.objective.metric} {found.choice.value:.4f}{gain}"
