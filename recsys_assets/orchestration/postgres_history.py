"""The tables of a run history in PostgreSQL: their size, the bytes of deleted rows, and their values for a search.

`run_history` deletes the rows. `home.history_database` configures and checks the database.
"""

from collections.abc import Iterator
from itertools import chain

import dagster as dg
import sqlalchemy as db
from sqlalchemy.engine import Connection

from recsys_assets.home.layout import Home
from recsys_assets.orchestration.dagster_internals import (
    JobTickTable,
    RunTagsTable,
    SqlEventLogStorage,
    SqlEventLogStorageTable,
)

# VACUUM FULL waits this long for a table that another process uses.
_WAIT_SECONDS = 20
_ROWS = 1000


def is_postgres(connection: Connection) -> bool:
    """Whether a connection of Dagster's storage leads to PostgreSQL."""
    return connection.dialect.name == "postgresql"


def size(connection: Connection) -> int:
    """Bytes of the whole database on the server's disk."""
    return int(connection.execute(db.text("SELECT pg_database_size(current_database())")).scalar_one())


def erase_deleted_rows(connection: Connection) -> None:
    """Rewrite the tables and their statistics without the bytes of deleted rows.

    PostgreSQL otherwise keeps deleted rows in its files until it needs their place. Its write-ahead log and backups
    keep them longer; only the server's administrator can delete those.

    Raises:
        sqlalchemy.exc.OperationalError: another process uses a table.
    """
    connection.execute(db.text(f"SET lock_timeout = '{_WAIT_SECONDS}s'"))
    for table in _tables(connection):
        connection.execute(db.text(f"VACUUM (FULL, ANALYZE) {table}"))


def stored_values(home: Home) -> Iterator[tuple[str, list[object]]]:
    """All values of a home's run history in PostgreSQL, in parts: name of the table, and values of some rows.

    Nothing is returned for a run history in files, which are searched as files.
    """
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        events = instance.event_log_storage
        assert isinstance(events, SqlEventLogStorage)
        with events.index_connection() as connection:
            for table in _tables(connection) if is_postgres(connection) else ():
                rows = connection.execute(db.text(f"SELECT * FROM {table}"))
                for part in rows.partitions(_ROWS):
                    yield f"table {table} of the run history", list(chain.from_iterable(part))


def _tables(connection: Connection) -> list[str]:
    """Names of Dagster's tables, quoted for SQL."""
    schemas = (table.metadata for table in (SqlEventLogStorageTable, RunTagsTable, JobTickTable))
    known = {name for schema in schemas for name in schema.tables}
    there = db.inspect(connection).get_table_names()
    return [connection.dialect.identifier_preparer.quote(name) for name in sorted(known & {*there})]
