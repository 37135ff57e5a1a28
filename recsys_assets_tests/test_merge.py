import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest import merge

# Every row at a time of its own; a pair may be rated several times.
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=30)


def _raw(rows: list[tuple[int, int, int, int]]) -> pl.DataFrame:
    """Raw ratings from (user, item, rating, second), in this order."""
    return pl.DataFrame(
        {
            "user_id": [f"u{row[0]}" for row in rows],
            "item_id": [f"m{row[1]}" for row in rows],
            "rating": pl.Series([row[2] for row in rows], dtype=pl.Float32),
            "timestamp": pl.Series([row[3] * 1_000_000 for row in rows], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "row": pl.Series(range(len(rows)), dtype=pl.Int64),
        }
    )


def _merged(*batches: pl.DataFrame) -> pl.DataFrame:
    """The merged ratings with original ids."""
    raw = [lazy(batch) for batch in batches]
    nothing = lazy(pl.DataFrame(schema={"user_id": pl.String}))
    no_items = lazy(pl.DataFrame(schema={"item_id": pl.String, "title": pl.String}))
    users = lazy(to_polars(merge.index_users([nothing] * len(raw), raw)))
    items = lazy(to_polars(merge.index_items([no_items] * len(raw), raw)))
    ratings = to_polars(conform(merge.merge_ratings(raw, users, items), TABLES["ratings"]))
    named = ratings.join(to_polars(users), on="user").join(to_polars(items), on="item")
    return named.sort("user_id", "item_id").select("user_id", "item_id", "rating", "timestamp")


@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_and_any_split_into_batches_give_the_same_ratings(rows, random, n_batches):
    """Late, repeated or re-cut deliveries would change the catalogue."""
    timed = [(*row, second) for second, row in enumerate(rows)]
    shuffled = random.sample(timed, len(timed)) + random.choices(timed, k=3)
    batches = [[row for row in shuffled if random.random() < 0.5] for _ in range(n_batches - 1)]
    batches.append(shuffled)
    assert _merged(*map(_raw, batches)).equals(_merged(_raw(timed)))


@given(ROWS, st.integers(1, 29))
def test_where_times_tie_the_later_batch_and_then_the_later_row_count(rows, cut):
    """A correction in a later delivery would be overruled by what it corrects."""
    tied = [(*row, 7) for row in rows]
    expected = {(f"u{user}", f"m{item}"): rating for user, item, rating, _ in tied}
    merged = _merged(_raw(tied[:cut]), _raw(tied[cut:]))
    assert {(user, item): rating for user, item, rating, _ in merged.rows()} == expected


def test_ids_are_given_out_by_batch_then_id():
    """Old indices would change with every delivery, or with the order of rows in a file."""
    first, second = _raw([(3, 1, 5, 0), (1, 2, 5, 1)]), _raw([(0, 0, 5, 2), (1, 2, 4, 3), (2, 9, 4, 4)])
    users = lazy(pl.DataFrame({"user_id": ["u7"]}))
    raw = [lazy(first), lazy(second)]
    indexed = to_polars(merge.index_users([users, users.head(0)], raw)).sort("user")
    assert indexed["user_id"].to_list() == ["u1", "u3", "u7", "u0", "u2"]
    again = to_polars(merge.index_users([users, users.head(0)], [lazy(first.reverse()), lazy(second.reverse())]))
    assert again.sort("user").equals(indexed)


def test_ids_that_are_numbers_are_the_ids_that_they_are_written_as():
    """Whoever has the id 07 would get the ratings of 7, or 7 would be two users, once as a number and once as text."""
    numbers = _raw([(7, 1, 5, 0), (20, 2, 4, 1)]).with_columns(
        pl.col("user_id").str.slice(1).cast(pl.Int64), pl.col("item_id").str.slice(1).cast(pl.Int64)
    )
    texts = numbers.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    described = lazy(pl.DataFrame({"user_id": ["07", "x", "+7", "9" * 30]}))
    items = lazy(pl.DataFrame({"item_id": ["1", "2", "02"]}).with_row_index("item"))
    for batches in ([numbers], [numbers, texts], [texts, numbers]):
        raw = [lazy(batch) for batch in batches]
        users = lazy(to_polars(merge.index_users([described] * len(raw), raw)))
        merged = to_polars(merge.merge_ratings(raw, users, items)).join(to_polars(users), on="user")
        assert sorted(merged.select("user_id", "item", "rating").rows()) == [("20", 1, 4.0), ("7", 0, 5.0)]


def test_attributes_come_from_the_newest_description():
    """A user who moved would keep the old zip code, or lose all attributes when rating again."""
    described = [
        pl.DataFrame({"user_id": ["u0", "u1"], "age": [30.0, 40.0]}),
        pl.DataFrame({"user_id": ["u0"], "age": [31.0], "plan": ["gold"]}),
        pl.DataFrame(schema={"user_id": pl.String}),
    ]
    raw = [lazy(_raw([(user, 0, 5, user)])) for user in (0, 1, 1)]
    users = to_polars(merge.index_users([lazy(table) for table in described], raw)).sort("user")
    assert users.select("user_id", "age", "plan").rows() == [("u0", 31.0, "gold"), ("u1", 40.0, None)]


def test_a_number_is_the_text_that_another_batch_writes_for_it():
    """Users of the same level would be of two kinds, 25 and 25.0, in clusters and profiles."""
    described = [
        pl.DataFrame({"user_id": ["u0", "u1", "u2"], "level": [25.0, 2.5, None]}),
        pl.DataFrame({"user_id": ["u3", "u4"], "level": ["25", "gold"]}),
    ]
    raw = [lazy(_raw([(user, 0, 5, user)])) for user in (0, 3)]
    users = to_polars(merge.index_users([lazy(table) for table in described], raw)).sort("user_id")
    assert users["level"].to_list() == ["25", "2.5", None, "25", "gold"]
