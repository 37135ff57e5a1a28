"""By which numbers of users and movies a stored table was made, so that nobody looks it up by others.

A merge may number users anew, as after one was forgotten; tables that were made before keep the old numbers until they
are made again. Users and movies that only come after the others change no number.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import polars as pl

from recsys_assets.recommender.index import IndexMismatchError
from recsys_assets.recommender.tables import Table
from recsys_assets.storage import AssetStore, scan

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
    path = version / _FILE
    recorded = json.loads(path.read_text()) if path.exists() else {}
    for name, (rows, fingerprint) in recorded.items():
        if _numbering(store.current([name]), rows) != (rows, fingerprint):
            raise IndexMismatchError(
                f"{asset} was made before the {name} were numbered anew, and its numbers are those of others now. Make "
                "it again: `recsys-assets run`, or `recsys-assets study` for tables of a study."
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
