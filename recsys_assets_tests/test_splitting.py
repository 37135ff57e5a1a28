import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender import splitting
from recsys_assets.recommender.frames import lazy, to_polars

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
