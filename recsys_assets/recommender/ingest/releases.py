"""Recognises the MovieLens release of a source, so that two releases are never merged into one catalogue.

Each release numbers its users anew: in a merged catalogue, one number would mean two people. Reading a release belongs
in `movielens` and `generic`.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.errors import SourceError

_UNNAMED = "ml-csv"
_NAMED_FORMATS = ("ml-100k", "ml-1m", "ml-10m", _UNNAMED)
_NAME = re.compile(r"ml-(\d+[km]|latest(-small)?)", re.IGNORECASE)


def release(path: Path, form: str, scratch: Path) -> str | None:
    """The MovieLens release in a readable source; None for other data.

    All releases with headers have the same format. The folder inside the archive or the name of the source
    distinguishes them; without either, the release is `ml-csv`, which can be a part of any of them.

    Args:
        path: path of the source.
        form: format of the source, as in `SourceTables`.
        scratch: folder for unpacked copies.
    """
    if form != _UNNAMED:
        return form if form in _NAMED_FORMATS else None
    inside = {part for name in Source(path, scratch).names for part in PurePosixPath(name).parts[:-1]}
    for name in (*sorted(inside), path.name, path.stem):
        if _NAME.fullmatch(name):
            return name.lower()
    return _UNNAMED


def check_release(found: str | None, others: Iterable[tuple[str, str | None]]) -> None:
    """Refuses a source of another release than the batches in the home.

    Args:
        found: release of the new source.
        others: name and release of each existing batch.

    Raises:
        SourceError: an existing batch is another release.
    """
    for batch, there in others:
        if found and there and found != there and not _may_be_parts(found, there):
            raise SourceError(
                f"it is the MovieLens release {found}, and this home holds {there} (batch {batch}). Releases number "
                "their users anew, so they are not merged: take another --home for it."
            )


def _may_be_parts(one: str, other: str) -> bool:
    """Whether one is an unnamed CSV release and the other a named CSV release."""
    headless = set(_NAMED_FORMATS) - {_UNNAMED}
    return _UNNAMED in (one, other) and not {one, other} & headless
