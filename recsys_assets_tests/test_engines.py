import narwhals as nw
import numpy as np
import polars as pl
import pytest

from recsys_assets.home.running import SparkSettings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import conform, lazy, pseudo_random, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.models import cold_start

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    """The session that the pipeline itself would start."""
    settings = SparkSettings(master="local[2]", shuffle_partitions=2)
    return spark_resource(settings, tmp_path_factory.mktemp("scratch")).spark_session


@pytest.fixture(scope="module")
def batches():
    """Two overlapping batches of made-up ratings: 60 users, 40 items, tied timestamps, later corrections."""
    generator = np.random.default_rng(7)

    def batch(rows: int, first_user: int) -> dict[str, pl.DataFrame]:
        users = generator.integers(first_user, first_user + 40, rows)
        items = generator.integers(0, 40, rows)
        ratings = pl.DataFrame(
            {
                "user_id": [f"u{user}" for user in users],
                "item_id": [f"m{item}" for item in items],
                "rating": generator.integers(1, 6, rows).astype(np.float32),
                "timestamp": pl.Series(generator.integers(0, 50, rows) * 1_000_000).cast(pl.Datetime("us", "UTC")),
                "row": np.arange(rows),
            }
        )
        people = sorted({f"u{user}" for user in range(first_user, first_user + 50)})
        titles = sorted({f"m{item}" for item in range(45)})
        return {
            "ratings": ratings,
            "users": pl.DataFrame({"user_id": people, "age": [float(len(name)) for name in people]}),
            "items": pl.DataFrame(
                {
                    "item_id": titles,
                    "title": titles,
                    "year": pl.Series([1990] * len(titles), dtype=pl.Int32),
                    "genres": [["Drama"]] * len(titles),
                }
            ),
        }

    return [batch(600, 0), batch(500, 20)]


def _relational_tables(batches, scan) -> dict[str, pl.DataFrame]:
    """Every table that is one relational expression, computed by the engine that `scan` hands out frames of."""
    raw = {name: [scan(batch[name], f"{name}{i}") for i, batch in enumerate(batches)] for name in batches[0]}
    users = scan(to_polars(merge.index_users(raw["users"], raw["ratings"])), "indexed_users")
    items = scan(to_polars(merge.index_items(raw["items"], raw["ratings"])), "indexed_items")
    merged = merge.merge_ratings(raw["ratings"], users, items)
    ratings = scan(to_polars(conform(merged, TABLES["ratings"])), "ratings")
    train = splitting.cut_in_time(ratings, "train", cut=0.5)
    partition = splitting.partition_users(users, seed=3)
    clusters = users.select("user", cluster=(nw.col("user") % 3))
    pairs = pl.DataFrame({"cluster": np.arange(3)}).join(pl.DataFrame({"item": np.arange(45)}), how="cross")
    predicted = lazy(pairs.with_columns(rating=(pl.col("cluster") + pl.col("item"))))
    clusters, predicted = (
        scan(to_polars(conform(frame, TABLES[name])), name)
        for name, frame in {"user_clusters": clusters, "cluster_ratings": predicted}.items()
    )
    tables = {
        "users": users,
        "items": items,
        "ratings": ratings,
        "train_ratings": train,
        "test_ratings": splitting.cut_in_time(ratings, "test", cut=0.5),
        "user_partition": partition,
        "train_histories": splitting.histories(ratings, partition, "train"),
        "train_responses": splitting.responses(ratings, partition, "train"),
        "test_histories": splitting.histories(ratings, partition, "test"),
        "test_responses": splitting.responses(ratings, partition, "test"),
        "adjusted_train_ratings": cold_start.fill_cold_users(
            train, users, clusters, predicted, settings=cold_start.ColdStartSettings()
        ),
    }
    # Splits of the study: all of them tables of ratings.
    tables |= {
        f"{name}/ratings": frame
        for side in ("train", "test")
        for name, frame in {
            f"random_rows/{side}": splitting.random_rows(ratings, side, test_share=0.2, seed=4),
            f"new_user_rows/{side}": splitting.new_user_rows(ratings, side, n_revealed=2, share=0.5, seed=4),
            f"leave_last_out/{side}": splitting.leave_last_out(ratings, side),
        }.items()
    }
    # The same rows as events, whose sums have lists of what was known.
    summed = merge.add_up_events(raw["ratings"], users, items, damping="log1p")
    events = scan(to_polars(conform(summed, TABLES["ratings"])), "events")
    tables |= {
        "events/ratings": events,
        **{f"events_{side}/ratings": splitting.cut_in_time(events, side, cut=0.5) for side in ("train", "test")},
        **{f"events_last_{side}/ratings": splitting.leave_last_out(events, side) for side in ("train", "test")},
        "events_revealed/ratings": splitting.new_user_rows(events, "train", n_revealed=2, share=0.5, seed=4),
    }
    declared = {name: TABLES[name.rpartition("/")[2]] for name in tables}
    return {name: to_polars(conform(frame, declared[name])).sort(*declared[name].key) for name, frame in tables.items()}


@pytest.fixture(scope="module")
def both(batches, spark, tmp_path_factory):
    """The relational tables by engine."""
    folder = tmp_path_factory.mktemp("spark")

    def scan_spark(frame: pl.DataFrame, name: str) -> nw.LazyFrame:
        frame.write_parquet(folder / f"{name}.parquet")
        return nw.from_native(spark.read.parquet(str(folder / f"{name}.parquet")))

    return _relational_tables(batches, lambda frame, _: lazy(frame)), _relational_tables(batches, scan_spark)


def test_tables_are_the_same_on_both_engines(both):
    """Moving from a laptop to a cluster would change who is in the training set, silently."""
    polars, spark = both
    different = [name for name in polars if not polars[name].equals(spark[name])]
    assert not different, f"{different[0]}:\n{polars[different[0]]}\n{spark[different[0]]}"
    assert all(len(table) for table in polars.values())


@pytest.mark.parametrize("seed", [0, 1, 1000, 1234, 2**40])
def test_pseudo_random_numbers_do_not_overflow_on_spark(spark, seed):
    """Large ids would make every Spark run fail with an overflow that Polars hides."""
    ids = pl.DataFrame(
        {"user": [0, 1, 2**31 - 2], "item": [2**31 - 2, 0, 2**31 - 2]}, schema_overrides={"user": pl.Int32}
    )
    frame = nw.from_native(spark.createDataFrame(ids.to_arrow()))
    drawn = to_polars(frame.select(draw=pseudo_random(seed, ["user", "item"])))
    assert sorted(drawn["draw"]) == sorted(
        to_polars(lazy(ids).select(draw=pseudo_random(seed, ["user", "item"])))["draw"]
    )
