import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys_assets.home.running import SparkSettings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index, IndexMismatchError
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models import als
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.models.kernels import in_threads

MODEL = ALSModel(
    user_factors=np.array([[1, 0], [0, 0], [0.5, 2]], np.float32),
    item_factors=np.array([[2, 1], [0, 0], [1, 1]], np.float32),
    user_known=np.array([True, False, True]),
    item_known=np.array([True, False, True]),
    params={"rank": 2},
    index="abc",
)
PAIRS = pl.DataFrame({"user": [0, 0, 1, 2], "item": [2, 1, 0, 0]}, schema={"user": pl.Int32, "item": pl.Int32})


def test_predictions_are_products_and_unknown_stays_unknown():
    """A user or item that the model has never seen would get a confident 0."""
    assert MODEL.predict(lazy(PAIRS))["prediction"].to_list() == [1.0, None, None, 3.0]


def test_a_stored_model_comes_back_as_it_was(tmp_path):
    """Scores would change by storing a model, or it would forget which index it belongs to."""
    MODEL.save(tmp_path)
    loaded = ALSModel.load(tmp_path)
    for name in ("user_factors", "item_factors", "user_known", "item_known"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(MODEL, name))
    assert (loaded.params, loaded.index) == (MODEL.params, MODEL.index)


@pytest.mark.parametrize("change", ["renamed", "added", "swapped"])
def test_another_index_is_refused_with_what_to_run(change):
    """After new users arrived, an old model would silently speak about the wrong people."""
    users = pl.DataFrame({"user": [0, 1], "user_id": ["a", "b"]})
    items = pl.DataFrame({"item": [0, 1], "item_id": ["x", "y"]})
    fitted_with = Index.of(lazy(users), lazy(items)).fingerprint
    changed = {
        "renamed": users.with_columns(user_id=pl.Series(["a", "c"])),
        "added": pl.concat([users, pl.DataFrame({"user": [2], "user_id": ["c"]})]),
        "swapped": users.with_columns(user_id=pl.Series(["b", "a"])),
    }[change]
    Index.of(lazy(users.reverse()), lazy(items)).require(fitted_with, "als_adjusted_model")
    with pytest.raises(IndexMismatchError, match=r"dg launch --assets 'als_adjusted_model\+'"):
        Index.of(lazy(changed), lazy(items)).require(fitted_with, "als_adjusted_model")


COLUMNS = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
TO_FIT = [
    als.ALSSettings(rank=3, max_iter=5),
    als.ImplicitALSSettings(rank=3, max_iter=5, alpha=3.0),
    als.ImplicitALSSettings(rank=3, max_iter=5, neutral_offset=-1.0),
]


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    """One session for the tests of this file."""
    return spark_resource(SparkSettings(master="local[2]"), tmp_path_factory.mktemp("spark")).spark_session


def _some_ratings(n_users: int = 20, n_items: int = 15, share: float = 0.5) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    user, item = np.nonzero(generator.random((n_users, n_items)) < share)
    return pl.DataFrame({"user": user, "item": item, "rating": generator.integers(1, 6, len(user))}).cast(COLUMNS)


def _index(n_users: int, n_items: int) -> Index:
    return Index(n_users=n_users, n_items=n_items, fingerprint="planted")


def test_planted_tastes_are_learnt():
    """The model would predict no better than the mean, or mix up users and items."""
    generator = np.random.default_rng(0)
    user, item = np.nonzero(generator.random((40, 30)) < 0.6)
    rating = np.where(user % 2 == item % 2, 5.0, 1.0)
    train = lazy(pl.DataFrame({"user": user, "item": item, "rating": rating}).cast(COLUMNS))
    model = als.fit(train, index=_index(42, 31), settings=als.ALSSettings(rank=2, max_iter=8, reg_param=0.02))
    everything = pl.DataFrame({"user": range(40)}).join(pl.DataFrame({"item": range(30)}), how="cross")
    predicted = model.predict(lazy(everything.cast(pl.Int32)))
    alike = predicted["user"] % 2 == predicted["item"] % 2
    assert predicted.filter(alike)["prediction"].min() > predicted.filter(~alike)["prediction"].max() + 2
    assert (model.user_known.sum(), model.item_known.sum()) == (40, 30)
    assert model.user_factors.shape == (42, 2)


@pytest.mark.spark
@pytest.mark.parametrize(
    "settings",
    [
        als.ALSSettings(rank=5, max_iter=4, seed=2**40 + 7, n_blocks=3),
        als.ImplicitALSSettings(rank=4, max_iter=4, alpha=3.0, neutral_offset=-1.0, n_blocks=2),
    ],
)
def test_spark_fits_the_same_factors(spark, settings):
    """A home that moves to a cluster would get other scores and other lists from the same ratings and settings."""
    # Gaps in the ids move users between Spark's blocks; one pair stands twice, as in ratings of clusters.
    ratings = _some_ratings(60, 40, 0.3).with_columns(pl.col("user") * 3 + 1)
    ratings = pl.concat([ratings, ratings.head(1).with_columns(rating=pl.lit(2.0, pl.Float32))])
    on_spark = nw.from_native(spark.createDataFrame(ratings.to_arrow()).repartition(3))
    here, there = (als.fit(rows, index=_index(200, 40), settings=settings) for rows in (lazy(ratings), on_spark))
    for name in ("user_factors", "item_factors"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), atol=2e-5)
        assert getattr(here, name).std() > 0.1
    for name in ("user_known", "item_known"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


@pytest.mark.parametrize("settings", TO_FIT)
def test_folding_in_gives_the_factors_that_a_user_was_fitted_with(settings):
    """Users who came later would be recommended by other factors than those who were there."""
    train = lazy(_some_ratings())
    model = als.fit(train, index=_index(20, 16), settings=settings)
    users, rated = user_item_matrix(train, n_items=16)
    np.testing.assert_allclose(model.fold_in(rated), model.user_factors[users], atol=1e-5)


@given(st.lists(st.integers(0, 30_000), max_size=60), st.booleans())
def test_threads_take_every_row_once(counts, know_their_cells):
    """Users or items would keep factors of chance, or two threads would write to one row."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    n_rows, taken = len(counts) * (1 if know_their_cells else 100), []
    in_threads(lambda begin, end: taken.append((begin, end)), n_rows, starts if know_their_cells else None)
    assert [row for begin, end in sorted(taken) for row in range(begin, end)] == [*range(n_rows)]


def test_factors_are_those_of_the_normal_equations():
    """A user with more ratings than one product of the compiled loop takes would get factors of a part of them."""
    generator = np.random.default_rng(1)
    others = generator.normal(size=(700, 4)).astype(np.float32)
    values = generator.integers(1, 6, 700).astype(np.float32)
    rated = sparse.csr_array(values[None, :])
    params = {"rank": 4, "implicitPrefs": False, "alpha": 1.0, "regParam": 0.1}
    known = np.ones(700, bool)
    model = ALSModel(np.zeros((1, 4), np.float32), others, np.ones(1, bool), known, params=params, index="")
    exact = others.astype(float)
    expected = np.linalg.solve(exact.T @ exact + 0.1 * 700 * np.eye(4), exact.T @ values)
    np.testing.assert_allclose(model.fold_in(rated)[0], expected, rtol=1e-5)


@pytest.mark.spark
def test_many_iterations_do_not_overflow_the_stack(spark):
    """A study that tries 15 iterations on a cluster, or a refresh, would end in a StackOverflowError now and then."""
    rows = nw.from_native(spark.createDataFrame(_some_ratings().to_arrow()))
    model = als.fit(rows, index=_index(20, 15), settings=als.ALSSettings(rank=2, max_iter=60, n_blocks=1))
    assert model.params["maxIter"] == 60 and np.isfinite(model.user_factors).all()


def test_fewer_items_than_factors_and_users_who_like_nothing():
    """A small catalogue would get factors without meaning, or no recommendations."""
    rows = [(user, item, 5.0 if user % 2 == item % 2 else 1.0) for user in range(6) for item in range(4)]
    grumpy, dull = [(6, item, 1.0) for item in range(4)], [(user, 4, 1.0) for user in range(7)]
    train = lazy(pl.DataFrame([*rows, *grumpy, *dull], schema=COLUMNS, orient="row"))
    model = als.fit(train, index=_index(8, 6), settings=als.ImplicitALSSettings(rank=8, neutral_offset=-0.5))
    assert model.user_known.tolist() == [True] * 6 + [False] * 2
    assert model.item_known.tolist() == [True] * 4 + [False] * 2
    users, rated = user_item_matrix(train, n_items=6)
    np.testing.assert_allclose(model.fold_in(rated), model.user_factors[users], atol=1e-4)
    assert not model.user_factors[6].any() and not model.item_factors[4].any()
    scores = model.scores(rated[:2])
    assert scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]


def test_equations_without_a_solution_are_told_with_the_way_out():
    """Without regularisation, a user with fewer ratings than factors would get lists in the order of item numbers."""
    train = lazy(pl.DataFrame([(0, 0, 3.0), (0, 1, 5.0), (1, 1, 2.0)], schema=COLUMNS, orient="row"))
    with pytest.raises(ValueError, match="no unique solution; set a reg_param above 0"):
        als.fit(train, index=_index(2, 2), settings=als.ALSSettings(rank=3, reg_param=0.0))


def test_a_new_user_whose_equations_have_no_solution_has_no_factors():
    """A newcomer with fewer ratings than factors would be shown items in the order of NaN."""
    params = {"rank": 2, "implicitPrefs": False, "alpha": 1.0, "regParam": 0.0}
    factors, known = np.ones((3, 2), np.float32), np.ones(3, bool)
    model = ALSModel(factors, factors, known, known, params=params, index="")
    assert model.fold_in(sparse.csr_array([[4.0, 0.0, 0.0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("engine", ["polars", pytest.param("spark", marks=pytest.mark.spark)])
def test_no_rating_above_the_neutral_one_is_told_with_the_way_out(request, engine):
    """A setting that is too high would end in a page of Java about empty input."""
    train = pl.DataFrame([(0, 0, 1.0), (0, 1, 5.0)], schema=COLUMNS, orient="row")
    on_spark = engine == "spark"
    rows = (
        nw.from_native(request.getfixturevalue("spark").createDataFrame(train.to_arrow())) if on_spark else lazy(train)
    )
    with pytest.raises(ValueError, match=r"above 13, .* lower neutral_offset"):
        als.fit(rows, index=_index(1, 2), settings=als.ImplicitALSSettings(neutral_offset=5.0))
