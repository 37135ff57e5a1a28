"""Downloads one file over HTTP: streams it, resumes after an interruption, checks its length.

The choice of files and the check of their content belong in `fetch`.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

Progress = Callable[[int, int | None], None]

CONNECT_TIMEOUT, _READ_TIMEOUT = 5.0, 60.0
# Blocks are small, because an interruption loses the current block.
_BLOCK = 1 << 14
# Maximum number of consecutive tries without new bytes; as long as bytes arrive, the download continues.
_FRUITLESS_TRIES = 4


class DownloadError(Exception):
    """A file cannot be downloaded; the message says why and fits behind a colon."""


class BrokenOffError(Exception):
    """A response ended before its announced length."""


@dataclass(frozen=True)
class PartialFile:
    """The bytes received so far, with the validator (ETag or date) of the file on the server."""

    path: Path

    @property
    def size(self) -> int:
        """Number of bytes received."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str | None:
        """ETag or modification date of the file that the bytes belong to."""
        try:
            return json.loads(self._mark.read_text())["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, validator: str | None) -> None:
        """Starts over with a file of this validator."""
        self.discard()
        self._mark.write_text(json.dumps({"validator": validator}))

    def discard(self) -> None:
        """Removes the bytes and the validator."""
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    @property
    def _mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


def download(url: str, part: PartialFile, *, progress: Progress | None = None, pause: float = 1.0) -> None:
    """Downloads the file at `url` to `part` and resumes a download that an earlier call left there.

    Args:
        url: URL of the file.
        part: the partial file; after a failure it stays for the next call.
        progress: called with the bytes so far and the total bytes (None if unknown).
        pause: seconds before the second try; doubled before each further try.

    Raises:
        DownloadError: the server is out of reach, refuses, or interrupts every try.
    """
    fruitless, has_answered = 0, False
    while True:
        before = part.size
        try:
            _continue(url, part, progress)
            return
        except (BrokenOffError, requests.RequestException) as error:
            has_answered = has_answered or isinstance(error, BrokenOffError)
            # Only a site that has answered in this call is worth another try.
            if not has_answered:
                raise DownloadError("no connection") from error
            fruitless = 0 if part.size > before else fruitless + 1
            if fruitless >= _FRUITLESS_TRIES:
                raise DownloadError("the connection keeps breaking off") from error
            time.sleep(pause * 2**fruitless)


def _continue(url: str, part: PartialFile, progress: Progress | None) -> None:
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT, _READ_TIMEOUT), headers=headers) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.discard()
            raise BrokenOffError("the server's file is shorter than what had arrived")
        if not response.ok:
            raise DownloadError(f"the server says {response.status_code} {response.reason}")
        if response.status_code != requests.codes.partial_content:
            part.begin(_validator(response))
        elif not _continues(response, part.size):
            part.discard()
            raise BrokenOffError("the server sent another part than the one asked for")
        total = _total(response, part.size)
        _append(response, part, total, progress)
    if total is not None and part.size != total:
        raise BrokenOffError(f"{part.size} of {total} bytes arrived")


def _append(response: requests.Response, part: PartialFile, total: int | None, progress: Progress | None) -> None:
    with part.path.open("ab") as out:
        try:
            for block in response.iter_content(_BLOCK):
                out.write(block)
                if progress:
                    progress(out.tell(), total)
        except (requests.RequestException, HTTPError) as error:
            raise BrokenOffError(str(error)) from error


def _continues(response: requests.Response, size: int) -> bool:
    """Whether a response continues the file exactly at byte `size`."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == size


def _total(response: requests.Response, have: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return have + int(length) if length.isdecimal() else None


def _validator(response: requests.Response) -> str | None:
    etag = response.headers.get("ETag", "")
    # A weak ETag does not promise equal bytes, and If-Range does not accept it.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
