"""Which named MovieLens release a source is, so that two are never merged into one catalogue.

Each release gives its users numbers of its own: merged, one number would stand for two people.
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
    """The MovieLens release in a source that can be read; None for anything else.

    Those with headers are all written alike and told apart by the folder that their archives hold or by the name of the
    source; without either they are `ml-csv`, which may be a part of any of them.

    Args:
        path: the source.
        form: its format, as `SourceTables` says.
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
    """Refuse a release beside another one.

    Args:
        found: the release of the source that comes in.
        others: name and release of each batch that is there.

    Raises:
        SourceError: one of them is another release.
    """
    for batch, there in others:
        if found and there and found != there and not _may_be_parts(found, there):
            raise SourceError(
                f"it is the MovieLens release {found}, and this home holds {there} (batch {batch}). Releases number "
                "their users anew, so they are not merged: take another --home for it."
            )


def _may_be_parts(one: str, other: str) -> bool:
    """Whether one is an unnamed CSV release and the other a named one."""
    headless = set(_NAMED_FORMATS) - {_UNNAMED}
    return _UNNAMED in (one, other) and not {one, other} & headless
