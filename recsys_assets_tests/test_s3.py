"""The whole pipeline in a home on S3: a local server that answers as S3 does, and command lines as on two machines."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest

from recsys_assets.home import remote
from recsys_assets.home.layout import Home
from recsys_assets.home.object_store import Lock
from recsys_assets.home.versions import AssetStore
from recsys_assets_tests.conftest import FAST_SETTINGS
from recsys_assets_tests.kill_points import read, write_ratings
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.test_object_stores import Machine as InProcess
from recsys_assets_tests.test_rollback import decided

pytest.importorskip("s3fs", reason="no s3fs is installed: pip install 'recsys_assets[s3]' 'moto[server]'")
pytest.importorskip("moto.server", reason="no moto is installed: pip install 'moto[server]'")

BUCKET = "films"
PERSON = "person-4711"


def free_port() -> int:
    """A port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], object], told: str, seconds: float = 900) -> None:
    """Wait until something is so; fail with what is told after some seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, told
        time.sleep(1)


def listens(port: int) -> bool:
    """Whether a server listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3(monkeypatch) -> Iterator[int]:
    """The port of a server that answers as S3 does; the environment leads to it."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: listens(port), "moto does not listen", 120)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "made-up",
            "AWS_SECRET_ACCESS_KEY": "made-up",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        bucket().mkdir(BUCKET)
        forget_connections()
        yield port
    finally:
        forget_connections()
        server.kill()
        server.wait()


def forget_connections() -> None:
    """Let this process connect to the endpoint in the environment, not to that of the test before."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def bucket():
    """The store itself, as other programs see it."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


class Machine:
    """Command lines with their own cache directory, as on a machine of their own."""

    def __init__(self, cache: Path, url: str) -> None:
        self.url = url
        self.environment = {**os.environ, "RECSYS_CACHE": str(cache), "COLUMNS": "200"}

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-W", "ignore", "-c", "from recsys_assets.cli import app; app()"]
        return subprocess.Popen(
            [*command, str(arguments[0]), "--home", self.url, *map(str, arguments[1:])],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, *arguments: object, status: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate()
        assert process.returncode == status, output
        return output


@pytest.fixture
def machines(s3, tmp_path) -> tuple[Machine, Machine]:
    """Two machines that use the same home."""
    assert listens(s3)
    url = f"s3://{BUCKET}/home"
    return Machine(tmp_path / "a", url), Machine(tmp_path / "b", url)


def ratings(path: Path, *users: str) -> Path:
    """A file with 15 ratings of each user."""
    rows = [
        f"{user},{item},{5 if item % 2 else 1},{890_000_000 + 1_000 * item}" for user in users for item in range(1, 16)
    ]
    path.write_text("\n".join(["user_id,item_id,rating,timestamp", *rows, ""]))
    return path


def naming(person: str) -> list[str]:
    """Keys of the objects that contain an id, or are named after it; Parquet is read, because it is compressed."""
    found, system = [], bucket()
    for key in system.find(BUCKET):
        content = system.cat_file(key)
        if key.endswith(".parquet"):
            content += str(pl.read_parquet(content).to_dicts()).encode()
        if person.encode() in content or person in key:
            found.append(key)
    return found


@pytest.mark.slow
def test_everything(machines, tmp_path, monkeypatch):
    """A home on S3 would lack a command, show other lists on another machine, or keep what was erased."""
    here, there = machines
    bucket().pipe_file(f"{BUCKET}/home/settings.toml", FAST_SETTINGS.encode())
    here.command("add", made_up().write(tmp_path / "small"))
    running = here.start("run")
    wait(lambda: any("/assets/raw_ratings/" in key for key in bucket().find(BUCKET)), "nothing is stored")
    assert "Another run works on this home (s3://films/home): process" in there.command("run", status=1)
    output, _ = running.communicate()
    assert running.returncode == 0, output
    assert here.command("recommend", 5) == there.command("recommend", 5)

    with monkeypatch.context() as environment:
        environment.setenv("RECSYS_CACHE", here.environment["RECSYS_CACHE"])
        home = Home.resolve(here.url)
        decided(home, "ease")
        remote.push(home.path)
    here.command("rollback", 1)
    assert "rolled back" in there.command("promotions")

    port = free_port()
    serving = here.start("serve", "--port", port)
    try:
        wait(lambda: listens(port), "serve does not listen")
        bucket().put_file(
            str(ratings(tmp_path / "later.csv", PERSON, "person-4712")), f"{BUCKET}/home/landing/later.csv"
        )

        # `recommend` folds new ratings in as soon as they are read. The stored lists come later.
        def has_stored_list() -> bool:
            there.command("export", "recommendations", tmp_path / "lists.csv")
            return PERSON in (tmp_path / "lists.csv").read_text()

        wait(has_stored_list, "a file that was dropped into landing/ leads to no recommendations", 1_800)
    finally:
        serving.terminate()
        serving.communicate()
    there.command("recommend", "--", PERSON)

    assert naming(PERSON)
    here.command("forget", PERSON, "--yes", "--no-run")
    here.command("compact", "--yes")
    assert [key.partition("@")[0] for key in naming(PERSON)] == [f"{BUCKET}/home/forgotten"]
    there.command("recommend", "--", PERSON, status=1)


class Faulty:
    """A proxy before S3 that answers one PUT with 503, or cuts it off in the middle, and all its repetitions.

    Attributes:
        nth: which PUT from now on; None for none.
        refused: end of the key of another object whose PUTs fail; empty for none.
    """

    def __init__(self, port: int, kind: str) -> None:
        self.nth: int | None = None
        self.refused = ""
        faulty, count = self, iter(range(1, 1_000_000))
        refused: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                if self.headers.get("Expect"):
                    self.send_response_only(100)
                    self.end_headers()
                size = int(self.headers.get("Content-Length", 0))
                if self.command == "PUT" and faulty.nth and self.path not in refused and next(count) == faulty.nth:
                    refused.add(self.path)
                is_named = faulty.refused and unquote(self.path.partition("?")[0]).endswith(faulty.refused)
                if self.command == "PUT" and (is_named or (faulty.nth and self.path in refused)):
                    self.rfile.read(size if kind == "503" else size // 2)
                    if kind == "503":
                        self.send_response(503)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                    self.close_connection = True
                    return
                body = self.rfile.read(size)
                upstream = HTTPConnection("127.0.0.1", port)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def through_proxy(port: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """A proxy to which the environment leads from now on, and drivers that do not repeat what has failed."""
    import s3fs

    proxy = Faulty(port, kind)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server.server_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    forget_connections()
    return proxy


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("kind", ["503", "cut off"])
def test_failed_write(s3, tmp_path, monkeypatch, kind, nth):
    """A store that fails for a while, or a connection that breaks, would leave a home with half of an asset."""
    proxy = through_proxy(s3, kind, monkeypatch)

    def store(cache: str) -> AssetStore:
        monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / cache))
        home = Home.resolve(f"s3://{BUCKET}/home")
        remote.pull(home.path)
        return AssetStore(home.assets)

    def version(text: str) -> Path:
        made = store("a").new_version(["ease"], None, "run")
        for name in ("a.txt", "b.txt"):
            (made / name).write_text(text * 1_000)
        return made

    def read(cache: str) -> set[str]:
        return {path.read_text()[:5] for path in store(cache).current(["ease"]).iterdir()}

    store("a").switch(version("first"))
    second = version("secon")
    proxy.nth = nth
    with pytest.raises(remote.StoreError, match="last complete state is in place"):
        AssetStore(second.parents[2]).switch(second)
    proxy.nth = None
    assert (read("a"), read("b")) == ({"first"}, {"first"})
    store("a").switch(version("third"))
    assert (read("a"), read("b")) == ({"third"}, {"third"})
    proxy.server.shutdown()


@pytest.fixture
def two_batches(s3, tmp_path) -> InProcess:
    """A machine with a home that has read two batches, one of them with the ratings of a person who is forgotten."""
    assert listens(s3)
    here = InProcess(tmp_path / "a", f"s3://{BUCKET}/home")
    for name, users in {"may.csv": (PERSON, "person-4712"), "june.csv": ("person-4712",)}.items():
        write_ratings(tmp_path / name, *users)
        assert here.command("add", tmp_path / name).exit_code == 0
        with remote.holding(here.home.path):
            read(here.home, name)
    forgotten = here.command("forget", PERSON, "--no-run", "--yes")
    assert forgotten.exit_code == 0, forgotten.output
    assert [f"{BUCKET}/home/{folder}/" in " ".join(naming(PERSON)) for folder in ("assets", "landing")] == [True, True]
    return here


def landed() -> list[str]:
    """The names of the landed objects."""
    return [key.removeprefix(f"{BUCKET}/home/landing/") for key in bucket().find(f"{BUCKET}/home/landing")]


@pytest.mark.slow
def test_erased_user(two_batches):
    """A user who asked to be forgotten would stay in the bucket: in a landed object, an old version or a commit."""
    compacted = two_batches.command("compact", "--yes")
    assert compacted.exit_code == 0, compacted.output
    assert [key.partition("@")[0] for key in naming(PERSON)] == [f"{BUCKET}/home/forgotten"]
    assert landed() == ["june.csv", "may.csv/ratings.parquet"]
    assert not any("exchanging" in key for key in bucket().find(BUCKET))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["503", "cut off"])
@pytest.mark.parametrize("key", ["commits/exchanging/may.csv.zip", "landing/may.csv/ratings.parquet"])
def test_failed_compact(s3, two_batches, tmp_path, monkeypatch, kind, key):
    """A batch would be lost if the store fails while `compact` replaces it, and the machine breaks down."""
    proxy = through_proxy(s3, kind, monkeypatch)
    proxy.refused = key
    failed = two_batches.command("compact", "--yes")
    assert failed.exit_code == 1 and "repeat the command" in failed.output
    assert ("may.csv" in landed()) == key.startswith("commits/")
    proxy.refused = ""
    monkeypatch.setattr(Lock, "is_live", False)
    other = InProcess(tmp_path / "b", two_batches.url)
    compacted = other.command("compact", "--yes")
    assert compacted.exit_code == 0, compacted.output
    assert [name.partition("@")[0] for name in naming(PERSON)] == [f"{BUCKET}/home/forgotten"]
    assert landed() == ["june.csv", "may.csv/ratings.parquet"]
    proxy.server.shutdown()
