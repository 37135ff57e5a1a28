import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.scale import EVERYTHING, Scale
from recsys_assets.recommender.data.splitting import partition_users
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.registry.fitting import ModelFitter, entry

N_USERS, N_ITEMS = 400, 30


def _ratings(seed: int = 0) -> pl.DataFrame:
    """Every user has rated about a third of the items."""
    draw = np.random.default_rng(seed)
    user, item = np.nonzero(draw.random((N_USERS, N_ITEMS)) < 0.3)
    rows = pl.DataFrame({"user": user.astype(np.int32), "item": item.astype(np.int32)})
    rating = draw.integers(1, 6, len(rows)).astype(np.float32)
    when = pl.Series(draw.integers(0, 10**6, len(rows))).cast(pl.Datetime("us"))
    return rows.with_columns(rating=pl.Series(rating), timestamp=when, batch=pl.lit("b"), row=pl.int_range(pl.len()))


def _tables() -> dict:
    users = pl.DataFrame({"user": np.arange(N_USERS, dtype=np.int32)}).with_columns(user_id=pl.col("user").cast(str))
    items = pl.DataFrame({"item": np.arange(N_ITEMS, dtype=np.int32)}).with_columns(
        item_id=pl.col("item").cast(str), year=pl.lit(None, pl.Int16), genres=pl.lit(None, pl.List(pl.String))
    )
    features = users.select("user")
    made = {"users": users, "items": items, "user_features": features, "ratings": _ratings()}
    return {name: lazy(table) for name, table in made.items()}


def _users(rows) -> set[int]:
    return set(to_polars(rows, "user")["user"].to_list())


@given(st.integers(1, 2000), st.integers(1, 500))
def test_scored_users_are_among_the_fitted_ones(fit_ratings, score_users):
    """A model would be scored on users whose training ratings it has never seen, and look worse than it is."""
    rows = lazy(_ratings())
    scale = Scale(fit_ratings, score_users)
    fitted, scored = (_users(of(rows, n_users=N_USERS)) for of in (scale.to_fit, scale.to_score))
    assert scored <= fitted


def test_histories_are_drawn_whole_and_about_as_many_as_asked():
    """A user would be fitted on half a history, or a limit would not limit."""
    rows = lazy(_ratings())
    drawn = to_polars(Scale(fit_ratings=1000, score_users=10).to_fit(rows, n_users=N_USERS))
    assert 700 < len(drawn) < 1300
    whole = to_polars(rows).join(drawn.select("user").unique(), on="user", how="semi")
    assert len(whole) == len(drawn)


def test_small_data_are_not_sampled():
    """MovieLens 1M would be scored on a part of its users, and no published figure could be checked."""
    rows = lazy(_ratings())
    n_rows = len(to_polars(rows))
    for scale in (EVERYTHING, Scale(n_rows, N_USERS)):
        assert len(to_polars(scale.to_fit(rows, n_users=N_USERS))) == n_rows
        assert len(to_polars(scale.to_score(rows, n_users=N_USERS))) == n_rows


def test_a_sample_holds_train_and_test_users():
    """The sample would be drawn by the same hash as the test users, and hold none of them."""
    users = lazy(pl.DataFrame({"user": np.arange(10_000, dtype=np.int32)}))
    drawn = _users(Scale(score_users=1000).to_score(users, n_users=10_000))
    sides = to_polars(partition_users(users)).filter(pl.col("user").is_in(list(drawn)))["partition"]
    assert 0.6 < (sides == "train").mean() < 0.8


def test_large_data_are_fitted_on_a_sample_and_counted_whole():
    """A large data set would take hours, or its item means would come from a sample."""
    tables = _tables()
    scale = {"fit_ratings": 800, "score_users": 60}
    split = protocols.split("top_n", tables, scale=Scale(**scale))
    sections = {"ease": {"reg": 1.0}, "item_mean": {"shrinkage": 0.0}, "scale": scale}
    fitter = ModelFitter(split, sections)
    n_train = len(to_polars(split["train_ratings"]))
    fitted = fitter.models(entry("time_cut", "item_mean"))["item_mean_model"]
    means = to_polars(split["train_ratings"]).group_by("item").agg(pl.col("rating").cast(float).mean()).sort("item")
    np.testing.assert_allclose(fitted.means, means["rating"], rtol=1e-6)
    popular = to_polars(fitter.predictions(entry("top_n", "popularity")))
    assert 20 < popular["user"].n_unique() < 100
    assert n_train > 2 * scale["fit_ratings"]
    ease = fitter._get("ease_model")
    whole = ModelFitter(split, sections | {"scale": {}})._get("ease_model")
    assert not np.allclose(ease.weights, whole.weights)
