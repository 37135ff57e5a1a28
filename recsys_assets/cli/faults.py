"""Error messages for faults outside of this program: full disk, missing permission, damaged file.

Each message is one line with the file and the way out. The faults are errors of the operating system, SQLite and
Polars. Errors of this project have their message where they are raised.
"""

import errno
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl

from recsys_assets.cli.terminal import CommandError
from recsys_assets.home.history_database import configure, require_database, unusable
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetDamagedError, AssetStore

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_IN_WORDS = re.compile(rf"disk is full|os error ({'|'.join(map(str, _NO_ROOM))})\b")
_MORE_ROOM = "Free some space, then repeat the command. Stored data are unchanged."
_HEADER = b"SQLite format 3\0"
_HEADER_BYTES = 100
# SQLite reports these where pages of a database are missing.
_CUT_OFF = (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_READ)
# SQLite needs 32 kB for a -shm file, and says nothing of the disk if it cannot have them.
_LEAST_ROOM_BYTES = 64_000


def explained(error: BaseException, home: Home | None) -> str | None:
    """A message for an error; None if neither the system nor a file is at fault.

    Args:
        error: the error that ended a command. Its causes are examined, too.
        home: the home of the command, if it is known.
    """
    if isinstance(error, OSError):
        return _of_system(error, home)
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return _of_system(cause, home)
        if type(cause).__module__.partition(".")[0] == "psycopg2" and home:
            return unusable(Settings.load(home).instance.postgres_url_env or "dagster.yaml", cause)
        if isinstance(cause, sqlite3.Error):
            return _of_history(cause, home)
        if _NO_ROOM_IN_WORDS.search(str(cause)):
            return f"The disk is full{_of(home)}: {_first_line(cause)}. {_MORE_ROOM}"
        if isinstance(cause, pl.exceptions.PolarsError) and home:
            return next((str(AssetDamagedError(path)) for path in AssetStore(home.assets).damaged_tables()), None)
    return None


def damaged_databases(home: Home, *, thorough: bool = False) -> list[Path]:
    """The databases of the run history that SQLite cannot read.

    Args:
        home: the home with the run history.
        thorough: whether to read every database completely. By default only databases with a wrong header or size are
            read, which takes no time.
    """
    found = sorted(home.dagster.rglob("*.db"))
    # A database that is being written may look damaged, so it is read before it counts as damaged.
    return [path for path in found if (thorough or _looks_damaged(path)) and not _reads_through(path)]


def require_history(home: Home) -> None:
    """Prepare the home, and check that its run history can record a run.

    Raises:
        CommandError: a database file of the run history is damaged.
        HomeError: the run history is in PostgreSQL, and PostgreSQL cannot be used.
    """
    if variable := configure(home):
        require_database(home, variable)
    elif damaged := damaged_databases(home):
        raise CommandError(damage(damaged))


def damage(paths: list[Path]) -> str:
    """The message about damaged databases, with the way out."""
    named = ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return (
        f"The run history is damaged: {named}. Put a copy back, or move the file away: Dagster starts a new history. "
        "Data, models and settings stay."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_system(error: OSError, home: Home | None) -> str:
    where = f" ({error.filename})" if error.filename else _of(home)
    if error.errno in _NO_ROOM:
        return f"The disk is full{where}: {error.strerror}. {_MORE_ROOM}"
    if isinstance(error, PermissionError):
        return f"{error}. Change its rights (chmod, chown), or work as its owner."
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        return f"{error}. There is a file in place of a folder, or a folder in place of a file: move it away."
    return str(error)


def _of_history(error: sqlite3.Error, home: Home | None) -> str:
    told = _first_line(error)
    if _NO_ROOM_IN_WORDS.search(told) or (home and shutil.disk_usage(home.path).free < _LEAST_ROOM_BYTES):
        return f"The disk is full{_of(home)}: {told}. {_MORE_ROOM}"
    if "locked" in told:
        return f"The run history{_of(home)} is in use ({told}). Repeat the command when the other process has ended."
    damaged = damaged_databases(home, thorough=True) if home else []
    if damaged:
        return damage(damaged)
    folder = home.dagster if home else "DAGSTER_HOME"
    return (
        f"The run history in {folder} cannot be used: {told}. Check the free space on the disk and the permissions of "
        "this folder."
    )


def _looks_damaged(path: Path) -> bool:
    if not path.is_file():
        return True
    size = path.stat().st_size
    if not size:
        # The database was just created, and nothing is written yet.
        return False
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_HEADER):
        return True
    # https://www.sqlite.org/fileformat.html: the number of pages is valid only if the two change counters are equal.
    page_bytes = int.from_bytes(header[16:18]) if header[16:18] != b"\0\1" else 1 << 16
    pages = int.from_bytes(header[28:32]) if header[24:28] == header[92:96] else 1
    return size < pages * page_bytes


def _reads_through(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path.as_uri() + "?mode=ro", uri=True)) as database:
            return [row[0] for row in database.execute("PRAGMA quick_check(1)")] == ["ok"]
    except sqlite3.OperationalError as error:
        # An intact database cannot be read either while it is in use, or while the disk has no room for its -shm file.
        return path.is_file() and error.sqlite_errorcode not in _CUT_OFF
    except sqlite3.DatabaseError:
        return False


def _of(home: Home | None) -> str:
    return f" of {home.path}" if home else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
