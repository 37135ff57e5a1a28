from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from recsys_assets.home.running import SparkSettings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index, IndexMismatchError
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models import als
from recsys_assets.recommender.models.als import ALSModel

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


@pytest.fixture
def scratch(tmp_path) -> Path:
    """A folder for a fit alone. The session of the process may keep its checkpoints in the folder of the test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.spark
def test_planted_tastes_are_learnt(tmp_path, scratch):
    """The model would predict no better than the mean, or mix up users and items."""
    generator = np.random.default_rng(0)
    user, item = np.nonzero(generator.random((40, 30)) < 0.6)
    rating = np.where(user % 2 == item % 2, 5.0, 1.0)
    train = pl.DataFrame({"user": user, "item": item, "rating": rating}).cast(
        {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
    )
    spark = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    index = Index(n_users=42, n_items=31, fingerprint="planted")
    model = als.fit(
        lazy(train),
        spark=spark,
        scratch=scratch,
        index=index,
        settings=als.ALSSettings(rank=2, max_iter=8, reg_param=0.02),
    )
    everything = pl.DataFrame({"user": range(40)}).join(pl.DataFrame({"item": range(30)}), how="cross")
    predicted = model.predict(lazy(everything.cast(pl.Int32)))
    alike = predicted["user"] % 2 == predicted["item"] % 2
    assert predicted.filter(alike)["prediction"].min() > predicted.filter(~alike)["prediction"].max() + 2
    assert (model.user_known.sum(), model.item_known.sum()) == (40, 30)
    assert model.user_factors.shape == (42, 2)
    assert not list(scratch.iterdir())


@pytest.mark.spark
@pytest.mark.parametrize(
    "settings",
    [
        als.ALSSettings(rank=3, max_iter=5),
        als.ImplicitALSSettings(rank=3, max_iter=5, alpha=3.0),
        als.ImplicitALSSettings(rank=3, max_iter=5, neutral_offset=-1.0),
    ],
)
def test_folding_in_gives_the_factors_that_a_user_was_fitted_with(tmp_path, settings):
    """Users who came later would be recommended by other factors than those who were there."""
    generator = np.random.default_rng(0)
    user, item = np.nonzero(generator.random((20, 15)) < 0.5)
    rating = generator.integers(1, 6, len(user))
    columns = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
    train = lazy(pl.DataFrame({"user": user, "item": item, "rating": rating}).cast(columns))
    spark = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    index = Index(n_users=20, n_items=16, fingerprint="planted")
    model = als.fit(train, spark=spark, scratch=tmp_path, index=index, settings=settings)
    users, rated = user_item_matrix(train, n_items=16)
    np.testing.assert_allclose(model.fold_in(rated), model.user_factors[users], atol=1e-4)


@pytest.mark.spark
def test_many_iterations_do_not_overflow_the_stack(tmp_path, scratch):
    """A study that tries 15 iterations, or a refresh with them, would end in a StackOverflowError now and then."""
    generator = np.random.default_rng(0)
    user, item = np.nonzero(generator.random((20, 15)) < 0.6)
    train = pl.DataFrame({"user": user, "item": item, "rating": np.where(user % 2 == item % 2, 5.0, 1.0)})
    ids = {name: [str(n) for n in range(size)] for name, size in (("user", 20), ("item", 15))}
    users, items = (pl.DataFrame({name: range(len(own)), f"{name}_id": own}) for name, own in ids.items())
    index = Index.of(lazy(users), lazy(items))
    rows = lazy(train.cast({"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}))
    spark = spark_resource(SparkSettings(), tmp_path).spark_session
    model = als.fit(rows, spark=spark, scratch=scratch, index=index, settings=als.ALSSettings(rank=2, max_iter=60))
    assert model.params["maxIter"] == 60 and np.isfinite(model.user_factors).all()
    assert not list(scratch.iterdir())


@pytest.mark.spark
def test_fewer_items_than_factors_and_users_who_like_nothing(tmp_path):
    """A small catalogue would get no recommendations, but a page of Java about a singular matrix."""
    rows = [(user, item, 5.0 if user % 2 == item % 2 else 1.0) for user in range(6) for item in range(4)]
    grumpy, dull = [(6, item, 1.0) for item in range(4)], [(user, 4, 1.0) for user in range(7)]
    columns = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
    train = lazy(pl.DataFrame([*rows, *grumpy, *dull], schema=columns, orient="row"))
    spark = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    index = Index(n_users=8, n_items=6, fingerprint="planted")
    model = als.fit(
        train, spark=spark, scratch=tmp_path, index=index, settings=als.ImplicitALSSettings(rank=8, neutral_offset=-0.5)
    )
    assert model.user_known.tolist() == [True] * 6 + [False] * 2
    assert model.item_known.tolist() == [True] * 4 + [False] * 2
    users, rated = user_item_matrix(train, n_items=6)
    np.testing.assert_allclose(model.fold_in(rated), model.user_factors[users], atol=1e-4)
    assert not model.user_factors[6].any() and not model.item_factors[4].any()
    scores = model.scores(rated[:2])
    assert scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]


@pytest.mark.spark
@pytest.mark.parametrize("engine", ["polars", "spark"])
def test_no_rating_above_the_neutral_one_is_told_with_the_way_out(tmp_path, scratch, engine):
    """A setting that is too high would end in a page of Java about empty input."""
    columns = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
    train = pl.DataFrame([(0, 0, 1.0), (0, 1, 5.0)], schema=columns, orient="row")
    spark = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    rows = lazy(train) if engine == "polars" else nw.from_native(spark.createDataFrame(train.to_pandas()))
    index = Index(n_users=1, n_items=2, fingerprint="planted")
    with pytest.raises(ValueError, match=r"above 13, .* lower neutral_offset"):
        als.fit(rows, spark=spark, scratch=scratch, index=index, settings=als.ImplicitALSSettings(neutral_offset=5.0))
    assert not list(scratch.iterdir())
