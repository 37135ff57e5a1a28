import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_assets.recommender.data.frames import conform, lazy
from recsys_assets.recommender.data.preferences import Preference
from recsys_assets.recommender.data.tables import RATINGS
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models import blend, demographic_popularity, ease, item_knn, recent_popularity
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.models.blend import Blend
from recsys_assets.recommender.models.demographic_popularity import DemographicPopularity, DemographicPopularitySettings
from recsys_assets.recommender.models.ease import EASEModel
from recsys_assets.recommender.models.item_knn import ItemKNNModel
from recsys_assets.recommender.models.recent_popularity import RecentPopularityModel
from recsys_assets.recommender.ranking.rankings import Contributions, Ranker
from recsys_assets.recommender.ranking.reasons import reasons
from recsys_assets.recommender.registry.fitting import entry
from recsys_assets_tests.planted_segments import (
    INDEX,
    ITEMS_PER_GROUP,
    N_ITEMS,
    TEST,
    TRAIN,
    UNRATED,
    frame,
    group_of,
)


def _rated() -> tuple[np.ndarray, sparse.csr_array]:
    return user_item_matrix(lazy(TEST), n_items=N_ITEMS)


def _timed(ratings: pl.DataFrame) -> nw.LazyFrame:
    """The ratings with the columns and types of `train_ratings`; without times, one second after another."""
    place = pl.int_range(pl.len())
    seconds = pl.col("timestamp") if "timestamp" in ratings.columns else place
    times = pl.from_epoch(seconds, time_unit="s").dt.replace_time_zone("UTC")
    return conform(lazy(ratings.with_columns(timestamp=times, batch=0, row=place)), RATINGS)


def _best(scores: np.ndarray, rated: sparse.csr_array) -> np.ndarray:
    return np.where(rated.toarray() > 0, -np.inf, scores).argmax(axis=1)


def _ease(**settings: float) -> EASEModel:
    return ease.fit(lazy(TRAIN), index=INDEX, settings=ease.EASESettings(**{"reg": 10.0, **settings}))


def test_ease_shows_what_similar_users_liked():
    """Users would be shown items of another taste than theirs."""
    users, rated = _rated()
    assert (_best(_ease().scores(rated), rated) // ITEMS_PER_GROUP == group_of(users)).all()


def test_nearest_neighbours_show_what_was_liked_together(tmp_path):
    """The baseline would show items of another taste, stored or not, and any model would look good beside it."""
    users, rated = _rated()
    model = item_knn.fit(lazy(TRAIN), index=INDEX, settings=item_knn.ItemKNNSettings(neighbours=ITEMS_PER_GROUP))
    model.save(tmp_path)
    stored = ItemKNNModel.load(tmp_path)
    columns = pl.read_parquet(tmp_path / "similarities.parquet").columns
    assert columns == ["item", "neighbour", "similarity"], "models stored by earlier versions have these"
    before = rated.copy()
    assert (_best(stored.scores(rated), rated) // ITEMS_PER_GROUP == group_of(users)).all()
    assert np.diff(sparse.csc_array(stored.similarities).indptr).max() <= ITEMS_PER_GROUP
    assert not stored.item_known[UNRATED]
    assert np.array_equal(rated.indices, before.indices) and np.array_equal(rated.data, before.data)
    of_one = rated[[0]]
    added = _contributed(stored.contributions, of_one, np.arange(N_ITEMS))
    np.testing.assert_allclose(added.sum(axis=0), stored.scores(of_one)[0], rtol=1e-5)


def test_recent_popularity_prefers_what_is_liked_now(tmp_path):
    """Everybody would be shown the hits of years ago."""
    rows = [(user, 0 if user < 60 else 1, 5.0, user) for user in range(100)] + [
        (user, 2, 1.0, 99) for user in range(50)
    ]
    model = recent_popularity.fit(
        _timed(frame("user item rating timestamp", *rows)),
        index=INDEX,
        settings=recent_popularity.RecentPopularitySettings(half_life=0.1),
    )
    model.save(tmp_path)
    counts = RecentPopularityModel.load(tmp_path).counts
    assert counts.argmax() == 1 and counts[0] > 0
    assert not counts[2:].any()


def test_without_times_recent_popularity_counts_likes():
    """Users at the end of the file would decide what is popular, because files are sorted by user."""
    rows = [(user, 0 if user < 60 else 1, 5.0, 0) for user in range(100)]
    counts = recent_popularity.fit(
        _timed(frame("user item rating timestamp", *rows)),
        index=INDEX,
        settings=recent_popularity.RecentPopularitySettings(half_life=0.1),
    ).counts
    assert counts[:2].tolist() == [60, 40]


def test_what_was_rated_low_speaks_against_similar_items():
    """Somebody who hated an item would be shown more of its kind."""
    hater = sparse.csr_array(([1.0], ([0], [0])), shape=(1, N_ITEMS)).astype(np.float32)
    scores = _ease(neutral_offset=0.0).scores(hater)[0]
    assert scores[1:ITEMS_PER_GROUP].mean() < scores[ITEMS_PER_GROUP:UNRATED].mean()


def test_a_regularisation_too_small_for_a_solution_is_told():
    """Scores would be NaN, and lists whatever sorts before numbers."""
    alike = sparse.csr_array(np.full((3, 2), 1e4, np.float32))
    with pytest.raises(ValueError, match="set a larger one"):
        ease.item_weights(alike, reg=1e-3)


def test_the_weights_are_the_minimum_without_an_item_speaking_for_itself():
    """EASE would not be EASE: an item would speak for itself, or the weights would be other than least squares."""
    matrix = sparse.csr_array(np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    weights = ease.item_weights(matrix, reg=2.0)
    dense = matrix.toarray().astype(np.float64)
    assert np.diag(weights).tolist() == [0.0] * 5
    for item in range(5):
        others = [other for other in range(5) if other != item]
        given_by = dense[:, others]
        expected = np.linalg.solve(given_by.T @ given_by + 2 * np.eye(4), given_by.T @ dense[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-4)


def test_weights_of_more_items_than_a_block_are_those_of_the_closed_form():
    """In a catalogue of thousands, half of the weights between items far apart are those of other items."""
    random = np.random.default_rng(0)
    n_items = 2 * ease._ROWS_PER_BLOCK + 3
    dense = np.where(random.random((200, n_items)) < 0.1, random.normal(size=(200, n_items)), 0).astype(np.float32)
    inverse = np.linalg.inv(dense.T.astype(np.float64) @ dense + 10 * np.eye(n_items))
    expected = inverse / -np.diag(inverse)
    np.fill_diagonal(expected, 0)
    weights = ease.item_weights(sparse.csr_array(dense), reg=10.0)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert weights.flags.c_contiguous


def test_a_catalogue_above_the_limit_keeps_its_most_rated_items():
    """A large catalogue would exhaust the memory, or items that many have rated would be unknown."""
    model = _ease(max_items=10)
    counts = TRAIN["item"].value_counts()
    kept = counts.filter(pl.col("item").is_in(model.items))["count"].min()
    left = counts.filter(~pl.col("item").is_in(model.items))["count"].max()
    assert len(model.items) == 10
    assert kept >= left
    assert not model.scores(_rated()[1])[:, ~model.item_known].any()


def test_equal_ratings_are_all_preferences():
    """Data that only say who watched what would give no recommendations, or the opposite of what was watched."""
    constant = TRAIN.with_columns(rating=pl.lit(1.0, pl.Float32))
    assert Preference.of(lazy(constant), neutral_offset=-0.5)(np.ones(3, np.float32)).tolist() == [1, 1, 1]


def _features() -> pl.DataFrame:
    users = np.arange(INDEX.n_users, dtype=np.int32)
    group = group_of(users)
    return pl.DataFrame({"user": users} | {f"group={number}": (group == number) * 1.0 for number in range(3)})


def test_new_users_are_shown_what_people_like_them_liked():
    """Somebody without a rating would be shown the same list as everybody else, whoever it is."""
    model = demographic_popularity.fit(
        _timed(TRAIN),
        index=INDEX,
        user_features=lazy(_features()),
        settings=DemographicPopularitySettings(reg=1.0, half_life=1e6),
    )
    new = np.array([121, 122, 123])
    scores = model.scores(demographic_popularity.feature_matrix(lazy(_features()))[new])
    assert (scores.argmax(axis=1) // ITEMS_PER_GROUP == group_of(new)).all()
    assert not model.item_known[UNRATED]


def test_without_attributes_recent_likes_make_an_item_popular():
    """New users would be shown what was popular years ago."""
    old = frame("user item rating", *[(user, 0, 5.0) for user in range(6)])
    new = frame("user item rating", *[(user, 1, 5.0) for user in range(6, 10)])
    alike = lazy(pl.DataFrame({"user": np.arange(INDEX.n_users, dtype=np.int32)}))
    ratings = _timed(pl.concat([old, new]))
    favourite = [
        demographic_popularity.fit(
            ratings,
            index=INDEX,
            user_features=alike,
            settings=DemographicPopularitySettings(half_life=half_life),
        )
        .scores(np.zeros((1, 0)))
        .argmax()
        for half_life in (0.1, 1e6)
    ]
    assert favourite == [1, 0]


def test_the_blend_gives_new_users_the_prior_and_others_a_mix():
    """A new user would be shown what models say of it that know nothing of it."""
    own, prior = np.array([[3.0, 1, 2], [3, 1, 2]]), np.array([[1.0, 2, 3], [1, 2, 3]])
    mixed = Blend(ease_weight=1.0, prior_ratings=10, index="").scores(own, own, prior, np.array([0, 1000]))
    assert mixed.argsort(axis=1).tolist() == [[0, 1, 2], [1, 2, 0]]


@settings(max_examples=20)
@given(st.floats(0.1, 100), st.floats(-5, 5))
def test_the_blend_does_not_depend_on_the_models_scales(factor, shift):
    """The model with the larger numbers would drown the other."""
    random = np.random.default_rng(0)
    one, two, prior = random.normal(size=(3, 4, 9))
    weights = Blend(ease_weight=0.5, prior_ratings=5, index="")
    counts = np.array([0, 1, 5, 50])
    np.testing.assert_allclose(
        weights.scores(one * factor + shift, two, prior, counts), weights.scores(one, two, prior, counts), atol=1e-5
    )


@pytest.mark.parametrize("name", ["item_knn", "ease"])
def test_of_whom_ratings_say_nothing_gets_the_list_of_a_new_user(name):
    """Who rated only what nobody else knows would be shown the first items of the catalogue, whatever they are."""
    alike = np.zeros((4, 4), np.float32)
    alike[[0, 1], [1, 0]] = 0.5
    model = {
        "item_knn": ItemKNNModel(sparse.csr_array(alike), 4.0, ""),
        "ease": EASEModel(alike[:3, :3], np.arange(3, dtype=np.int32), 4, Preference(3.0, 1.0), ""),
    }[name]
    prior = np.array([[1, 2, 3, 4]], np.float32)
    ranker = entry("top_n", name).ranker(
        **{f"{name}_model": model},
        demographic_popularity_model=DemographicPopularity(prior, np.ones(4, bool), ""),
        user_features=lazy(pl.DataFrame({"user": range(4)})),
    )
    # No rating; of an item without neighbours; of two that have each other only; of one of these.
    rated = sparse.csr_array(np.array([[0, 0, 0, 0], [0, 0, 0, 5], [5, 5, 0, 0], [5, 0, 0, 0]], np.float32))
    scores = ranker.scores(np.arange(4), rated)
    assert (scores[:3] == prior).all()
    assert np.array_equal(scores[3], model.scores(rated[[3]])[0]) and scores[3, 1] > 0


@pytest.mark.parametrize("ease_weight", [0.0, 0.5, 1.0])
def test_the_blend_without_a_prior_gives_who_says_nothing_the_list_of_a_new_user(ease_weight):
    """Who rated only what nobody else knows would be shown the first items of the catalogue, whatever they are."""
    alike = np.zeros((3, 3), np.float32)
    alike[[0, 1], [1, 0]] = 0.5
    factors, known = np.array([[1, 0], [2, 0], [0, 0], [0, 0]], np.float32), np.array([True, True, False, False])
    params = {"implicitPrefs": True, "alpha": 2.0, "regParam": 0.1, "neutral": 0.0}
    prior = np.array([[1, 2, 3, 4]], np.float32)
    ranker = entry("top_n", "blend").ranker(
        blend_weights=Blend(ease_weight, 0.0, ""),
        ease_model=EASEModel(alike, np.arange(3, dtype=np.int32), 4, Preference(3.0, 1.0), ""),
        implicit_als_model=ALSModel(np.zeros((4, 2), np.float32), factors, np.zeros(4, bool), known, params, ""),
        demographic_popularity_model=DemographicPopularity(prior, np.ones(4, bool), ""),
        user_features=lazy(pl.DataFrame({"user": range(4)})),
    )
    # No rating; of an item without neighbours; of two that have each other only; of one of these.
    rated = sparse.csr_array(np.array([[0, 0, 0, 0], [0, 0, 0, 5], [5, 5, 0, 0], [5, 0, 0, 0]], np.float32))
    order = (-ranker.ordered(np.arange(4), rated)).argsort(axis=1, kind="stable")
    assert order[0].tolist() == [3, 2, 1, 0]
    assert order[1, :3].tolist() == [2, 1, 0] and order[2, :2].tolist() == [3, 2]
    assert order[3, 0] == 1, "a rating that speaks of another item counts alone"


def _als(*, implicit: bool, neutral: float = 0.0) -> ALSModel:
    random = np.random.default_rng(1)
    factors = random.normal(size=(N_ITEMS, 4)).astype(np.float32)
    known = np.arange(N_ITEMS) != UNRATED
    params = {"implicitPrefs": implicit, "alpha": 2.0, "regParam": 0.1, "neutral": neutral}
    return ALSModel(np.zeros((1, 4), np.float32), factors * known[:, None], np.zeros(1, bool), known, params, "")


def _contributed(contributions: Contributions, row: sparse.csr_array, items: np.ndarray) -> np.ndarray:
    """What each rating of one user adds to each item, shape (ratings, items)."""
    return contributions(row, np.zeros(len(items), int), items).reshape(len(items), row.nnz).T


@pytest.mark.parametrize("model", [*range(5)])
def test_what_ratings_contribute_does_not_depend_on_who_else_is_asked_for(model):
    """A user would be told the reasons of another one whose list is made at the same time."""
    _, rated = _rated()
    found = [*_MODELS, item_knn.fit(lazy(TRAIN), index=INDEX, settings=item_knn.ItemKNNSettings())][model]
    rows, items = np.array([0, 0, 2, 3]), np.array([1, 5, 1, 7])
    alone = [_contributed(found.contributions, rated[[row]], items[rows == row]).T.ravel() for row in (0, 2, 3)]
    np.testing.assert_allclose(found.contributions(rated, rows, items), np.concatenate(alone), rtol=1e-6)


_MODELS = [_als(implicit=True), _als(implicit=True, neutral=3.0), _als(implicit=False), _ease()]


@pytest.mark.parametrize("model", _MODELS)
def test_what_ratings_contribute_sums_to_the_score(model):
    """The reasons shown for a recommendation would not be why it is shown."""
    row = _rated()[1][[0]]
    added = _contributed(model.contributions, row, np.arange(N_ITEMS))
    np.testing.assert_allclose(added.sum(axis=0), model.scores(row)[0], atol=1e-4)


def test_a_rating_of_an_unknown_item_carries_nothing():
    """An item that the model has never seen would be named as the reason, or stop all reasons."""
    cells = (np.array([5, 5], np.float32), (np.array([0, 0]), np.array([0, UNRATED])))
    rated = sparse.csr_array(cells, shape=(1, N_ITEMS))
    for model in _MODELS:
        added = _contributed(model.contributions, rated, np.array([1, UNRATED]))
        assert added[0, 0] != 0 and not added[1].any() and not added[:, 1].any()


@pytest.mark.parametrize("ease_weight", [0.4, 1.0])
def test_the_blends_contributions_order_items_as_its_personal_scores_do(ease_weight):
    """The reasons of a blended list would be those of one of its models only."""
    row = _rated()[1][[0]]
    known = np.arange(UNRATED)
    weights = Blend(ease_weight=ease_weight, prior_ratings=0, index="")
    prior = DemographicPopularity(np.zeros((2, N_ITEMS), np.float32), np.ones(N_ITEMS, bool), "")
    ranker = blend.ranker(weights, _ease(), prior, np.zeros((1, 1)), _als(implicit=True))
    mixed = ranker.scores(np.array([0]), row)[0, known]
    added = _contributed(ranker.contributions, row, known).sum(axis=0)
    assert np.corrcoef(added, mixed)[0, 1] == pytest.approx(1, abs=1e-5)


def test_reasons_are_the_users_own_ratings_that_carried_an_item_most():
    """A page would say 'because you liked' of an item that the user disliked, or that had nothing to do with it."""
    model = _ease()
    users, rated = _rated()
    best = pl.DataFrame({"user": users, "item": _best(model.scores(rated), rated).astype(np.int32)})
    ranker = Ranker(lambda _, rows: model.scores(rows), model.item_known, model.contributions)
    told = reasons(best, lazy(TEST), ranker, n=2)
    assert told["place"].max() == 2
    assert (told["share"] > 0).all()
    assert set(told.select("user", "because", "rating").iter_rows()) <= set(TEST.iter_rows())
    same_taste = (told["because"] // ITEMS_PER_GROUP).to_numpy() == group_of(told["user"])
    assert same_taste.tolist() == (told["rating"] == 5).to_list()
    assert told.filter(pl.col("place") == 1)["user"].to_list() == users.tolist()


def test_stored_ranking_models_come_back_alike(tmp_path):
    """Recommendations after a restart would differ from those that were scored."""
    rated = _rated()[1]
    made = {
        "ease": _ease(max_items=12),
        "weights": blend.fit(lazy(TRAIN), index=INDEX, settings=blend.BlendSettings(ease_weight=0.3)),
    }
    made["demographic_popularity"] = demographic_popularity.fit(
        _timed(TRAIN),
        index=INDEX,
        user_features=lazy(_features()),
        settings=DemographicPopularitySettings(),
    )
    for name, model in made.items():
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
    features = demographic_popularity.feature_matrix(lazy(_features()))
    assert np.array_equal(EASEModel.load(tmp_path / "ease").scores(rated), made["ease"].scores(rated))
    assert np.array_equal(
        DemographicPopularity.load(tmp_path / "demographic_popularity").scores(features),
        made["demographic_popularity"].scores(features),
    )
    assert Blend.load(tmp_path / "weights") == made["weights"]


def test_an_entry_names_the_assets_that_it_lacks():
    """Whoever scores a model with a fit would read of a missing argument, not of the model to be fitted."""
    tables = {"train_ratings": _timed(TRAIN), "test_ratings": _timed(TEST)}
    for task, lacks in (("top_n", "item_mean_model, items"), ("time_cut", "item_mean_model")):
        with pytest.raises(ValueError, match=rf"needs {lacks}\. .*ModelFitter"):
            entry(task, "item_mean").predict(tables)
