import numpy as np
import polars as pl
import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.recommender.registry import FITS
from recsys_assets_tests.running import copied, files, materialize, table


def _fitted_on(*tables: str) -> tuple[str, ...]:
    return tuple(fit.asset for fit in FITS if fit.table in tables)


MODELS_A = _fitted_on("train_ratings", "adjusted_train_ratings")
MODELS_B = _fitted_on("train_histories")
RESPONSES = _fitted_on("train_responses")


def _keys(*assets: str) -> str:
    return " or ".join(f"key:{asset}" for asset in assets)


CASE_A = _keys("train_ratings", "adjusted_train_ratings", "cluster_ratings", *MODELS_A)
CASE_B = _keys("train_histories", *MODELS_B)
CASE_B_RESPONSES = _keys("train_histories", "train_responses", *MODELS_B, *RESPONSES)


def _with_noise(home: Home, *hidden: str) -> int:
    """Replace the ratings of the rows of these tables in `ratings` by noise; returns how many changed."""
    ratings = table(home, "ratings")
    rows = pl.concat([table(home, name).select("user", "item") for name in hidden])
    noise = pl.Series(np.random.default_rng(1).integers(1, 6, len(ratings)), dtype=pl.Float32)
    is_hidden = ratings.join(rows.with_columns(hidden=True), on=["user", "item"], how="left", maintain_order="left")
    replaced = pl.when(is_hidden["hidden"].fill_null(False)).then(noise).otherwise(ratings["rating"])
    changed = ratings.with_columns(rating=replaced)
    changed.write_parquet(AssetStore(home.assets).current(["ratings"]) / TABLE_FILE)
    return int((changed["rating"] != ratings["rating"]).sum())


@pytest.mark.parametrize(
    ("hidden", "selection", "models"),
    [
        (("test_ratings",), CASE_A, MODELS_A),
        (("train_responses", "test_responses", "test_histories"), CASE_B, MODELS_B),
        (("test_responses", "test_histories"), CASE_B_RESPONSES, RESPONSES),
    ],
    ids=["case A", "case B", "case B, models of responses"],
)
def test_models_do_not_depend_on_what_they_are_scored_on(materialized_home, tmp_path, hidden, selection, models):
    """Scores would be too good to be true, because some stage had let the test ratings through to a model."""
    home = copied(materialized_home, tmp_path / "home")
    before = {model: files(home, model) for model in models}
    versions = {model: AssetStore(home.assets).current([model]) for model in models}
    assert _with_noise(home, *hidden) > 100
    materialize(home, selection)
    for model in models:
        assert AssetStore(home.assets).current([model]) != versions[model]
        assert files(home, model) == before[model], model


def test_noise_in_the_training_rows_does_change_the_models(materialized_home, tmp_path):
    """The test above could not fail, because nothing ever reaches the models it compares."""
    home = copied(materialized_home, tmp_path / "home")
    _with_noise(home, "train_ratings")
    before = files(home, "item_mean_model")
    materialize(home, "key:train_ratings or key:item_mean_model")
    assert files(home, "item_mean_model") != before


def test_inference_leaves_every_stored_model_as_it_was(materialized_home, tmp_path):
    """Case study B's model was destroyed by asking it for one user's segment."""
    home = copied(materialized_home, tmp_path / "home")
    models = (*MODELS_A, *MODELS_B, *RESPONSES, "serving_model")
    before = {model: files(home, model) for model in models}
    materialize(home, 'key:"predictions/*" or key:segment_items or key:user_segments or key:recommendations')
    assert {model: files(home, model) for model in models} == before
