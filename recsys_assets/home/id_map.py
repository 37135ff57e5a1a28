"""Records the id map that a stored table was built with, and refuses to read the table with another id map.

A merge may assign new dense ids, for example after a user was excluded. Tables from before keep the old dense ids until
they are made again. Users and items that are appended change no dense id. A step refuses a table with old dense ids;
commands that only show a table translate its dense ids with the version of `users` or `items` it was built with.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import polars as pl

from recsys_assets.home.versions import AssetDamagedError, AssetStore, scan
from recsys_assets.recommender.data.index import IndexMismatchError
from recsys_assets.recommender.data.tables import Table

# The name is hidden, because hidden files do not count for the data version.
_FILE = ".id_map.json"


def record_id_map(store: AssetStore, version: Path, asset: str, table: Table) -> None:
    """Store the id maps of a table beside it."""
    referred = {column.refers_to for column in table.columns.values() if column.refers_to} - {asset}
    facts = {name: _numbering(store.current([name])) for name in sorted(referred) if store.has([name])}
    if facts:
        (version / _FILE).write_text(json.dumps(facts))


def require_id_map(store: AssetStore, version: Path, asset: str) -> None:
    """Check that a stored table was built with the present id maps.

    Raises:
        IndexMismatchError: the id map of `users` or `items` has changed; the message says what to run.
    """
    if others := _of_others(store, version):
        raise IndexMismatchError(_told(asset, next(iter(others))))


def renumbered(store: AssetStore, version: Path, asset: str) -> dict[str, Path]:
    """The versions of `users` and `items` that a stored table was built with, where the id map has changed since.

    Raises:
        IndexMismatchError: the version was deleted; the message says what to run.
    """
    found = {}
    for name, numbering in _of_others(store, version).items():
        present = store.current([name])
        older = [kept for kept in present.parent.iterdir() if kept.name < present.name]
        made_with = next((kept for kept in sorted(older, reverse=True) if _held(kept, numbering)), None)
        if made_with is None:
            raise IndexMismatchError(_told(asset, name))
        found[name] = made_with
    return found


def _of_others(store: AssetStore, version: Path) -> dict[str, tuple[int, str]]:
    """The recorded id maps of a table that differ from the present ones, by name (`users`, `items`)."""
    path = version / _FILE
    recorded = json.loads(path.read_text()) if path.exists() else {}
    numberings = {name: (rows, fingerprint) for name, (rows, fingerprint) in recorded.items()}
    return {name: found for name, found in numberings.items() if _numbering(store.current([name]), found[0]) != found}


def _held(version: Path, numbering: tuple[int, str]) -> bool:
    """Whether an earlier version of `users` or `items` begins with the rows of a recorded id map."""
    try:
        return _numbering(version, numbering[0]) == numbering
    except (AssetDamagedError, FileNotFoundError):
        # The write of this version was interrupted.
        return False


def _told(asset: str, name: str) -> str:
    return (
        f"{asset} was built with an earlier id map: its dense ids now stand for other {name}. Make it again: "
        "`recsys-assets run`, or `recsys-assets study` for tables of a study."
    )


@lru_cache(maxsize=16)
def _numbering(version: Path, rows: int | None = None) -> tuple[int, str]:
    """Size and fingerprint of the id map in a version of `users` or `items`; of its first `rows` rows if given."""
    table: pl.LazyFrame = scan(version).to_native()
    number, original = table.collect_schema().names()[:2]
    ids = table.select(number, original).sort(number).collect()[original].to_list()[:rows]
    return len(ids), hashlib.blake2b("\x00".join(ids).encode(), digest_size=16).hexdigest()
