import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.models import cold_start
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker, of_vectors
from recsys_assets.recommender.ranking.reasons import reasons
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.serving.recommendations import ServingModel
from recsys_assets_tests.planted_segments import (
    INDEX,
    ITEMS_PER_GROUP,
    N_GROUPS,
    N_ITEMS,
    TRAIN,
    UNRATED,
    catalogue,
    frame,
    group_of,
)

# What can be served and is fitted fast.
NAMES = ("popularity", "demographic_popularity", "ease", "blend")


def _model(seed: int, n_users: int, n_items: int) -> ALSModel:
    generator = np.random.default_rng(seed)
    user_known, item_known = generator.random(n_users) < 0.7, generator.random(n_items) < 0.8
    user_known[0] = True  # a model was fitted on someone
    # Few distinct values, so that scores tie.
    user = generator.integers(-2, 3, (n_users, 2)).astype(np.float32) * user_known[:, None]
    item = generator.integers(-2, 3, (n_items, 2)).astype(np.float32) * item_known[:, None]
    return ALSModel(user, item, user_known, item_known, {}, "index")


def _ratings(rated: np.ndarray) -> pl.DataFrame:
    user, item = np.nonzero(rated)
    return frame("user item rating", *zip(user.tolist(), item.tolist(), [1.0] * len(user), strict=True))


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 12), st.integers(1, 14), st.floats(0, 1))
def test_everybody_gets_the_best_unrated_items(seed, n_users, n_items, n, share):
    """Users would be shown what they have rated, fewer items than asked for, or not the best ones."""
    model = _model(seed, n_users, n_items)
    rated = np.random.default_rng(seed).random((n_users, n_items)) < share
    ranker = of_vectors(model.user_factors, model.item_factors)
    best = rankings.top_n(ranker, lazy(_ratings(rated)), np.arange(n_users), n=n)
    for user in range(n_users):
        rows = best.filter(pl.col("user") == user)
        unrated = np.flatnonzero(~rated[user])
        score = model.user_factors[user] @ model.item_factors.T
        known = ranker.item_known
        expected = sorted(unrated, key=lambda item, score=score: (not known[item], -score[item], item))
        assert rows["item"].to_list() == expected[:n]
        assert rows["rank"].to_list() == list(range(1, min(n, len(unrated)) + 1))


def test_a_cold_user_of_implicit_als_is_shown_what_its_cluster_likes():
    """New users would get nothing, or the same as everybody."""
    factors = np.array([[3, 0], [0, 3], [0, 0], [0, 0], [0, 0]], np.float32)
    known = np.array([True, True, False, False, False])
    model = ALSModel(factors, np.eye(2, dtype=np.float32), known, np.array([True, True]), {}, "index")
    clusters = lazy(pl.DataFrame({"user": range(5), "cluster": [0, 1, 0, 1, 2]}))
    ranker = entry("top_n", "implicit_als").ranker(implicit_als_model=model, user_clusters=clusters)
    best = rankings.top_n(ranker, lazy(_ratings(np.zeros((5, 2), bool))), np.arange(5), n=1)
    assert best["item"].to_list() == [0, 1, 0, 1, 0]
    assert cold_start.warm_up(model, clusters)[4].tolist() == [1.5, 1.5]


def test_recommendations_speak_the_sources_language():
    """People would read dense indices instead of their own ids and titles."""
    best = pl.DataFrame({"user": [1, 2], "rank": [1, 1], "item": [0, 0], "score": [2.5, 1.0], "is_new": [False, True]})
    because = pl.DataFrame({"user": [1, 1], "item": [0, 0], "place": [2, 1], "because": [1, 2]})
    users = lazy(pl.DataFrame({"user": [0, 1, 2], "user_id": ["ann", "bob", "eve"]}))
    titles = pl.DataFrame({"item": [0, 1, 2], "item_id": ["tt1", "tt2", "tt3"], "title": ["Heat", None, "Ran"]})
    shown = serving.recommendations(best, because, users, lazy(titles))
    assert sorted(shown.iter_rows()) == [
        ("bob", 1, "tt1", "Heat", 2.5, False, ["Ran", "tt2"]),
        ("eve", 1, "tt1", "Heat", 1.0, True, []),
    ]


# Models that are selected


@pytest.fixture(scope="module")
def everything() -> tuple[pl.DataFrame, dict]:
    """Ratings of users 0 to 119, of whom user 0 has rated all there is; and the tables about everybody."""
    rest = [(0, item, 1.0) for item in range(N_ITEMS) if item not in TRAIN.filter(user=0)["item"]]
    rated = pl.concat([TRAIN, frame("user item rating", *rest)]).filter(pl.col("item") != UNRATED)
    timed = rated.with_row_index("row").with_columns(timestamp=pl.col("row"), batch=pl.lit(0))
    users = np.arange(INDEX.n_users, dtype=np.int32)
    groups = {f"group={group}": (group_of(users) == group) * 1.0 for group in range(N_GROUPS)}
    tables = {
        "users": pl.DataFrame({"user": users, "user_id": [f"u{user}" for user in users]}),
        "items": catalogue(),
        "user_features": pl.DataFrame({"user": users, **groups}),
        "user_clusters": pl.DataFrame({"user": users, "cluster": group_of(users)}),
    }
    return timed, {name: lazy(table) for name, table in tables.items()}


def _fitted(everything: tuple[pl.DataFrame, dict], name: str) -> ServingModel:
    ratings, tables = everything
    parameters = Settings.model_validate({"ease": {"reg": 10.0}, "demographic_popularity": {"reg": 1.0}}).model_dump()
    given_tables = {**tables, "train_ratings": lazy(ratings)}
    return serving.fit(name, ModelFitter(given_tables, parameters))


def _shown(everything: tuple[pl.DataFrame, dict], model: ServingModel, n: int = 3) -> tuple[Ranker, pl.DataFrame]:
    ratings, tables = everything
    ranker = model.ranker(lazy(ratings), tables)
    return ranker, rankings.top_n(ranker, lazy(ratings), np.arange(INDEX.n_users), n=n)


@pytest.mark.parametrize("name", ["ease", "blend"])
def test_recommendations_are_those_of_the_selected_model(everything, name):
    """Users would be shown what another model says than the one that was chosen, new ones what it knows nothing of."""
    _, best = _shown(everything, _fitted(everything, name), n=2)
    with_taste = best.filter(pl.col("user") > 0)
    assert (with_taste["item"] // ITEMS_PER_GROUP == pl.Series(group_of(with_taste["user"]))).all()
    assert with_taste["user"].n_unique() == INDEX.n_users - 1
    _, popular = _shown(everything, _fitted(everything, "popularity"), n=2)
    assert popular.filter(pl.col("user") >= 120)["item"].n_unique() == 2


@pytest.mark.parametrize("name", NAMES)
def test_who_has_rated_everything_and_what_nobody_rated_are_served(everything, name):
    """One user who has seen the whole catalogue, or one item without a rating, would stop all recommendations."""
    _, best = _shown(everything, _fitted(everything, name), n=N_ITEMS)
    assert best.filter(pl.col("user") == 0)["item"].to_list() == [UNRATED]
    last = best.filter(pl.col("rank") == pl.col("rank").max().over("user"))
    assert last["item"].unique().to_list() == [UNRATED]
    assert best["score"].is_finite().all()


@pytest.mark.parametrize("name", ["ease", "blend"])
def test_each_recommendation_says_which_ratings_carried_it(everything, name):
    """'Because of' would name items of another taste, items that the user never rated, or somebody else's."""
    ratings, _ = everything
    ranker, best = _shown(everything, _fitted(everything, name))
    because = reasons(best, lazy(ratings), ranker)
    assert because["place"].max() == 3
    assert set(because.select("user", "because", "rating").iter_rows()) <= set(
        ratings.select("user", "item", "rating").iter_rows()
    )
    # A low rating is a reason where it speaks against the other items.
    liked = because.filter(pl.col("rating") == 5, pl.col("user") > 0)
    assert (liked["because"] // ITEMS_PER_GROUP == pl.Series(group_of(liked["user"]))).all()
    assert set(range(1, 120)) <= set(because["user"]) and because["user"].max() < 120
    assert "attributes" in ranker.otherwise


def test_reasons_for_everybody_are_those_for_each(everything):
    """What the command line says of one user would differ from the table of all."""
    ratings, _ = everything
    ranker, best = _shown(everything, _fitted(everything, "ease"))
    everybody = reasons(best, lazy(ratings), ranker)
    for user in (0, 7, 119, 150):
        of_one = pl.col("user") == user
        alone = reasons(best.filter(of_one), lazy(ratings.filter(of_one)), ranker)
        assert alone.equals(everybody.filter(of_one))


@pytest.mark.parametrize("name", [*NAMES, "item_knn"])
def test_items_that_came_after_the_fit_change_no_list(everything, name):
    """Between an ingest and a refresh, `recommend` would show other items, or fail for a user who rated a new one."""
    ratings, _ = everything
    ranker, best = _shown(everything, _fitted(everything, name))
    wider, later = ranker.among(N_ITEMS + 2), [(0, N_ITEMS, 5.0), (1, N_ITEMS + 1, 1.0), (150, N_ITEMS, 5.0)]
    rated = lazy(pl.concat([ratings.select("user", "item", "rating"), frame("user item rating", *later)]))
    assert rankings.top_n(wider, rated, np.arange(INDEX.n_users), n=3).equals(best)
    assert reasons(best, rated, wider).equals(reasons(best, lazy(ratings), ranker))
    # By itself, as `recommend` asks for it, a user may have no other ratings.
    assert reasons(best.filter(user=150), lazy(frame("user item rating", later[-1])), wider).is_empty()


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_serving_model_recommends_alike(everything, tmp_path, name):
    """Recommendations would change when a process is restarted."""
    model = _fitted(everything, name)
    model.save(tmp_path)
    again = ServingModel.load(tmp_path)
    assert (again.name, set(again.models), again.index) == (model.name, set(model.models), model.index)
    assert _shown(everything, again)[1].equals(_shown(everything, model)[1])


def test_what_has_no_weight_in_a_blend_is_neither_fitted_nor_scored(everything):
    """Every refresh would wait for a model that changes nothing."""
    ratings, tables = everything
    model = _fitted(everything, "blend")
    assert set(model.models) == {"blend_weights", "ease_model", "demographic_popularity_model"}
    idle = ALSModel(*(np.full((2, 2), np.nan, np.float32),) * 2, *(np.ones(2, bool),) * 2, {}, "index")
    with_it = ServingModel("blend", {**model.models, "implicit_als_model": idle}, model.index)
    assert _shown(everything, with_it)[1].equals(_shown(everything, model)[1])
    half = type(model.models["blend_weights"])(0.5, 60.0, "index")
    with pytest.raises(ValueError, match="needs implicit ALS"):
        ServingModel("blend", {**model.models, "blend_weights": half}, "").ranker(lazy(ratings), tables)


def test_lists_and_ranks_agree(everything):
    """Users would be shown another order than the one that was scored."""
    ratings, tables = everything
    for name in NAMES:
        model = _fitted(everything, name)
        _, best = _shown(everything, model, n=N_ITEMS - 1)
        known = best.filter(pl.col("item") != UNRATED)
        given_assets = {**model.models, **tables, "train_ratings": lazy(ratings), "test_ratings": lazy(known)}
        ranked = entry("top_n", name).predict(given_assets)
        both = known.join(ranked, on=["user", "item"], suffix="_scored")
        # Where scores fall below that of the unknown item, which is shown last, places differ by one.
        assert (both["rank_scored"] - both["rank"]).is_in([0, 1]).all(), name
        assert len(both) == len(known)
