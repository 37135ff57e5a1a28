"""Where the tests find real MovieLens archives; they are never part of the repository."""

from pathlib import Path

import pytest

_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def archive(name: str) -> Path:
    """The archive of a release, `ml-1m` or `ml-100k`; skips the test where it is absent."""
    path = _DATA / f"{name}.zip"
    if not path.exists():
        pytest.skip(f"{name}.zip is not in {_DATA.parent.name}/{_DATA.name} beside the checkout")
    return path
