"""Which users and movies the numbers in a stored table stand for, so that nobody looks them up by others.

A merge may number users anew, as after one was forgotten; tables that were made before keep the old numbers until they
are made again. Users and movies that only come after the others change no number. A step refuses such a table; who
looks at it translates its numbers by the ids of the version of `users` or `movies` that it was made with.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import polars as pl

from recsys_assets.home.versions import AssetDamagedError, AssetStore, scan
from recsys_assets.recommender.data.index import IndexMismatchError
from recsys_assets.recommender.data.tables import Table

# Hidden: it says nothing of the table's content.
_FILE = ".numbering.json"


def record_numbering(store: AssetStore, version: Path, asset: str, table: Table) -> None:
    """Store beside a table which users and movies its numbers stand for."""
    referred = {column.refers_to for column in table.columns.values() if column.refers_to} - {asset}
    facts = {name: _numbering(store.current([name])) for name in sorted(referred) if store.has([name])}
    if facts:
        (version / _FILE).write_text(json.dumps(facts))


def require_numbering(store: AssetStore, version: Path, asset: str) -> None:
    """Raise unless the numbers in a stored table still stand for the same users and movies.

    Raises:
        IndexMismatchError: with what to run.
    """
    if others := _of_others(store, version):
        raise IndexMismatchError(_told(asset, next(iter(others))))


def renumbered(store: AssetStore, version: Path, asset: str) -> dict[str, Path]:
    """The versions that a stored table's numbers are of, for each of `users` and `movies` that was numbered anew since.

    Raises:
        IndexMismatchError: a version is not kept any more; with what to run.
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
    """What was recorded of `users` and `movies` beside a table, where their present versions say otherwise."""
    path = version / _FILE
    recorded = json.loads(path.read_text()) if path.exists() else {}
    numberings = {name: (rows, fingerprint) for name, (rows, fingerprint) in recorded.items()}
    return {name: found for name, found in numberings.items() if _numbering(store.current([name]), found[0]) != found}


def _held(version: Path, numbering: tuple[int, str]) -> bool:
    """Whether the first rows of an earlier version of `users` or `movies` are those of a numbering."""
    try:
        return _numbering(version, numbering[0]) == numbering
    except (AssetDamagedError, FileNotFoundError):
        # Its write was broken off.
        return False


def _told(asset: str, name: str) -> str:
    return (
        f"{asset} was made before the {name} were numbered anew, and its numbers are those of others now. Make it "
        "again: `recsys-assets run`, or `recsys-assets study` for tables of a study."
    )


@lru_cache(maxsize=16)
def _numbering(version: Path, rows: int | None = None) -> tuple[int, str]:
    """How many first rows (all, if no number is given) a version of `users` or `movies` has, and a fingerprint of their
    original ids.
    """
    table: pl.LazyFrame = scan(version).to_native()
    number, original = table.collect_schema().names()[:2]
    ids = table.select(number, original).sort(number).collect()[original].to_list()[:rows]
    return len(ids), hashlib.blake2b("\x00".join(ids).encode(), digest_size=16).hexdigest()
