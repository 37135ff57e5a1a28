"""Keeps the SQLite connections of Dagster's event log open while a run is at work.

Dagster opens and closes a connection for each of the thousands of events of a run. SQLite then reads the schema each
time and empties its write-ahead log, which takes a quarter of a run on small data. The connections are closed after the
run, so that the log of SQLite keeps no row that somebody deletes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock

import dagster as dg
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine

from recsys_assets.orchestration.dagster_internals import (
    INDEX_SHARD_NAME,
    SQLITE_BUSY_TIMEOUT_SECONDS,
    SqliteEventLogStorage,
)


@contextmanager
def kept_connections(instance: dg.DagsterInstance) -> Iterator[None]:
    """Use one connection per database of the event log until the context ends.

    An event log that is not in SQLite is left alone.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        yield
        return
    engines, lock = dict[str, Engine](), Lock()

    @contextmanager
    def connection_to(database: str) -> Iterator[Connection]:
        with lock:
            if database not in engines:
                # Dagster's own connection creates the tables.
                with storage._connect(database):
                    pass
                location = storage.conn_string_for_shard(database)
                engines[database] = create_engine(location, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
            with engines[database].begin() as connection:
                yield connection

    replaced = {"run_connection": connection_to, "index_connection": partial(connection_to, INDEX_SHARD_NAME)}
    vars(storage).update(replaced)
    try:
        yield
    finally:
        for name in replaced:
            delattr(storage, name)
        for engine in engines.values():
            engine.dispose()
