import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.evaluation.backtest import window

TIMES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 4)), min_size=2, max_size=60)


def _ratings(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    """One row per (user, item), with time in whole seconds, two batches and the row of the source."""
    table = pl.DataFrame(rows, schema=["user", "item", "second"], orient="row").unique(
        ["user", "item"], maintain_order=True
    )
    return table.with_row_index("row").select(
        pl.col("user", "item").cast(pl.Int32),
        rating=pl.col("second").cast(pl.Float32),
        timestamp=(pl.col("second") * 1_000_000).cast(pl.Datetime("us", "UTC")),
        batch=(pl.col("row") % 2).cast(pl.Int32),
        row=pl.col("row").cast(pl.Int64),
    )


def _in_time(table: pl.DataFrame) -> pl.DataFrame:
    return table.sort("timestamp", "batch", "row")


@pytest.mark.parametrize(
    ("n", "cut", "expected"),
    [(1_000_209, "auto", 800_000), (100_000, "auto", 80_000), (11, 0.8, 8), (10, 7, 7), (1_000_209, 0.8, 800_167)],
)
def test_size_of_the_training_set(n, cut, expected):
    """Case study A's counts would be missed, or a fraction rounded up."""
    assert splitting.train_size(n, cut) == expected


@pytest.mark.parametrize("cut", [10, 0.01, 11])
def test_a_cut_without_train_or_test_is_refused(cut):
    """A model would be fitted or scored on nothing."""
    with pytest.raises(ValueError, match=r"set splitting\.cut"):
        splitting.train_size(10, cut)


@given(TIMES, st.floats(0.2, 0.8))
def test_the_cut_is_a_cut_in_time(rows, cut):
    """A model would learn from ratings given after those it is tested on, or rows would be lost."""
    table = _ratings(rows)
    assume(splitting.has_times(lazy(table)))
    if not 0 < int(len(table) * cut) < len(table):
        return
    parts = [
        to_polars(splitting.cut_in_time(lazy(table.sample(fraction=1, shuffle=True)), side, cut=cut))
        for side in ("train", "test")
    ]
    assert len(parts[0]) == int(len(table) * cut)
    assert pl.concat([_in_time(part) for part in parts]).equals(_in_time(table))


@given(TIMES)
def test_histories_and_responses_share_out_each_users_ratings(rows):
    """The response would leak into the history it is predicted from, or a user's ratings would be lost."""
    table = _ratings(rows)
    assume(splitting.has_times(lazy(table)))
    partition = splitting.partition_users(lazy(table.unique("user")), train_share=0.5, seed=1)
    for side in ("train", "test"):
        history = to_polars(splitting.histories(lazy(table), partition, side)).select(table.columns)
        response = to_polars(splitting.responses(lazy(table), partition, side)).select(table.columns)
        members = to_polars(partition.filter(nw.col("partition") == side))["user"]
        with_history = table.filter(pl.col("user").is_in(members.implode()), pl.len().over("user") > 1)
        assert _in_time(pl.concat([history, response])).equals(_in_time(with_history))
        latest = _in_time(with_history).group_by("user", maintain_order=True).last()
        assert sorted(response["row"]) == sorted(latest["row"])


def test_partition_has_the_share_and_follows_the_seed():
    """Case study B's 70/30 split would be another one, or could not be repeated."""
    users = lazy(pl.DataFrame({"user": range(20_000)}))
    first, again, other = (
        to_polars(splitting.partition_users(users, train_share=0.7, seed=seed)) for seed in (5, 5, 6)
    )
    assert abs((first["partition"] == "train").mean() - 0.7) < 0.01
    assert first.equals(again)
    assert not first.equals(other)


SHARES = st.floats(0.1, 0.9)


@given(TIMES, SHARES, SHARES, st.integers(0, 50))
def test_random_splits_share_out_the_ratings_and_nest(rows, share, other, seed):
    """Rows would be lost or stand on both sides, or a split would follow the order of the file."""
    table = _ratings(rows)
    less, more = sorted((share, other))

    def of(side: str, test_share: float, frame: pl.DataFrame = table) -> pl.DataFrame:
        return _in_time(to_polars(splitting.random_rows(lazy(frame), side, test_share=test_share, seed=seed)))

    assert _in_time(pl.concat([of("train", less), of("test", less)])).equals(_in_time(table))
    assert set(of("test", less)["row"]) <= set(of("test", more)["row"])
    assert of("test", less).equals(of("test", less, table.sample(fraction=1, shuffle=True)))


def test_random_splits_have_the_share_within_users_and_follow_the_seed():
    """The rows of some users would all be in the test set, or several seeds would be one."""
    pairs = pl.DataFrame({"user": range(200)}).join(pl.DataFrame({"item": range(200)}), how="cross")
    drawn = [to_polars(splitting.random_rows(lazy(pairs), "test", test_share=0.1, seed=seed)) for seed in (1, 2)]
    assert all(abs(len(rows) / len(pairs) - 0.1) < 0.005 for rows in drawn)
    assert 2 < drawn[0].group_by("user").len()["len"].std() < 8
    assert len(drawn[0].join(drawn[1], on=["user", "item"])) < 0.02 * len(pairs)


def _many_ratings(seed: int) -> pl.DataFrame:
    """12 users with 1 to 30 ratings each, times tied."""
    generator = np.random.default_rng(seed)
    rows = [
        (user, item, int(generator.integers(0, 6)))
        for user in range(12)
        for item in generator.permutation(40)[: generator.integers(1, 31)]
    ]
    return _ratings(rows)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 20))
def test_new_users_reveal_their_first_ratings_and_are_scored_on_the_same_later_ones(seed, one, other):
    """The curve from cold to warm would compare different rows, or what is to be predicted would be revealed."""
    table = _many_ratings(seed)
    fewer, more = sorted((one, other))

    def of(side: str, n_revealed: int) -> pl.DataFrame:
        frame = splitting.new_user_rows(lazy(table), side, n_revealed=n_revealed, share=0.5, seed=seed)
        return to_polars(frame).select(table.columns)

    new = set(table["user"]) - set(of("train", 0)["user"])
    test = _in_time(of("test", fewer))
    assert test.equals(_in_time(of("test", more)))
    assert set(of("train", fewer)["row"]) <= set(of("train", more)["row"])
    in_time = _in_time(table).with_columns(place=pl.int_range(pl.len()).over("user"))
    revealed = in_time.filter(pl.col("user").is_in(list(new)), pl.col("place") < more)
    others = table.filter(~pl.col("user").is_in(list(new)))
    assert sorted(of("train", more)["row"]) == sorted([*revealed["row"], *others["row"]])
    late = in_time.filter(pl.col("user").is_in(list(new)), pl.col("place") >= splitting.MOST_REVEALED)
    assert sorted(test["row"]) == sorted(late["row"])


def test_more_than_the_first_ratings_cannot_be_revealed():
    """Test rows would be revealed to the models that predict them."""
    with pytest.raises(ValueError, match="0 to 20 ratings of a new user"):
        splitting.new_user_rows(lazy(_many_ratings(0)), "train", n_revealed=21)


@given(TIMES)
def test_last_out_takes_each_users_latest_rating(rows):
    """The audit of leakage would leave out another rating than the last."""
    table = _ratings(rows)
    assume(splitting.has_times(lazy(table)))
    train, test = (
        to_polars(splitting.leave_last_out(lazy(table), side)).select(table.columns) for side in ("train", "test")
    )
    assert _in_time(pl.concat([train, test])).equals(_in_time(table))
    latest = _in_time(table.filter(pl.len().over("user") > 1)).group_by("user", maintain_order=True).last()
    assert sorted(test["row"]) == sorted(latest["row"])


def _without_times(n_users: int, n_each: int) -> pl.DataFrame:
    """Ratings of one time, sorted by user, as in most files."""
    rows = [(user, item, 0) for user in range(n_users) for item in range(n_each)]
    return _ratings(rows)


def test_without_times_the_cut_takes_ratings_of_all_users():
    """The test rows would be the last users of the file, of whom no model knows a rating."""
    table = _without_times(50, 20)
    train, test = (to_polars(splitting.cut_in_time(lazy(table), side)) for side in ("train", "test"))
    assert (train.height, test.height) == (800, 200)
    assert train.columns == test.columns == table.columns
    assert train["user"].n_unique() == 50
    assert test["user"].n_unique() > 40
    assert train.join(test, on=["user", "item"]).is_empty()
    shuffled = lazy(table.sample(fraction=1, shuffle=True, seed=1).drop("row").with_row_index("row"))
    again = to_polars(splitting.cut_in_time(shuffled, "test"))
    assert set(again.select("user", "item").rows()) == set(test.select("user", "item").rows())


def test_without_times_the_latest_rating_is_a_random_one():
    """The held-out ratings would be the highest item ids, because files are sorted by item within a user."""
    table = _without_times(50, 20)
    held = to_polars(splitting.leave_last_out(lazy(table), "test"))
    assert held.columns == table.columns
    assert held["user"].n_unique() == held.height == 50
    assert held["item"].n_unique() > 10
    partition = lazy(pl.DataFrame({"user": range(50), "partition": ["test"] * 50}, schema_overrides={"user": pl.Int32}))
    history = to_polars(splitting.histories(lazy(table), partition, "test"))
    response = to_polars(splitting.responses(lazy(table), partition, "test"))
    assert history.height == 950
    assert history.join(response, on=["user", "item"]).is_empty()
    revealed = to_polars(splitting.new_user_rows(lazy(table), "train", n_revealed=5, share=1.0))
    assert revealed.columns == table.columns
    assert revealed["item"].n_unique() == 20


def test_both_sides_of_a_backtest_are_apart_if_only_a_part_has_times():
    """Test rows of the backtest would be training rows where the first ratings were imported with one date."""
    table = _without_times(50, 20).with_columns(
        timestamp=pl.when(pl.col("row") < 950).then("timestamp").otherwise(pl.col("timestamp") + pl.duration(days=1))
    )
    train, test = (to_polars(frame) for frame in window(lazy(table), 0.8))
    assert (train.height, test.height) == (800, 100)
    assert train.join(test, on=["user", "item"]).is_empty()
