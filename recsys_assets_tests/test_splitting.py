import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, to_polars

TIMES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 4)), min_size=2, max_size=60)


def _ratings(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    """One row per (user, movie), with time in whole seconds, two batches and the row of the source."""
    table = pl.DataFrame(rows, schema=["user", "movie", "second"], orient="row").unique(
        ["user", "movie"], maintain_order=True
    )
    return table.with_row_index("row").select(
        pl.col("user", "movie").cast(pl.Int32),
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
    pairs = pl.DataFrame({"user": range(200)}).join(pl.DataFrame({"movie": range(200)}), how="cross")
    drawn = [to_polars(splitting.random_rows(lazy(pairs), "test", test_share=0.1, seed=seed)) for seed in (1, 2)]
    assert all(abs(len(rows) / len(pairs) - 0.1) < 0.005 for rows in drawn)
    assert 2 < drawn[0].group_by("user").len()["len"].std() < 8
    assert len(drawn[0].join(drawn[1], on=["user", "movie"])) < 0.02 * len(pairs)


def _many_ratings(seed: int) -> pl.DataFrame:
    """12 users with 1 to 30 ratings each, times tied."""
    generator = np.random.default_rng(seed)
    rows = [
        (user, movie, int(generator.integers(0, 6)))
        for user in range(12)
        for movie in generator.permutation(40)[: generator.integers(1, 31)]
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
    train, test = (to_polars(splitting.last_out(lazy(table), side)).select(table.columns) for side in ("train", "test"))
    assert _in_time(pl.concat([train, test])).equals(_in_time(table))
    latest = _in_time(table.filter(pl.len().over("user") > 1)).group_by("user", maintain_order=True).last()
    assert sorted(test["row"]) == sorted(latest["row"])
