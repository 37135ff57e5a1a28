import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.stats import chisquare

from recsys_assets.recommender.data.frames import conform, lazy, numbered, pseudo_random, to_polars
from recsys_assets.recommender.data.tables import TABLES


def _draws(seed: int, frame: pl.DataFrame, columns: list[str]) -> np.ndarray:
    return to_polars(lazy(frame).select(draw=pseudo_random(seed, columns)))["draw"].to_numpy()


PAIRS = pl.DataFrame({"user": np.arange(200)}).join(pl.DataFrame({"item": np.arange(300)}), how="cross")


@pytest.mark.parametrize("seed", [0, 1, 1234])
def test_draws_are_uniform(seed):
    """Splits and fills would prefer some users and items."""
    for draws in (_draws(seed, PAIRS, ["user", "item"]), _draws(seed, PAIRS.unique("user"), ["user"])):
        counts = np.bincount(draws * 16 // (2**31 - 1), minlength=16)
        assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("seed", [0, 99])
def test_neighbours_draw_independently(seed):
    """Users with neighbouring ids would be given the same items."""
    by_user = _draws(seed, PAIRS, ["user", "item"]).reshape(200, 300)
    correlations = np.corrcoef(by_user)[np.triu_indices(200, 1)]
    assert abs(correlations.mean()) < 0.005
    assert correlations.std() < 1.1 / np.sqrt(300)
    assert np.abs(correlations).max() < 0.35


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 2_000))
def test_seeds_draw_independently(seed, further):
    """Two seeds would draw the same split, if only of users with other numbers, and their spread say nothing."""
    assume((seed, further) != (0, 1234))
    ids = pl.DataFrame({"user": np.arange(3_000)})
    one, other = (_draws(number, ids, ["user"]) for number in (seed, seed + further))
    assert len(np.intersect1d(one, other)) < 5
    for shift in (0, 1, further % 1_000):
        assert abs(np.corrcoef(one[shift:], other[: len(one) - shift])[0, 1]) < 0.11


def test_draws_of_published_scores_stay():
    """The scores in the documentation could not be computed again: fills and partitions would be others."""
    ids = pl.DataFrame({"user": [0, 1, 6_039], "item": [0, 3, 3_951]})
    assert _draws(0, ids, ["user", "item"]).tolist() == [601111744, 1793530648, 1455043287]
    assert _draws(1234, ids, ["user"]).tolist() == [1507623021, 719841740, 112636940]


def test_draws_depend_on_the_row_only():
    """The split would change when a file lists its rows in another order."""
    shuffled = PAIRS.sample(fraction=1.0, shuffle=True, seed=1)
    expected = PAIRS.with_columns(draw=pl.Series(_draws(5, PAIRS, ["user", "item"])))
    found = shuffled.with_columns(draw=pl.Series(_draws(5, shuffled, ["user", "item"])))
    assert found.sort("user", "item").equals(expected.sort("user", "item"))


def test_conform_names_the_missing_columns():
    """A broken table would be stored, and fail in some later stage."""
    with pytest.raises(ValueError, match="columns missing: timestamp, row; found: user_id"):
        conform(lazy(pl.DataFrame({"user_id": ["a"], "item_id": ["b"], "rating": [1.0]})), TABLES["raw_ratings"])


def test_conform_keeps_further_columns_of_open_tables_only():
    """Users would lose their attributes, or closed tables would gain columns nobody declared."""
    users = conform(lazy(pl.DataFrame({"age": [3.0], "user_id": ["a"], "user": [0]})), TABLES["users"])
    assert users.collect_schema() == {"user": nw.Int32(), "user_id": nw.String(), "age": nw.Float64()}
    clusters = conform(lazy(pl.DataFrame({"user": [0], "cluster": [1], "extra": [1]})), TABLES["user_clusters"])
    assert clusters.collect_schema().names() == ["user", "cluster"]


_KEYS = st.integers(0, 30) | st.integers(0, 10**18 - 1)


@given(rated=st.lists(_KEYS, max_size=20), known=st.lists(st.none() | _KEYS, unique=True, max_size=10))
def test_numbers_are_looked_up_as_by_a_join(rated, known):
    """Ratings would be given to another user, or ratings of users that are left out would come in."""
    frame = lazy(
        pl.DataFrame({"user_id": rated, "row": range(len(rated))}, schema={"user_id": pl.Int64, "row": pl.Int64})
    )
    index = lazy(
        pl.DataFrame({"user": range(len(known)), "user_id": known}, schema={"user": pl.Int32, "user_id": pl.Int64})
    )
    found = to_polars(numbered(frame, index).sort("row"), "row", "user_id", "user")
    assert_frame_equal(found, to_polars(frame.join(index, on="user_id").sort("row"), "row", "user_id", "user"))
