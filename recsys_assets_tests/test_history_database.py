"""The run history in PostgreSQL: what is refused with which words, and everything that works on a real server."""

import os
import socket
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import fsspec
import pytest
import sqlalchemy as db
import yaml
from dagster._core.scheduler.instigation import TickStatus

from recsys_assets.cli.faults import explained
from recsys_assets.home import history_database, remote
from recsys_assets.home.history_database import configure, require_database
from recsys_assets.home.layout import INSTANCE, Home, HomeError, read_instance, write_instance
from recsys_assets.home.running import HistorySettings
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.orchestration.postgres_history import stored_values
from recsys_assets.orchestration.run_history import erase_history, erase_history_of, prune_history, prune_where_possible
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.postgres import VARIABLE, Server, postgres
from recsys_assets_tests.test_history import QUOTED, Kept, _land, _tick

SECRET = "sesame-8841"
INSTANCE_SETTINGS = f'[instance]\npostgres_url_env = "{VARIABLE}"\n'


@pytest.fixture
def home(tmp_path) -> Home:
    """A home whose settings name a database."""
    made = Home(tmp_path / "home")
    made.prepare()
    made.settings_file.write_text(INSTANCE_SETTINGS)
    return made


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_url_is_in_no_file_of_the_home(home, monkeypatch):
    """Whoever can read a backup of the home could read the database's password."""
    monkeypatch.setenv(VARIABLE, f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:{_closed_port()}/runs")
    assert invoke("run", "--home", home.path).exit_code == 1
    stored = yaml.safe_load(home.instance_file.read_text())
    assert stored == {**INSTANCE, "storage": {"postgres": {"postgres_url": {"env": VARIABLE}}}}
    assert not [path for path in home.path.rglob("*") if path.is_file() and SECRET in path.read_text()]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "is not set in the environment"),
        (f"postgresql://me:{SECRET}@127.0.0.1/runs", r"has to begin with postgresql\+psycopg2://"),
        (f"postgresql+psycopg2://me:a@{SECRET}@127.0.0.1/runs", "write @ as %40"),
        (f"postgresql+psycopg2://me:a/{SECRET}@127.0.0.1/runs", "/ as %2F"),
        (f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:port/runs", "is no URL of the form"),
        (f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:{{port}}/runs", "Connection refused. Is the server running"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_the_way_out(home, monkeypatch, url, told):
    """A run would fail with a stack trace of SQLAlchemy, or the password would be on the screen."""
    monkeypatch.setenv(VARIABLE, url.replace("{port}", str(_closed_port())))
    with pytest.raises(HomeError, match=told) as refused:
        require_database(home, configure(home))
    assert VARIABLE in str(refused.value) and SECRET not in str(refused.value)


def test_a_missing_package_is_named_with_the_extra_that_has_it(home, monkeypatch):
    """Somebody would look for the package of an import error deep inside Dagster."""
    monkeypatch.setenv(VARIABLE, "postgresql+psycopg2://me@127.0.0.1/runs")
    monkeypatch.setattr(history_database, "find_spec", lambda name: None if name == "dagster_postgres" else object())
    with pytest.raises(HomeError, match=r"dagster_postgres cannot be imported.*recsys_assets\[postgres\]"):
        require_database(home, configure(home))


def test_a_url_in_place_of_its_variable_is_refused_and_not_printed(home):
    """A password written into the settings by mistake would be repeated in every log."""
    home.settings_file.write_text(
        f'[instance]\npostgres_url_env = "postgresql+psycopg2://me:{SECRET}@localhost/runs"\n'
    )
    with pytest.raises(SettingsError, match="name of an environment variable") as refused:
        Settings.load(home)
    assert SECRET not in str(refused.value)


def test_settings_and_dagster_yaml_never_name_two_stores(home):
    """A run would be recorded in files, while the sensors look at the database."""
    assert configure(home) == VARIABLE
    home.settings_file.write_text("")
    with pytest.raises(HomeError, match=f'Set `postgres_url_env = "{VARIABLE}"`'):
        configure(home)
    content = {name: part for name, part in read_instance(home).items() if name != "storage"}
    write_instance(home, content)
    assert configure(home) == ""
    own = {"postgres": {"postgres_url": {"env": VARIABLE}, "should_autocreate_tables": False}}
    write_instance(home, content | {"storage": own})
    assert configure(home) == "" and read_instance(home)["storage"] == own
    home.settings_file.write_text(INSTANCE_SETTINGS)
    with pytest.raises(HomeError, match="has its own `storage`"):
        configure(home)


def test_two_commands_may_begin_a_home_at_once(home, monkeypatch):
    """A script that starts `serve` and `add` on a new home sees one of them end with "No such file or directory"."""
    replace = Path.replace

    def after_another(path: Path, target: Path) -> Path:
        with monkeypatch.context() as other:
            other.setattr(Path, "replace", replace)
            other.setattr(os, "getpid", lambda: 1)
            write_instance(home, INSTANCE)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", after_another)
    write_instance(home, INSTANCE)
    assert read_instance(home) == INSTANCE and [*home.dagster.iterdir()] == [home.instance_file]


def test_a_copy_in_an_object_store_needs_a_database_of_its_own(tmp_path, monkeypatch):
    """A home in a bucket and its copy would merge or skip each other's batches."""
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path))
    system, bucket = fsspec.filesystem("memory"), f"memory://{uuid.uuid4().hex}"
    home = Home.resolve(f"{bucket}/films")
    home.prepare()
    with db.create_engine("sqlite://").connect() as connection:
        connection.connection.driver_connection.create_function("pg_advisory_xact_lock", 1, lambda _: None)
        history_database._claim(home, connection)
        remote.push(home.path)
        system.copy(f"{bucket}/films", f"{bucket}/test", recursive=True)
        copy = Home.resolve(f"{bucket}/test")
        remote.pull(copy.path)
        with pytest.raises(HomeError, match=f"{bucket}/test is a copy of {bucket}/films, "):
            history_database._claim(copy, connection)
        history_database._claim(home, connection)
        system.rm(f"{bucket}/films", recursive=True)
        history_database._claim(copy, connection)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL server for the tests of this file."""
    with postgres() as running:
        yield running


def _database(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(VARIABLE, server.url(name))


def _traces(home: Home) -> list[str]:
    """The tables with a value that holds the text that a person is quoted by."""
    named = {place.split()[1] for place, values in stored_values(home) if any(QUOTED in str(value) for value in values)}
    return sorted(named)


def _on_disk(server: Server, instance: dg.DagsterInstance, tables: list[str]) -> list[str]:
    """Those of the tables whose files on the server's disk hold the text."""
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql("CHECKPOINT")
        paths = [connection.exec_driver_sql(f"SELECT pg_relation_filepath('{name}')").scalar_one() for name in tables]
    return [
        name for name, path in zip(tables, paths, strict=True) if QUOTED.encode() in (server.folder / path).read_bytes()
    ]


@pytest.mark.slow
def test_a_history_in_postgresql_is_pruned_and_erased_like_one_in_files(server, home, monkeypatch):
    """Every batch would be read again after pruning, or a person would stay in the database after `compact`."""
    _database(server, monkeypatch, "erased")
    require_database(home, configure(home))
    (home.dagster / "history").mkdir()
    (home.dagster / "history" / "before.db").write_text(QUOTED)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        kept = Kept(home, instance)
        batches = [_land(kept, "may", 1), _land(kept, "june", 100)]
        assert all(kept.ingest(batch).success for batch in batches)
        newest = next(iter(instance.get_runs()))
        instance.report_engine_event(QUOTED, newest)
        instance.add_run_tags(newest.run_id, {"note": QUOTED})
        for days in (2, 1):
            _tick(instance, "a sensor", TickStatus.SKIPPED, timedelta(days=days))
        before = kept.known(batches)
        assert all(before["contents"])

        pruned = prune_history(instance, HistorySettings(keep_runs=1))
        assert (pruned.runs, pruned.ticks) == (1, 1)
        assert kept.known(batches) == before
        named = _traces(home)
        assert {"event_logs", "job_ticks", "run_tags"} <= {*named}
        assert _on_disk(server, instance, named)

        erased = erase_history(instance)
        assert erased.runs == 1 and kept.runs() == set()
        assert kept.known(batches) == before
        assert _traces(home) == _on_disk(server, instance, named) == []
    assert not (home.dagster / "history").exists()


@pytest.mark.slow
def test_a_database_belongs_to_one_home(server, home, tmp_path, monkeypatch):
    """Two homes, or a home and its copy, would read each other's batches."""
    _database(server, monkeypatch, "owned")
    require_database(home, configure(home))
    require_database(home, VARIABLE)
    other = Home(tmp_path / "other")
    other.prepare()
    with pytest.raises(HomeError, match=rf"run history of another home \({home.path}\)"):
        require_database(other, VARIABLE)
    copy, moved = Home(tmp_path / "copy"), Home(tmp_path / "moved")
    copy.prepare()
    copy.identity_file.write_text(home.identity_file.read_text())
    with pytest.raises(HomeError, match=f"copy of {home.path}"):
        require_database(copy, VARIABLE)
    home.path.rename(moved.path)
    require_database(moved, VARIABLE)


@pytest.mark.slow
def test_a_server_that_goes_away_is_named(server, home, monkeypatch):
    """A command would end with a stack trace, and pruning would make a good run fail."""
    _database(server, monkeypatch, "gone")
    require_database(home, configure(home))
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        server.stop()
        try:
            assert prune_where_possible(instance, home).startswith("The run history was not pruned")
            with pytest.raises(Exception, match="too many retries") as failed:
                erase_history_of(home)
            told = explained(failed.value, home)
            assert told and told.startswith(f"The run history is in PostgreSQL ({VARIABLE})")
            assert SECRET not in told
        finally:
            server.start()
