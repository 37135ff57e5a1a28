"""The PostgreSQL database of a home's run history: the section of dagster.yaml, the URL, and whose database it is.

The setting `[instance] postgres_url_env` names the environment variable that holds the URL. The URL has a password, so
it is never written to a file and no message quotes it. Dagster's own access is `dagster-postgres`; the tables are
pruned and erased by `orchestration.run_history`.
"""

import os
import re
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_assets.home import remote
from recsys_assets.home.layout import Home, HomeError, read_instance, write_instance
from recsys_assets.home.settings import Settings
from recsys_assets.home.unfinished import write_atomically

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

# SQLAlchemy 2.1 selects another driver for any other form.
_SCHEME = "postgresql+psycopg2://"
_FORM = f"{_SCHEME}USER:PASSWORD@HOST:5432/DATABASE"
# The driver reads the rest of a password after an unquoted @ or / as the host, and its messages quote the host.
_UNQUOTED = re.compile(r"^[^?#]*@[^?#]*@|^[^@?#]*/[^?#]*@")
_CONNECT_SECONDS = 10
# Key of the advisory lock: any number that no other program uses in the same database.
_LOCK = 7_305_113_119


def configure(home: Home) -> str:
    """Prepare the home, and make its dagster.yaml agree with the settings of the run history.

    Returns:
        Name of the environment variable with the URL; empty if the run history is in files of the home.

    Raises:
        HomeError: dagster.yaml and the settings name different stores.
        SettingsError: the settings cannot be used.
    """
    home.prepare()
    variable = Settings.load(home).instance.postgres_url_env
    stored = read_instance(home)
    storage = stored.get("storage") if isinstance(stored, dict) else None
    named = _variable_of(storage)
    if not variable:
        if named:
            raise HomeError(
                f"{home.instance_file} keeps the run history in PostgreSQL, and the settings do not. Set "
                f'`postgres_url_env = "{named}"` in [instance] of {home.settings_file}, or, to begin a new run history '
                f"in files, remove `storage` from {home.instance_file}."
            )
        return ""
    if storage is not None and not named:
        raise HomeError(
            f"{home.instance_file} has its own `storage`. Remove it, or remove [instance] postgres_url_env from "
            f"{home.settings_file}."
        )
    if named != variable:
        write_instance(home, {**(stored or {}), "storage": {"postgres": {"postgres_url": {"env": variable}}}})
    return variable


def require_database(home: Home, variable: str) -> None:
    """Check that the database of the run history can be used and is this home's.

    Raises:
        HomeError: a package is missing, the variable is not set or is no URL, the server cannot be reached, or the
            database holds the run history of another home. The message says the way out.
    """
    url = _url(variable)
    missing = [name for name in ("dagster_postgres", "psycopg2") if find_spec(name) is None]
    if missing:
        raise HomeError(
            f"[instance] postgres_url_env is set, and {' and '.join(missing)} cannot be imported. "
            "`pip install 'recsys_assets[postgres]'` installs what PostgreSQL needs."
        )
    # SQLAlchemy takes a while to import, and homes with files do not need it here.
    import sqlalchemy as db

    try:
        engine = db.create_engine(url, poolclass=db.NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS})
        with engine.begin() as connection:
            _claim(home, connection)
    except (db.exc.ArgumentError, ValueError):
        raise HomeError(f"{variable} in the environment is no URL of the form {_FORM}.") from None
    except db.exc.DBAPIError as error:
        raise HomeError(unusable(variable, error.orig or error)) from None


def unusable(variable: str, error: BaseException) -> str:
    """The message about a database that cannot be used. The driver's own words name host and user, no password."""
    told = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
    return (
        f"The run history is in PostgreSQL ({variable}), and PostgreSQL cannot be used: {told}. Is the server running? "
        "Are host, user, password and database in the variable right? Data, models and lists in the home are unchanged."
    )


def _url(variable: str) -> str:
    url = os.environ.get(variable, "")
    if not url:
        raise HomeError(
            f"{variable} is not set in the environment. [instance] postgres_url_env says that it holds the URL of the "
            f"run history's database: {_FORM}."
        )
    if not url.startswith(_SCHEME):
        raise HomeError(f"{variable} in the environment has to begin with {_SCHEME}, as in {_FORM}.")
    if _UNQUOTED.search(url.removeprefix(_SCHEME)):
        raise HomeError(
            f"{variable} in the environment has an unquoted character in user or password: write @ as %40, / as %2F, "
            ": as %3A, % as %25."
        )
    return url


def _variable_of(storage: Any) -> str:
    """The variable that `storage` in dagster.yaml names, if `configure` may have written it; else empty."""
    match storage:
        case {"postgres": {"postgres_url": {"env": str(name)}}}:
            return name if storage == {"postgres": {"postgres_url": {"env": name}}} else ""
    return ""


def _claim(home: Home, connection: "Connection") -> None:
    """Record in the database that it is this home's.

    Two homes with one run history would read each other's batches.

    Raises:
        HomeError: the database is another home's, or the home is a copy of the one that the database belongs to.
    """
    import sqlalchemy as db

    connection.execute(db.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    connection.execute(db.text("CREATE TABLE IF NOT EXISTS recsys_home (id text PRIMARY KEY, path text NOT NULL)"))
    mine = {"id": _identity(home), "path": home.address}
    owner = connection.execute(db.text("SELECT id, path FROM recsys_home")).mappings().first()
    if owner is None:
        connection.execute(db.text("INSERT INTO recsys_home VALUES (:id, :path)"), mine)
        return
    if owner["id"] != mine["id"]:
        raise HomeError(
            f"The database holds the run history of another home ({owner['path']}). Create a database for this home, "
            "or, if the other home is gone for good, drop the database and create it again."
        )
    if owner["path"] == mine["path"]:
        return
    if _is_still_at(owner["path"], home):
        raise HomeError(
            f"{home.address} is a copy of {owner['path']}, and the database holds the run history of that one. Create "
            f"a database for the copy, and write any other text into {home.identity_file}."
        )
    connection.execute(db.text("UPDATE recsys_home SET path = :path WHERE id = :id"), mine)


def _is_still_at(address: str, home: Home) -> bool:
    """Whether there is a home at an address of which a home elsewhere is a copy. Otherwise it has been moved."""
    if url := remote.url_of(address):
        try:
            found = remote.stored(url, home.identity_file.relative_to(home.path).as_posix())
        except remote.StoreError as error:
            raise HomeError(
                f"The database holds the run history of {url}. Whether that home is still there is not known: {error} "
                "If it is gone for good, drop the database and create it again."
            ) from error
        return found is not None and found.decode().strip() == _identity(home)
    there = Home(Path(address))
    is_twin = there.identity_file.exists() and _identity(there) == _identity(home)
    return is_twin and not there.path.samefile(home.path)


def _identity(home: Home) -> str:
    """A random name that the home keeps when it is moved."""
    if not home.identity_file.exists():
        write_atomically(home.identity_file, f"{uuid.uuid4()}\n".encode())
    return home.identity_file.read_text().strip()
