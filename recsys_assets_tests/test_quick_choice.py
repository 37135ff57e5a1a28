"""The quick choice: what is served follows the data, on made-up ratings with planted taste."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore
from recsys_assets.recommender.data.frames import conform, lazy, row_count, to_polars
from recsys_assets.recommender.data.tables import RATINGS
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.models import blend
from recsys_assets.recommender.promotion.gate import Configuration
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.registry import ENTRIES
from recsys_assets.recommender.registry.fitting import ModelFitter
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.tuning import quick
from recsys_assets.recommender.tuning.quick import MODEL, Choice
from recsys_assets.recommender.tuning.searches import value_of, with_values
from recsys_assets.recommender.tuning.tuning import SearchResult, chosen
from recsys_assets_tests.conftest import FAST_SETTINGS
from recsys_assets_tests.planted_taste import Shape, planted
from recsys_assets_tests.running import copied, materialize, table

DEFAULTS = Settings().model_dump()
FEW_LIKES = Shape("few likes", 1_500, 40, 5, "likes", 1.0)
LOUD = Shape("one loud group", 1_500, 60, 4, "likes", 0.8, n_groups=6, group_popularity=3.0, seed=1)
STARS = Shape("stars", 300, 120, 20, "stars", 0.5, own_share=0.7, seed=2)
FEW_USERS = Shape("few users", 200, 400, 30, "stars", 0.6, own_share=0.7, seed=7)


def tables_of(ratings: pl.DataFrame, shape: Shape) -> dict[str, nw.LazyFrame]:
    """Users, items, features and ratings as the pipeline numbers them; the index is the id."""
    made = {
        f"{name}s": lazy(pl.DataFrame({name: np.arange(n, dtype=np.int32), f"{name}_id": np.arange(n).astype(str)}))
        for name, n in (("user", shape.n_users), ("item", shape.n_items))
    }
    rows = ratings.select(
        user="user_id",
        item="item_id",
        rating="rating",
        timestamp=(pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us", "UTC")),
        batch=0,
        row=pl.int_range(pl.len()),
    )
    made |= {"ratings": conform(lazy(rows), RATINGS), "user_features": lazy(clusters.user_features(made["users"]))}
    return made


@pytest.fixture
def choose(tmp_path, monkeypatch) -> Callable[..., list[SearchResult]]:
    """The quick choice among a few models that are fitted fast."""
    of_models = {MODEL: ["popularity", "demographic_popularity", "item_knn", "ease", "blend"]}
    without = [replace(each, grid=of_models) if MODEL in each.grid else each for each in quick.SEARCHES]
    monkeypatch.setattr(quick, "SEARCHES", without)

    def made(
        tables: Mapping[str, nw.LazyFrame], settings: Any = DEFAULTS, only: Collection[str] = ()
    ) -> list[SearchResult]:
        if only:
            monkeypatch.setattr(quick, "SEARCHES", [each for each in without if each.name in only])
        given = {"trials": tmp_path, "code": "1"}
        return quick.quick_choice(tables, settings, **given)

    return made


def served(tables: Mapping[str, nw.LazyFrame], parameters: Mapping[str, Any], n: int = 5) -> pl.DataFrame:
    """What is shown to users with these parameters, fitted on all ratings."""
    given = {**tables, "train_ratings": tables["ratings"]}
    fitted = ModelFitter(given, parameters)
    ranker = serving.fit(value_of(parameters, MODEL), fitted).ranker(tables["ratings"], tables)
    users = np.arange(row_count(tables["users"]), dtype=np.int32)
    return rankings.top_n(ranker, tables["ratings"], users, n=n)


@pytest.mark.parametrize("shape", [FEW_LIKES, LOUD, STARS], ids=lambda shape: shape.name)
def test_lists_are_of_the_users_own_taste(shape, choose):
    """Users with few ratings would all be shown the same list, whatever they like."""
    tables = tables_of(planted(shape), shape)
    split = protocols.split("top_n", tables, cut=0.8)
    parameters = Choice(chosen(choose(split))).applied(DEFAULTS)
    lists = served(tables, parameters)
    own = lists["user"] % shape.n_groups == lists["item"] % shape.n_groups
    most_shown = lists.group_by("item").len().sort("len", descending=True)["len"][:4]
    assert own.mean() >= 0.6
    assert (most_shown < shape.n_users / 2).all()


def test_the_choice_leaves_a_blend_that_swamps_taste(choose):
    """Where the built-in blend shows everybody the same, it would stay, because nobody asks for a study."""
    split = protocols.split("top_n", tables_of(planted(FEW_LIKES), FEW_LIKES), cut=0.8)
    swamped = with_values(DEFAULTS, {"blend.prior_ratings": "1000"})
    found = choose(split, swamped)
    assert chosen(found)[MODEL] != "blend" and "blend.prior_ratings" not in chosen(found)
    assert found[-1].choice.improvement.low > 0


def test_few_users_are_enough_to_leave_the_built_in_model(choose):
    """With 200 users the model of the score table that is better beyond its interval would not be served."""
    split = protocols.split("top_n", tables_of(planted(FEW_USERS), FEW_USERS), cut=0.8)
    best_blend = with_values(DEFAULTS, {"ease.reg": "auto * 3", "blend.prior_ratings": "auto * 0.01"})
    (models,) = choose(split, best_blend, only=(MODEL.split(".")[1],))
    assert chosen([models]) == {MODEL: "item_knn"}
    assert models.choice.improvement.low < 0


def test_the_registry_knows_which_models_are_personal():
    """The quick choice would ask too little evidence of a model that shows everybody the same."""
    fitted = ModelFitter(protocols.split("top_n", tables_of(planted(STARS), STARS), cut=0.8), DEFAULTS)
    for each in [each for each in ENTRIES if each.task == "top_n"]:
        assert each.is_personal == (fitted.ranker(each).contributions is not None), each.name


def test_models_that_rank_by_predicted_ratings_are_no_candidates():
    """Likes of few users would be served by ALS on ratings that are all alike, because it was ahead by chance once."""
    models = quick.searches(DEFAULTS)[-1].grid[MODEL]
    assert {"als_adjusted", "item_mean", "user_item_bias"}.isdisjoint(models)
    assert {"blend", "item_knn", "ease", "demographic_popularity"} <= set(models)


def test_what_is_named_is_not_chosen(choose):
    """Somebody's own settings, or those of a study, would be overruled by a guess."""
    split = protocols.split("top_n", tables_of(planted(STARS), STARS), cut=0.8)
    named = with_values(DEFAULTS, {MODEL: "demographic_popularity"})
    assert choose(split, named) == []
    fixed = with_values(DEFAULTS, {"ease.reg": "100", "demographic_popularity.half_life": "0.3"})
    names = [each.search.name for each in choose(split, fixed)]
    assert "ease" not in names and "demographic_popularity_half_life" not in names and "prior" in names
    assert value_of(Choice().applied(named), MODEL) == "demographic_popularity"
    assert value_of(Choice().applied(DEFAULTS), MODEL) == "blend"


def test_a_setting_that_was_fixed_after_the_choice_keeps_its_value():
    """New data would be served with the settings of an old choice, whatever the user has written since."""
    choice = Choice({"ease.reg": "auto * 3", "demographic_popularity.reg": "auto * 10", MODEL: "ease"})
    assert value_of(choice.applied(DEFAULTS), "ease.reg") == "auto * 3"
    fixed = choice.applied(with_values(DEFAULTS, {"ease.reg": "300"}))
    assert value_of(fixed, "ease.reg") == "300" and value_of(fixed, "demographic_popularity.reg") == "auto * 10"
    named = choice.applied(with_values(DEFAULTS, {MODEL: "item_knn"}))
    assert value_of(named, MODEL) == "item_knn" and value_of(named, "ease.reg") == "auto"


def test_the_choice_knows_no_test_rating(choose):
    """What is served would be chosen by what it is scored on."""
    split = protocols.split("top_n", tables_of(planted(STARS), STARS), cut=0.8)
    rated = to_polars(split["train_ratings"], "user", "item")
    for each in quick.rolling_splits(split, seed=0):
        tested = to_polars(each.tables["test_ratings"], "user", "item", "timestamp")
        trained = to_polars(each.tables["train_ratings"], "user", "item", "timestamp")
        assert len(pl.concat([tested, trained]).join(rated, on=["user", "item"], how="anti")) == 0
        assert trained["timestamp"].max() <= tested["timestamp"].min()
    honest = chosen(choose(split, only=("ease",)))
    assert chosen(choose({**split, "test_ratings": split["test_ratings"].head(0)}, only=("ease",))) == honest


def test_a_split_of_large_data_holds_the_users_of_its_sample_alone(monkeypatch):
    """A model would have a row for each of millions of users, and the run would end for want of memory."""
    tables = tables_of(planted(STARS), STARS)
    split = protocols.split("top_n", tables, cut=0.8)
    monkeypatch.setattr(quick, "_MOST_RATINGS", len(to_polars(split["train_ratings"])) // 3)
    titles = {"item_id", "title"} & set(to_polars(tables["items"]).columns)
    for each in quick.rolling_splits(split, seed=0):
        rows = pl.concat([to_polars(each.tables[side], "user", "item") for side in ("train_ratings", "test_ratings")])
        for column, name in (("user", "users"), ("item", "items")):
            known = to_polars(each.tables[name])
            assert known[column].to_list() == list(range(len(known)))
            assert len(known) < len(to_polars(tables[name])) or column == "item"
            assert {*rows[column]} <= {*known[column]}
        ids = to_polars(each.tables["users"], "user", "user_id")
        named = to_polars(tables["users"], "user_id", "user").rename({"user": "before"})
        assert ids.join(named, on="user_id").sort("user")["before"].is_sorted()
        assert titles <= set(to_polars(each.tables["items"]).columns)


def test_trials_of_a_choice_are_taken_over_and_older_ones_removed(choose, tmp_path):
    """Each refresh would fit everything again though nothing has changed, or leave its trials for ever."""
    split = protocols.split("top_n", tables_of(planted(STARS), STARS), cut=0.8)
    choose(split, only=("ease", "prior"))
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    choose(split, only=("ease", "prior"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == first and first
    choose(split, with_values(DEFAULTS, {"ease.reg": "100"}), only=("ease", "prior"))
    left = {*tmp_path.rglob("*.json")}
    assert left - {*first} and {*first} - left


def test_users_with_and_without_ratings_count_alike(choose, tmp_path):
    """Where the splits hold mostly new users, a model that ignores ratings would be served to everybody."""
    split = protocols.split("top_n", tables_of(planted(STARS), STARS), cut=0.8)
    (ease,) = choose(split, only=("ease",))
    trials = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    scores = [trial["scores"] for trial in trials if trial["question"]["parameters"]["ease"]["reg"] == "auto"]
    means = [(of["seen"]["ndcg_10"] + of["unseen"]["ndcg_10"]) / 2 for of in scores]
    assert ease.default.value == pytest.approx(np.mean(means)) and len(means) == 3
    assert ease.default.value != pytest.approx(np.mean([of["all"]["ndcg_10"] for of in scores]))
    for each in quick.rolling_splits(split, seed=0):
        few = each.tables["test_ratings"].filter(nw.col("user") < 15)
        assert quick.populations(each) == ("seen", "unseen")
        assert quick.populations(replace(each, tables={**each.tables, "test_ratings": few})) == ("all",)


def test_ratings_without_anything_to_score_leave_what_is_built_in(choose):
    """A first handful of ratings would end the run."""
    few = pl.DataFrame({"user_id": [0, 0, 1], "item_id": [0, 1, 0], "rating": 1.0, "timestamp": [1, 2, 3]})
    tables = tables_of(few, Shape("three", 2, 2, 1, "likes", 0.0))
    found = choose({**tables, "train_ratings": tables["ratings"]})
    assert value_of(Choice(chosen(found)).applied(DEFAULTS), MODEL) == "blend"


def test_a_refused_built_in_model_leaves_the_others_to_choose_from(choose, monkeypatch):
    """With a regularisation that EASE refuses, users would be told that their ratings hold nothing to score."""

    def refused(*_: object, **__: object) -> None:
        raise ValueError("set a larger one")

    monkeypatch.setattr("recsys_assets.recommender.models.ease.item_weights", refused)
    split = protocols.split("top_n", tables_of(planted(STARS), STARS), cut=0.8)
    ease, models = choose(split, only=("ease", MODEL.split(".")[1]))
    assert ease.choice is None and "set a larger one" in quick._told(ease)
    assert chosen([models]) == {MODEL: "item_knn"}


def test_a_choice_is_stored_as_it_is(tmp_path):
    """The models would be fitted with other settings than those that were chosen."""
    choice = Choice({"ease.reg": "auto * 3", MODEL: "ease"})
    choice.save(tmp_path)
    assert Choice.load(tmp_path) == choice
    assert blend.automatic_prior(5) < 5


@pytest.mark.slow
def test_scores_and_what_is_served_follow_the_choice(materialized_home, tmp_path):
    """`Selected` in the table would be another model than the one that makes the lists, or have other settings."""
    home = copied(materialized_home, tmp_path / "home")
    home.settings_file.write_text(FAST_SETTINGS.replace('selected_ranking_model = "blend"', ""))
    models = "key:ease_model or key:demographic_popularity_model or key:blend_weights"
    followers = 'key:"predictions/top_n/*" or key:evaluation_scores or key:promoted_configuration or key:serving_model'
    ran = materialize(home, f"key:quick_choice or {models} or {followers}")
    store = AssetStore(home.assets)
    choice = Choice.load(store.current(["quick_choice"]))
    assert {*choice.settings} >= {MODEL, "ease.reg", "blend.prior_ratings"}
    parameters = choice.applied(Settings.load(home).model_dump())
    facts = ran.asset_materializations_for_node("ease_model")[0].metadata["settings"].value
    assert facts == parameters["ease"]
    scores = table(home, "evaluation_scores").filter(protocol="top_n", metric="ndcg_10", population="all")
    of = dict(scores.select("model", "value").iter_rows())
    chosen_model = value_of(parameters, MODEL)
    assert of["selected"] == of[chosen_model]
    candidate = Configuration.of(parameters, rating_model="stack", ranking_model=chosen_model)
    assert Promotions(home.promotions).all()[-1].configuration.ranking == candidate.ranking
