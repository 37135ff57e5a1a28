import dagster as dg
import narwhals as nw
import polars as pl
import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetDamagedError, AssetMissingError, AssetStore, scan
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.io_managers import digest
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.retries import is_permanent
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.tables import TABLES

CLUSTERS = pl.DataFrame({"user": [2, 0, 1], "cluster": [0, 1, 1]})


def _run(home: Home, *assets: dg.AssetsDefinition | dg.AssetSpec, raise_on_error: bool = True, **options):
    resources = dict(build_defs(home=home).resources or {})
    return dg.materialize(list(assets), resources=resources, raise_on_error=raise_on_error, **options)


def _clusters_asset(frame: nw.LazyFrame) -> dg.AssetsDefinition:
    @dg.asset(name="user_clusters")
    def made() -> nw.LazyFrame:
        return frame

    return made


@pytest.fixture
def home(tmp_path) -> Home:
    """An empty home."""
    return Home(tmp_path)


def test_a_table_is_stored_as_declared_and_read_back(home):
    """Another stage would meet columns of other types, or rows in another order on each run."""
    result = _run(home, _clusters_asset(lazy(CLUSTERS.with_columns(extra=1))))
    stored = scan(AssetStore(home.assets).current(["user_clusters"])).collect().to_native()
    assert stored.equals(CLUSTERS.sort("user").cast(pl.Int32))
    assert stored.schema == {"user": pl.Int32, "cluster": pl.Int32}
    metadata = result.asset_materializations_for_node("user_clusters")[0].metadata
    assert metadata["dagster/row_count"].value == 3


def test_a_stored_table_can_be_loaded_outside_a_run(home):
    """A notebook could not read a table by Dagster's own function."""
    _run(home, _clusters_asset(lazy(CLUSTERS)))
    loaded = build_defs(home=home).load_asset_value("user_clusters", python_type=nw.LazyFrame)
    assert len(loaded.collect()) == 3


def test_a_failed_write_leaves_the_version_before(home):
    """A crash in the middle of a write would leave half a table, or none."""
    _run(home, _clusters_asset(lazy(CLUSTERS)))
    before = AssetStore(home.assets).current(["user_clusters"])

    def fail(_: pl.DataFrame) -> pl.DataFrame:
        raise RuntimeError("disk full")

    broken = nw.from_native(CLUSTERS.lazy().map_batches(fail, schema=CLUSTERS.schema))
    assert not _run(home, _clusters_asset(broken), raise_on_error=False).success
    assert AssetStore(home.assets).current(["user_clusters"]) == before
    assert len(scan(before).collect()) == 3


def test_a_table_that_was_cut_off_is_named_with_the_way_out(home):
    """Somebody would read that some file "must end with PAR1", and not which file, or what to do."""
    _run(home, _clusters_asset(lazy(CLUSTERS)))
    file = AssetStore(home.assets).current(["user_clusters"]) / TABLE_FILE
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(AssetDamagedError, match=f"{file}.*recsys-assets backfill") as refused:
        scan(file.parent)
    assert is_permanent(refused.value)


def test_a_reader_keeps_the_version_it_began_with(home):
    """A long step would see a table change under its hands when another run writes it."""
    _run(home, _clusters_asset(lazy(CLUSTERS)))
    reader = scan(AssetStore(home.assets).current(["user_clusters"]))
    _run(home, _clusters_asset(lazy(CLUSTERS.head(1))))
    assert len(reader.collect()) == 3
    assert len(scan(AssetStore(home.assets).current(["user_clusters"])).collect()) == 1


def test_old_versions_are_pruned_but_for_a_few(home):
    """The disk would fill with every version ever written, or there would be none to go back to."""
    for rows in range(1, 4):
        for _ in range(2):
            _run(home, _clusters_asset(lazy(CLUSTERS.head(rows))))
    versions = home.assets / "user_clusters" / "versions"
    assert len(list(versions.iterdir())) == 3


def test_a_missing_upstream_says_what_to_run(home):
    """Whoever materializes one asset first would read a stack of file errors."""

    @dg.asset(ins={"user_clusters": dg.AssetIn("user_clusters", dagster_type=nw.LazyFrame)})
    def reader(user_clusters: nw.LazyFrame) -> None:
        del user_clusters

    result = _run(home, dg.AssetSpec("user_clusters"), reader, raise_on_error=False)
    error = result.failure_data_for_node("reader").error.cause
    assert error.cls_name == AssetMissingError.__name__
    assert "user_clusters has not been materialized" in error.message
    assert "dg launch --assets 'user_clusters'" in error.message


def test_an_instance_without_batches_says_how_to_start_that_of_the_home(home):
    """Whoever sets RECSYS_HOME and forgets DAGSTER_HOME would read of an empty list somewhere in an asset."""

    @dg.asset(partitions_def=BATCHES)
    def raw_users() -> None: ...

    @dg.asset
    def reader(raw_users: dict[str, nw.LazyFrame]) -> None:
        del raw_users

    result = _run(home, raw_users, reader, selection=["reader"], raise_on_error=False)
    error = result.failure_data_for_node("reader").error.cause
    assert error.cls_name == AssetMissingError.__name__
    assert f"DAGSTER_HOME={home.dagster}" in error.message


def test_batches_are_stored_and_read_apart_in_their_order(home):
    """One batch would overwrite another, or ids would be given out in another order than the batches came in."""
    seen = []

    @dg.asset(partitions_def=BATCHES, backfill_policy=dg.BackfillPolicy.single_run())
    def raw_users(context: dg.AssetExecutionContext) -> dict[str, nw.LazyFrame]:
        return {name: lazy(pl.DataFrame({"user_id": [name], name[0]: [1]})) for name in context.partition_keys}

    @dg.asset
    def reader(raw_users: dict[str, nw.LazyFrame]) -> None:
        seen.extend((name, frame.collect().columns) for name, frame in raw_users.items())

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("batches", ["z/one.zip", "a two", "ü"])
        job = dg.Definitions(
            [raw_users, reader],
            resources=build_defs(home=home).resources,
            jobs=[dg.define_asset_job("both")],
            executor=dg.in_process_executor,
        ).resolve_job_def("both")
        tags = {"dagster/asset_partition_range_start": "z/one.zip", "dagster/asset_partition_range_end": "ü"}
        assert job.execute_in_process(instance=instance, tags=tags).success
    assert seen == [("z/one.zip", ["user_id", "z"]), ("a two", ["user_id", "a"]), ("ü", ["user_id", "ü"])]
    assert AssetStore(home.assets).batches(["raw_users"]) == ["a two", "z/one.zip", "ü"]


def test_the_version_of_ratings_ignores_where_rows_came_from(tmp_path):
    """A batch that is sent again in another order would set off a retraining, or a changed rating would not."""
    ratings = pl.DataFrame(
        {
            "user": [0, 0, 1],
            "item": [1, 2, 0],
            "rating": [1.0, 2.0, 3.0],
            "timestamp": pl.Series([1, 2, 3]).cast(pl.Datetime("us", "UTC")),
            "batch": [0, 0, 0],
            "row": [0, 1, 2],
        }
    )

    def version(frame: pl.DataFrame, name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        frame.write_parquet(folder / "table.parquet")
        return digest(folder, TABLES["ratings"])

    first = version(ratings, "first")
    assert version(ratings.with_columns(row=pl.Series([2, 0, 1]), batch=pl.lit(1)), "resent") == first
    for column in ("user", "item", "rating"):
        assert version(ratings.with_columns(pl.col(column) + 1), column) != first
    assert version(ratings.with_columns(pl.col("timestamp").dt.offset_by("1us")), "timestamp") != first


def test_a_pickle_is_not_stored(home):
    """Somebody's new asset would be stored in a form that runs code when it is read."""

    @dg.asset
    def anything() -> dict[str, int]:
        return {"a": 1}

    @dg.asset
    def something() -> object:
        return object()

    for asset in (anything, something):
        result = _run(home, asset, raise_on_error=False)
        assert not result.success
    assert not [path for path in home.path.rglob("*") if path.is_file()]
