"""Trials, searches, splits and what is chosen, on made-up data with models that are fitted fast."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import conform, lazy, row_count, to_polars
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.tables import RATINGS, TABLES
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.settings import SELECTED
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.registry import ENTRIES, Entry, Fit, fitting
from recsys_assets.recommender.registry.fitting import parameters_of
from recsys_assets.recommender.tuning import scoring, tuning
from recsys_assets.recommender.tuning.scoring import KeptScores, ProtocolScores
from recsys_assets.recommender.tuning.searches import (
    HITS_ASIDE,
    NDCG,
    RMSE,
    RMSE_ASIDE,
    SEARCHES,
    Objective,
    Search,
    value_of,
    with_values,
)
from recsys_assets.recommender.tuning.segment_sweep import segment_sweep
from recsys_assets.recommender.tuning.study import Study, choices_table, trials_table
from recsys_assets.recommender.tuning.trials import Question, Trial, Trials
from recsys_assets.recommender.tuning.tuning import SearchResult, Tuning, chosen
from recsys_assets.recommender.tuning.validating import ValidationScores
from recsys_assets.recommender.tuning.validation_splits import (
    PROTOCOLS,
    ValidationSplit,
    chosen_with,
    fingerprint,
    is_searched,
    validation_split,
)
from recsys_assets_tests.made_up import made_up

DEFAULTS = {
    name: section
    for name, section in Settings.model_validate(
        {"segments": {"n_segments": 2}, "evaluation": {"selected_response_model": "user_bias"}}
    )
    .model_dump()
    .items()
    if isinstance(section, dict)
}
# Models that are fitted in memory: item means and segments.
A_FEW = (
    Search("means", "time_cut", "item_mean", {"item_mean.shrinkage": (0.0, 10.0, 1000.0)}, RMSE),
    Search("segments", "next_item", "segment_list", {"segments.n_segments": (2, 3)}, HITS_ASIDE),
    Search(
        "response",
        "latest_rating",
        "",
        {SELECTED["latest_rating"]: ("item_mean", "user_bias")},
        RMSE_ASIDE,
        is_exhaustive=True,
    ),
)


@pytest.fixture(scope="module")
def tables() -> dict[str, nw.LazyFrame]:
    """Users, items, features and ratings as the pipeline numbers them."""
    data = made_up()
    index = pl.int_range(pl.len(), dtype=pl.Int32)
    users = data.users.with_columns(user=index, user_id=pl.col("user_id").cast(pl.String))
    items = data.items.select(
        item=index,
        item_id=pl.col("item_id").cast(pl.String),
        title="title",
        year="year",
        genres=pl.concat_list("genre"),
    )
    ratings = data.ratings.select(
        user=pl.col("user_id") - 1,
        item=pl.col("item_id") - 1,
        rating="rating",
        timestamp=(pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us", "UTC")),
        batch=0,
        row=pl.int_range(pl.len()),
    )
    made = {"users": lazy(users), "items": lazy(items), "ratings": conform(lazy(ratings), RATINGS)}
    return made | {"user_features": lazy(clusters.user_features(made["users"]))}


@pytest.fixture
def search_in(tables, tmp_path, monkeypatch) -> Callable[..., list[SearchResult]]:
    """Searches on a protocol's split, with trials in a folder of the test's own."""
    monkeypatch.setattr(tuning, "SEARCHES", A_FEW)

    def searched(protocol: str, given=None, *, searches=None, budget=2, folder: Path = tmp_path) -> list[SearchResult]:
        split = protocols.split(protocol, given or tables)
        of = validation_split(protocol, split, seed=1)
        made = Tuning(
            of,
            settings=DEFAULTS,
            defaults=DEFAULTS,
            trials=Trials(folder / "trials"),
            budget=budget,
            seed=0,
            code="1",
        )
        return made.run(searches)

    return searched


def question(**others) -> Question:
    """Some question."""
    facts = {
        "validation_split": "s",
        "data": "d",
        "task": "time_cut",
        "model": "m",
        "parameters": {"als": {"rank": 3}},
        "code": "1",
    }
    return Question(**facts | others)


def test_a_trial_is_found_again_by_its_question_alone(tmp_path):
    """A study would fit again what it has fitted, or take over scores of other data, settings or code."""
    trials = Trials(tmp_path)
    trial = Trial(question(), {"all": {"rmse": 0.9}}, 1.5, "2026-01-01")
    trials.add(trial)
    assert Trials(tmp_path).get(question()) == trial
    changes = {
        "validation_split": "t",
        "data": "e",
        "task": "top_n",
        "model": "n",
        "parameters": {"als": {"rank": 4}},
        "code": "2",
    }
    for name, value in changes.items():
        assert trials.get(question(**{name: value})) is None, name


def test_half_a_trial_is_no_trial(tmp_path):
    """A study that was killed while it wrote would be unable to go on."""
    trials, trial = Trials(tmp_path), Trial(question(), {}, 1.0, "2026-01-01", "too large")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f".{question().key}.json-1").write_text("{")
    assert trials.get(question()) is None
    trials.add(trial)
    assert trials.get(question()) == trial


def test_a_larger_budget_begins_with_what_a_smaller_one_tried():
    """Raising the budget would throw earlier trials away, or drop the built-in settings from the comparison."""
    search = Search("s", "time_cut", "item_mean", {"als.rank": (1, 2, 3), "als.reg_param": (0.1, 0.2)}, RMSE)
    few, many, all_of_them = (search.candidates(DEFAULTS, budget=n, seed=0) for n in (2, 5, 99))
    assert many[:2] == few and all_of_them[:5] == many
    assert few[0] == {"als.rank": DEFAULTS["als"]["rank"], "als.reg_param": DEFAULTS["als"]["reg_param"]}
    assert len(all_of_them) == 7 and len({json.dumps(each) for each in all_of_them}) == 7
    assert search.candidates(DEFAULTS, budget=5, seed=1) != many


def test_every_search_is_of_settings_and_models_that_exist():
    """A study would end after an hour because of a typing error, or write settings that nothing can read."""
    for search in SEARCHES:
        for candidate in search.candidates(DEFAULTS, budget=99, seed=0):
            assert search.model_of(candidate) in {entry.name for entry in ENTRIES if entry.task == search.task}
            Settings.model_validate(with_values(DEFAULTS, candidate))
            assert all(type(value) is type(value_of(DEFAULTS, setting)) for setting, value in candidate.items()), (
                search.name
            )
        assert any(search.applies(name, protocols.tasks(name)) for name in PROTOCOLS)


def test_searched_settings_are_those_their_models_depend_on():
    """All candidates of a search would be the same trial, and the choice an accident."""
    for search in SEARCHES:
        usual = search.candidates(DEFAULTS, budget=1, seed=0)[0]
        model = next(each for each in ENTRIES if (each.task, each.name) == (search.task, search.model_of(usual)))
        used = parameters_of(model, DEFAULTS)
        for setting in search.grid:
            if setting not in SELECTED.values():
                section, name = setting.split(".")
                assert name in used[section], setting


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if chosen_with(name) == name and not name.startswith("u")])
def test_a_split_is_cut_out_of_the_training_rows(tables, name):
    """Settings would be chosen by rows that are scored later, or by rows that the trial had learnt from."""
    split = protocols.split(name, tables)
    rows = ("histories", "responses") if name.startswith("latest_rating") else ("ratings",)
    of = validation_split(name, split, seed=1)
    pairs = {
        (where, side, table): set(to_polars(given[f"{side}_{table}"], "user", "item").iter_rows())
        for where, given in (("split", split), ("validation_split", of.tables))
        for side in ("train", "test")
        for table in rows
    }
    known = set.union(*(pairs["split", "train", table] for table in rows))
    scored = set.union(*(pairs["split", "test", table] for table in rows))
    learnt = set.union(*(pairs["validation_split", "train", table] for table in rows))
    judged = set.union(*(pairs["validation_split", "test", table] for table in rows))
    assert learnt and judged
    assert learnt | judged <= known and not learnt & judged and not (learnt | judged) & scored


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if chosen_with(name) != name and is_searched(name)])
def test_what_is_chosen_with_another_protocol_has_not_seen_the_test_rows(tables, name):
    """A protocol would be scored on rows by which its settings were chosen."""
    other = protocols.split(chosen_with(name), tables)
    own = protocols.split(name, tables)
    trained = set(to_polars(other["train_ratings"], "user", "item").iter_rows())
    assert not trained & set(to_polars(own["test_ratings"], "user", "item").iter_rows())


def with_noise(tables: dict[str, nw.LazyFrame], hidden: nw.LazyFrame) -> dict[str, nw.LazyFrame]:
    """The same tables, the hidden ratings replaced by others."""
    marked = hidden.select("user", "item", hidden=nw.lit(True))
    ratings = tables["ratings"].join(marked, on=["user", "item"], how="left")
    other = nw.when(~nw.col("hidden").is_null()).then(6 - nw.col("rating")).otherwise(nw.col("rating"))
    return tables | {"ratings": ratings.with_columns(rating=other).drop("hidden")}


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("time_cut", ("test_ratings",)),
        ("random_80_20", ("test_ratings",)),
        ("new_users_5", ("test_ratings",)),
        ("latest_rating", ("test_histories", "test_responses")),
    ],
)
def test_changed_test_rows_change_no_trial_and_no_choice(tables, search_in, tmp_path, name, hidden):
    """Scores would be too good to be true, because the choice had looked at what it is scored on."""
    before = search_in(name, folder=tmp_path / "a")
    split = protocols.split(name, tables)
    noisy = with_noise(tables, nw.concat([split[table] for table in hidden]))
    assert to_polars(noisy["ratings"])["rating"].to_list() != to_polars(tables["ratings"])["rating"].to_list()
    after = search_in(name, noisy, folder=tmp_path / "b")
    assert before and chosen(before) == chosen(after)
    assert [trial.question for trial in _trials(before)] == [trial.question for trial in _trials(after)]
    assert [trial.scores for trial in _trials(before)] == [trial.scores for trial in _trials(after)]


def test_changed_training_rows_change_the_trials(tables, search_in, tmp_path):
    """The test above could not fail, because trials depended on no rating at all."""
    before = search_in("time_cut", folder=tmp_path / "a")
    noisy = with_noise(tables, protocols.split("time_cut", tables)["train_ratings"])
    after = search_in("time_cut", noisy, folder=tmp_path / "b")
    assert not {trial.question.key for trial in _trials(before)} & {trial.question.key for trial in _trials(after)}


def _trials(found: list[SearchResult]) -> list[Trial]:
    return [tried.trial for each in found for tried in each.tried]


def test_a_stopped_study_goes_on_where_it_was(search_in, tmp_path, monkeypatch):
    """Everything would be fitted again after Ctrl-C, or another choice be made than without it."""
    whole = search_in("latest_rating", folder=tmp_path / "whole")
    made: list[Question] = []
    fit_and_score = Tuning._try

    def stopped(self: Tuning, asked: Question, parameters) -> Trial:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(asked)
        return fit_and_score(self, asked, parameters)

    def counted(self: Tuning, asked: Question, parameters) -> Trial:
        made.append(asked)
        return fit_and_score(self, asked, parameters)

    monkeypatch.setattr(Tuning, "_try", stopped)
    with pytest.raises(KeyboardInterrupt):
        search_in("latest_rating", folder=tmp_path / "stopped")
    monkeypatch.setattr(Tuning, "_try", counted)
    again = search_in("latest_rating", folder=tmp_path / "stopped")
    assert chosen(again) == chosen(whole)
    assert [trial.scores for trial in _trials(again)] == [trial.scores for trial in _trials(whole)]
    assert len(made) == len({asked.key for asked in made}) == len({trial.question.key for trial in _trials(whole)})


def test_only_the_searches_asked_for_are_done_and_earlier_trials_decide_the_rest(search_in):
    """`--searches` would fit everything, or forget what other searches had found."""
    first = search_in("latest_rating", searches=["segments"])
    assert [len(each.tried) for each in first] == [2, 0]
    assert set(chosen(first)) == {"segments.n_segments"}
    second = search_in("latest_rating", searches=["response"])
    assert [len(each.tried) for each in second] == [2, 2]
    assert search_in("latest_rating", searches=())[0].tried == second[0].tried


def test_a_candidate_that_cannot_be_fitted_is_out_and_says_why(search_in, monkeypatch):
    """One method that refuses the data would end the whole study."""

    def refuse(*asked) -> ValidationScores:
        if asked[-1]["segments"]["n_segments"] == 3:
            raise ValueError("too many segments")
        scores = {"next_item_hit_10": 0.5, "rmse": 1.0}
        return ValidationScores(
            {"test_users": scores}, {"test_users": {name: [score] for name, score in scores.items()}}
        )

    monkeypatch.setattr(Tuning, "_scores", refuse)
    (segments, _) = search_in("latest_rating")
    assert chosen([segments]) == {"segments.n_segments": 2}
    table = trials_table([segments]).filter(~pl.col("is_chosen"))
    assert table["refusal"].to_list() == ["too many segments"] and table["value"].to_list() == [None]


def found(*values: float | list[float] | None, higher: bool = False) -> SearchResult:
    """A search with a candidate per score, the built-in one first; a list is a score and what resamples make of it."""
    objective = Objective("x", higher=higher)
    search = Search("s", "time_cut", "als_adjusted", {"als.rank": tuple(range(len(values)))}, objective)
    trials = []
    for rank, value in enumerate(values):
        score, *resampled = value if isinstance(value, list) else [value]
        scores = {} if score is None else {"all": {"x": score}}
        asked = question(model=str(rank))
        trials.append(Trial(asked, scores, 0.0, "2026-01-01", resampled={"all": {"x": resampled}} if scores else {}))
    n_others = max(len(trials) - 1, 1)
    tried = [tuning._judged(objective, {"als.rank": n}, trial, trials[0], n_others) for n, trial in enumerate(trials)]
    return SearchResult("a", search, tried)


def test_the_best_of_what_is_better_is_chosen():
    """The worst settings would be trained with."""
    assert chosen([found(0.1, 0.3, 0.2, higher=True)]) == {"als.rank": 1}
    assert chosen([found(0.1, 0.3, 0.05)]) == {"als.rank": 2}
    assert chosen([found(0.1, None, 0.1)]) == {"als.rank": 0}
    assert chosen([found(None)]) == {}
    assert chosen([found(None, 0.2, 0.1)]) == {"als.rank": 2}
    assert chosen([found(1.0, 2.0, higher=True), found(2.0, 1.0, higher=True)]) == {"als.rank": 0}


def test_what_may_be_chance_changes_no_setting():
    """Settings would follow the noise of a split, and score worse on the test rows than those that are built in."""
    usual = [0.90, 0.80, 1.00]
    by_chance, surely, best_by_chance = [0.89, 0.81, 0.97], [0.88, 0.79, 0.98], [0.80, 0.85, 0.75]
    of = found(usual, by_chance, surely, best_by_chance)
    assert chosen([of]) == {"als.rank": 2}
    assert [each.improvement and each.improvement.low > 0 for each in of.tried] == [None, False, True, False]
    only = found(usual, by_chance, best_by_chance)
    assert chosen([only]) == {"als.rank": 0} and only.best_other is only.tried[2]
    assert only.best_other.improvement.value == pytest.approx(0.1)


def test_a_choice_by_standard_errors_needs_no_whole_interval():
    """With few users no model would ever replace the built-in one, however much better it is."""
    usual, better, hardly, worse = [0.8, 0.8, 0.8], [0.90, 0.82, 0.98], [0.83, 0.75, 0.91], [0.7, 0.7, 0.7]
    of = found(usual, better, hardly, worse, higher=True)
    assert chosen([of]) == {"als.rank": 0}
    assert chosen([replace(of, least_errors=1.0)]) == {"als.rank": 1}
    assert chosen([replace(found(usual, hardly, higher=True), least_errors=1.0)]) == {"als.rank": 0}


def test_a_model_that_is_not_personal_needs_the_whole_interval():
    """Everybody would be shown the same list, because a sample is too small for personal models to learn from."""
    of = found([0.8, 0.8, 0.8], [0.90, 0.82, 0.98], higher=True)
    of = replace(of, least_errors=1.0)
    assert chosen([of]) == {"als.rank": 1}
    assert chosen([replace(of, search=replace(of.search, model="item_mean"))]) == {"als.rank": 0}


def test_the_more_is_tried_the_surer_a_choice_has_to_be():
    """Of twenty candidates that are no better than the built-in settings, one would be chosen most of the time."""
    drawn = np.random.default_rng(0).normal(0, 1, (200, 21))
    resampled = np.random.default_rng(1).normal(0, 1, 400)
    chosen_by_chance = [
        any(tuning.improvement(np.array([gain, *(gain + resampled)]), n_others=21).low > 0 for gain in gains)
        for gains in drawn
    ]
    assert np.mean(chosen_by_chance) < 0.06
    assert tuning.improvement(np.array([2.5, *(2.5 + resampled)]), n_others=1).low > 0


def test_candidates_are_compared_on_the_same_users(search_in):
    """The interval of an improvement would be as wide as that of a score, and nothing would ever be chosen."""
    (means,) = search_in("time_cut", budget=3)
    usual, *others = (tried.trial for tried in means.tried)
    spread = np.std(usual.resampled_score("rmse", "all"))
    assert spread > 0 and len(others) == 2
    for trial, tried in zip(others, means.tried[1:], strict=True):
        better = np.subtract(usual.resampled_score("rmse", "all"), trial.resampled_score("rmse", "all"))
        assert 0 < np.std(better) < spread / 2
        assert tried.improvement.low < tried.improvement.value < tried.improvement.high
        assert tried.improvement.value == pytest.approx(usual.score("rmse", "all") - tried.value)


def test_tables_of_trials_and_choices_are_as_declared(search_in):
    """A person could not read what was tried, or the study end when its results are stored."""
    of = search_in("latest_rating")
    trials = to_polars(conform(lazy(trials_table(of)), TABLES["study_trials"]))
    choices = to_polars(conform(lazy(choices_table(of, DEFAULTS)), TABLES["tuned_settings"]))
    assert len(trials) == 4 and trials["is_chosen"].sum() == 2 and trials["is_default"].sum() == 2
    assert dict(choices.select("setting", "chosen").iter_rows()) == {
        setting: json.dumps(value) for setting, value in chosen(of).items()
    }


def test_the_order_of_rows_makes_no_other_split(tables):
    """The same ratings in another order would be studied again from the start."""
    shuffled = {name: lazy(to_polars(frame).sample(fraction=1, shuffle=True, seed=1)) for name, frame in tables.items()}
    renumbered = shuffled["ratings"].with_columns(batch=nw.lit(3))
    assert fingerprint(tables) == fingerprint(shuffled | {"ratings": renumbered})
    fewer = tables | {"ratings": tables["ratings"].head(100)}
    older = tables | {"users": tables["users"].with_columns(age=nw.col("age") + 1)}
    assert len({fingerprint(each) for each in (tables, fewer, older)}) == 3


def test_scores_that_are_there_are_not_made_again(tmp_path):
    """A study that was stopped would fit every model of every protocol again."""
    kept, made = KeptScores(tmp_path), []

    def make() -> ProtocolScores:
        made.append(len(made))
        return ProtocolScores(*(pl.DataFrame({"a": [len(made)]}) for _ in range(3)))

    assert kept.newest("time_cut") is None
    first = kept.of("time_cut", "one", make)
    assert kept.of("time_cut", "one", make).scores.equals(first.scores) and len(made) == 1
    second = kept.of("time_cut", "two", make)
    assert KeptScores(tmp_path).newest("time_cut").scores.equals(second.scores)
    assert kept.of("time_cut", "one", make).scores.equals(first.scores) and len(made) == 2
    assert KeptScores(tmp_path).newest("time_cut").scores.equals(first.scores)


def test_a_second_study_begins_where_the_first_began(tables, tmp_path, search_in, monkeypatch):
    """What a study chose would become its next start: nothing of what it tried would be found again."""
    first = search_in("latest_rating")
    monkeypatch.setattr(tuning, "TUNED", ("segments.n_segments", SELECTED["latest_rating"]))
    after = with_values(DEFAULTS, {"segments.n_segments": 17, SELECTED["latest_rating"]: "segment_mean"})
    of = validation_split("latest_rating", protocols.split("latest_rating", tables), seed=1)
    facts = {"trials": Trials(tmp_path / "trials"), "budget": 2, "seed": 0, "code": "1"}
    again = Tuning(of, settings=after, defaults=DEFAULTS, **facts).run(())
    assert [trial.question for trial in _trials(again)] == [trial.question for trial in _trials(first)]


RANKERS = ("popularity", "demographic_popularity", "ease")
OF_RANKERS = (
    Search("ease", "top_n", "ease", {"ease.reg": (1.0, 3000.0)}, NDCG),
    Search("ranker", "top_n", "", {SELECTED["top_n"]: ("popularity", "ease")}, NDCG, is_exhaustive=True),
)


@pytest.fixture
def study(tables, tmp_path, monkeypatch) -> Study:
    """A study of a few ranking models, in a folder of the test's own."""
    monkeypatch.setattr(tuning, "SEARCHES", OF_RANKERS)
    rankers = tuple(entry for entry in ENTRIES if entry.task == "top_n" and entry.name in RANKERS)
    monkeypatch.setattr(scoring, "ENTRIES", rankers)
    parameters = with_values(DEFAULTS, {SELECTED["top_n"]: "demographic_popularity"})
    facts = {"code": "1"}
    how = scoring.Scoring(n_resamples=20)
    return Study(tables, parameters, parameters, tmp_path, scoring=how, budget=2, **facts)


@pytest.mark.parametrize("split", protocols.TOP_N_LEAKAGE_AUDIT[1:])
def test_the_ranking_audit_shows_the_models_that_top_n_chose(study, split):
    """The audit would compare other models, or choose anew by rows that are scored, or fit for hours."""
    untried = study.found(split)
    assert not any(each.tried for each in untried) and not list(study.folder.rglob("*.json"))
    honest = study.found("top_n")
    taken = study.found(split)
    assert chosen(taken) == chosen(honest) and set(chosen(honest)) == {"ease.reg", SELECTED["top_n"]}
    assert [trial.question for trial in _trials(taken)] == [trial.question for trial in _trials(honest)]
    scores = study.scores(split).scores
    assert {"selected", "random", "upper_bound", *RANKERS} == set(scores["model"])
    of = dict(scores.filter(metric="ndcg_10", population="all").select("model", "value").iter_rows())
    assert of["selected"] == of[chosen(honest)[SELECTED["top_n"]]]


def test_lists_for_all_users_are_made_for_the_pipelines_own_ranking_only(study):
    """The audit would rank the whole catalogue for every user, which takes longer than all of its fits."""
    metrics = {name: set(study.scores(name).scores["metric"]) for name in protocols.TOP_N_LEAKAGE_AUDIT}
    assert "catalog_coverage" in metrics["top_n"] and "ndcg_10_gain" in set.intersection(*metrics.values())
    assert not any("catalog_coverage" in metrics[name] for name in protocols.TOP_N_LEAKAGE_AUDIT[1:])


class DrawnSettings(Section):
    """The settings of the model that is nothing but its seed."""

    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """A model that is nothing but its seed: half a star more from one seed to the next."""

    seed: int

    def predict(self, pairs: nw.LazyFrame) -> nw.LazyFrame:
        """The same rating for all pairs."""
        return pairs.select("user", "item", prediction=nw.lit(3.0 + self.seed / 2000))


def drawn_order(drawn_model: Drawn, users: nw.LazyFrame, items: nw.LazyFrame) -> rankings.Ranker:
    """The items in an order that the seed draws."""
    scores = np.random.default_rng(drawn_model.seed).random((row_count(items), 1), dtype=np.float32)
    return rankings.of_vectors(np.ones((row_count(users), 1), np.float32), scores)


@pytest.fixture
def fitted(monkeypatch) -> list[str]:
    """What is fitted, in order; of ratings and of rankings there are a model without a seed and one that is its seed.

    To be asked for after `study`, whose models these replace.
    """

    def fit(_: nw.LazyFrame, *, settings: DrawnSettings, **given: Any) -> Drawn:
        del given
        return Drawn(settings.seed)

    drawn = Fit("drawn_model", fit, Drawn, "train_ratings", "drawn", DrawnSettings, "Drawn.")
    monkeypatch.setitem(fitting._STEPS, "drawn_model", drawn)
    without_seed = (("time_cut", "item_mean"), ("top_n", "popularity"))
    entries = [entry for entry in ENTRIES if (entry.task, entry.name) in without_seed]
    entries += [Entry("drawn", "time_cut", "drawn_model"), Entry("drawn", "top_n", drawn_order)]
    monkeypatch.setattr(scoring, "ENTRIES", entries)
    monkeypatch.setattr(tuning, "SEARCHES", ())
    done: list[str] = []
    once = fitting.ModelFitter._make

    def counted(self: fitting.ModelFitter, what: Fit) -> object:
        done.append(what.asset)
        return once(self, what)

    monkeypatch.setattr(fitting.ModelFitter, "_make", counted)
    return done


def of_seeds(study: Study, folder: Path, n_seeds: int, *, seed: int = 0) -> Study:
    """The same study of the models of `fitted` with so many seeds; those that are their seed begin with this one."""
    drawn = dict.fromkeys(("selected_rating_model", "selected_ranking_model"), "drawn")
    selected = {**study.settings["evaluation"], **drawn}
    settings = {**study.settings, "evaluation": selected, "drawn": {"seed": seed}}
    how = scoring.Scoring(n_resamples=20, n_seeds=n_seeds)
    return replace(study, settings=settings, defaults=settings, folder=folder, scoring=how)


def rmse_of(scores: ProtocolScores) -> dict[str, tuple[float, int, float]]:
    """By model: value, seeds and standard deviation over them."""
    rows = scores.scores.filter(metric="rmse", population="all")
    return {model: tuple(told) for model, *told in rows.select("model", "value", "seeds", "seed_sd").iter_rows()}


def test_scores_are_the_mean_over_seeds_and_only_what_has_a_seed_is_fitted_again(study, fitted, tmp_path):
    """A lucky seed would pass for the method, or a study fit everything once for each seed."""
    together = of_seeds(study, tmp_path / "all", 3).scores("time_cut")
    assert fitted == ["item_mean_model", *["drawn_model"] * 3]
    alone = [of_seeds(study, tmp_path / f"{n}", 1, seed=1000 * n).scores("time_cut") for n in range(3)]
    single = pl.Series([rmse_of(each)["drawn"][0] for each in alone])
    found = rmse_of(together)
    assert found["drawn"] == found["selected"] == pytest.approx((single.mean(), 3, single.std())) and single.std() > 0
    assert found["item_mean"] == pytest.approx((rmse_of(alone[0])["item_mean"][0], 3, 0.0)) and not found["random"][2]
    assert together.user_scores.equals(alone[0].user_scores)
    assert together.paired_tests.equals(alone[0].paired_tests)


def test_scores_are_found_again_after_a_study_has_set_what_it_chose(study, fitted, tmp_path):
    """The same command would score everything anew, because the first has changed the settings it starts from."""
    first = of_seeds(study, tmp_path, 1)
    first.scores("time_cut")
    n_fitted = len(fitted)
    afterwards = with_values(first.settings, {"als.rank": 50, SELECTED["time_cut"]: "item_mean"})
    replace(first, settings=afterwards).scores("time_cut")
    assert len(fitted) == n_fitted


def test_other_protocols_have_one_seed_and_are_kept_when_their_number_changes(study, fitted, tmp_path):
    """Twenty protocols would take three times as long, or show scores of another number of seeds than was asked for."""
    random = [of_seeds(study, tmp_path, n).scores("random_80_20") for n in (1, 3)]
    assert fitted == ["item_mean_model", "drawn_model"]
    assert random[0].scores.equals(random[1].scores)
    assert set(random[0].scores.select("seeds", "seed_sd").iter_rows()) == {(1, 0.0)}
    pipeline = [of_seeds(study, tmp_path, n).scores("time_cut") for n in (1, 3)]
    assert [rmse_of(each)["drawn"][1] for each in pipeline] == [1, 3]


def test_the_next_seed_of_one_model_is_no_other_models_seed():
    """Two models that are averaged because they differ would be the same model."""
    seeds = {section: fields["seed"] for section, fields in DEFAULTS.items() if "seed" in fields}
    factors = [seeds[section] for section in ("bayesian_factors", "profile_factors")]
    drawn = [seed + number * scoring._SEED_STEP for seed in factors for number in range(5)]
    assert len(set(factors)) == 2 and len(set(drawn)) == len(drawn)


def test_lists_are_those_of_the_models_of_each_seed(study, fitted, tmp_path, monkeypatch):
    """Coverage would be that of the first seed, under the name of the mean of all."""
    asked: list[set[str]] = []
    make = protocols.lists

    def counted(tables, ranked, ranker, **others):
        asked.append({entry.name for entry in ranked})
        return make(tables, ranked, ranker, **others)

    monkeypatch.setattr(protocols, "lists", counted)
    together, *alone = (
        of_seeds(study, tmp_path / f"{number}", n_seeds, seed=seed).scores("top_n").scores
        for number, (n_seeds, seed) in enumerate([(2, 0), (1, 0), (1, 1000)])
    )
    assert asked == [{"popularity", "drawn"}, {"drawn"}, *[{"popularity", "drawn"}] * 2]
    assert fitted == ["drawn_model"] * 4
    novelty = {"metric": "novelty_10", "population": "all"}
    single = pl.concat([scores.filter(**novelty, model="drawn") for scores in alone])["value"]
    found = {row["model"]: row for row in together.filter(**novelty).iter_rows(named=True)}
    assert found.keys() == {"popularity", "drawn", "selected", "random"}
    assert found["drawn"]["value"] == pytest.approx(single.mean())
    assert found["drawn"]["seed_sd"] == pytest.approx(single.std()) and single.std() > 0
    assert found["popularity"]["seed_sd"] == found["random"]["seed_sd"] == 0


def test_the_number_of_segments_is_judged_on_users_who_were_kept_aside(tables):
    """The number of segments would be chosen by scores of the users who trained them, or of the test users."""
    split = protocols.split("latest_rating", tables)
    of = validation_split("latest_rating", split, seed=1)

    def swept(given: ValidationSplit) -> pl.DataFrame:
        return segment_sweep(given, DEFAULTS, numbers=(2, 3), n_resamples=100)

    table = swept(of)
    assert set(table["n_segments"]) == {2, 3}
    assert set(table["metric"]) == {"r2", "next_item_hit_10", "perplexity"}
    of_means = table.filter(model="item_mean")["value"]
    assert len(of_means) == 2 and of_means.n_unique() == 1
    noisy = with_noise(tables, nw.concat([split["test_histories"], split["test_responses"]]))
    again = swept(validation_split("latest_rating", protocols.split("latest_rating", noisy), seed=1))
    assert again.equals(table)
    aside = of.tables["test_responses"].with_columns(rating=6 - nw.col("rating"))
    other = swept(replace(of, tables={**of.tables, "test_responses": aside}))
    is_of_ratings = pl.col("metric") == "r2"
    assert not other.filter(is_of_ratings).equals(table.filter(is_of_ratings))
    assert other.filter(~is_of_ratings).equals(table.filter(~is_of_ratings))
    nobody = {**of.tables, "test_histories": of.tables["test_histories"].head(0)}
    assert swept(replace(of, tables=nobody)).is_empty()
