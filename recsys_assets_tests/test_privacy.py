import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from recsys_assets.home.layout import Home
from recsys_assets_tests.alone import destinations, require_namespaces
from recsys_assets_tests.conftest import FAST_SETTINGS
from recsys_assets_tests.served import free_port, served, wait_for

ROOT = Path(__file__).parent.parent
SECRET = "user 4711 rated item 12 with 5"
# What the webserver and each daemon do at their start, in an environment of Dagster's command line.
UPLOAD = """
import threading
from dagster._cli.utils import get_possibly_temporary_instance_for_cli
from dagster._core.telemetry_upload import upload_logs
stop = threading.Event()
with get_possibly_temporary_instance_for_cli():
    threading.Timer(1, stop.set).start()
    upload_logs(stop, raise_errors=True)
"""
DEV = {"dg dev": ["dg", "dev"], "dagster dev": ["dagster", "dev", "-w", "workspace.yaml"]}
PROGRAM = [sys.executable, "-c", "from recsys_assets.cli import app; app()"]
# A minute of `serve`, in which a run is done.
SERVE = """
import sys, time
from recsys_assets.home.layout import Home
from recsys_assets_tests.alone import destinations, require_namespaces
from recsys_assets_tests.conftest import FAST_SETTINGS
from recsys_assets_tests.served import served
with served(Home(sys.argv[1])) as running:
    assert running.ended(running.launch("recommend")) == "SUCCESS"
    time.sleep(60)
"""


class Collector(http.server.BaseHTTPRequestHandler):
    """Stands in for the address that Dagster's telemetry posts to."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append(zlib.decompress(body).decode())  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing: a test's output is its failures."""


@contextmanager
def collector() -> Iterator[tuple[list[str], dict[str, str]]]:
    """What was posted, and the environment in which Dagster posts it here."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.posted = posted = list[str]()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept = {name: value for name, value in os.environ.items() if name != "DAGSTER_DISABLE_TELEMETRY"}
    try:
        yield posted, kept | {"DAGSTER_TELEMETRY_URL": f"http://127.0.0.1:{server.server_port}/actions"}
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _dev(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Dagster's own command in the checkout, from the moment its webserver answers; all of it is gone afterwards."""
    port = free_port()
    program = Path(sys.executable).with_name(command[0])
    arguments = [program, *command[1:], "--port", str(port), "--log-level", "warning"]
    # A shell that starts pytest in the background has it ignore SIGINT. `dg dev` would inherit that, and it treats
    # SIGTERM as it treats SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(arguments, cwd=ROOT, env=environment, start_new_session=True)

    def answers() -> bool:
        assert running.poll() is None
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5).read())
        return False

    try:
        wait_for("the webserver's first answer", answers)
        yield
    finally:
        running.terminate()
        # Dagster itself gives webserver and daemon 60 s each.
        running.wait(timeout=240)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def _home_with_a_spool(folder: Path) -> Home:
    home = Home(folder / "home")
    home.prepare()
    (home.dagster / "logs").mkdir()
    (home.dagster / "logs" / "event.log").write_text(SECRET)
    return home


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("door", ["neither", "environment of a home", "folder of the checkout"])
def test_telemetry_is_off_by_each_door(tmp_path, door):
    """Webserver and daemon post the files of DAGSTER_HOME/logs to another company and delete them."""
    home = _home_with_a_spool(tmp_path)
    folder = ROOT if door == "folder of the checkout" else tmp_path
    with collector() as (posted, environment):
        environment |= {"DAGSTER_HOME": str(home.dagster)}
        if door == "environment of a home":
            environment |= home.environment
        subprocess.run([sys.executable, "-c", UPLOAD], cwd=folder, env=environment, check=True)
    assert posted == ([SECRET] if door == "neither" else [])


def test_no_log_lies_where_telemetry_uploads_it(first_run):
    """Logs quote rows of users, and a webserver without the variable would send them away."""
    home, _ = first_run
    assert not _files(home.dagster / "logs") and not _files(home.dagster / ".logs_queue")
    assert any("STEP_START" in log.read_text() for log in _files(home.logs))


@pytest.mark.parametrize("spool", ["logs", ".logs_queue"])
def test_logs_of_earlier_versions_are_moved_out_of_the_spool(tmp_path, spool):
    """A home of an earlier version would still have its logs uploaded, or lose them."""
    home = Home(tmp_path / "home")
    home.prepare()
    (home.dagster / spool).mkdir()
    for name in ("serve.log", "2026-05-01.log"):
        (home.dagster / spool / name).write_text(f"{SECRET}\n")
    (home.logs / "serve.log").write_text("newer\n")
    home.prepare()
    assert not _files(home.dagster / spool)
    assert (home.logs / "2026-05-01.log").read_text() == f"{SECRET}\n"
    assert (home.logs / "serve.log").read_text() == f"newer\n{SECRET}\n"


@pytest.mark.slow
@pytest.mark.parametrize("is_spool_filled", [True, False])
@pytest.mark.parametrize("door", ["serve", "dg dev", "dagster dev"])
def test_nothing_is_posted_for_a_minute(tmp_path, monkeypatch, door, is_spool_filled):
    """Whoever keeps the pipeline running would send logs to another company, by one door or another."""
    home = _home_with_a_spool(tmp_path)
    if not is_spool_filled:
        shutil.rmtree(home.dagster / "logs")
    with collector() as (posted, environment):
        environment |= {"DAGSTER_HOME": str(home.dagster), "RECSYS_HOME": str(home.path)}
        if door == "serve":
            monkeypatch.delenv("DAGSTER_DISABLE_TELEMETRY", raising=False)
            monkeypatch.setenv("DAGSTER_TELEMETRY_URL", environment["DAGSTER_TELEMETRY_URL"])
        with served(home) if door == "serve" else _dev(DEV[door], environment):
            time.sleep(60)
    assert posted == []
    if is_spool_filled:
        kept = home.logs if door == "serve" else home.dagster / "logs"
        assert (kept / "event.log").read_text() == SECRET


def test_an_attempt_to_reach_another_machine_is_seen(tmp_path):
    """The test below would find nothing wherever anything went."""
    require_namespaces()
    script = """
import contextlib, socket
for ask in (lambda: socket.create_connection(("192.0.2.7", 80)), lambda: socket.getaddrinfo("example.org", 80)):
    with contextlib.suppress(OSError):
        ask()
"""
    found = destinations([sys.executable, "-c", script], tmp_path / "log")
    assert "192.0.2.7 port 80" in found and any(place.endswith("port 53") for place in found - {"192.0.2.7 port 80"})


@pytest.mark.slow
def test_run_study_and_serve_reach_no_other_machine(small_data, tmp_path):
    """A library asks for its newest version, a chart for a font, or Dagster tells what is done here."""
    require_namespaces()
    home = Home(tmp_path / "home")
    home.prepare()
    home.settings_file.write_text(FAST_SETTINGS)
    small_data.write(home.landing / "small")
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_DISABLE_TELEMETRY"}
    study = ["study", "--protocols", "leave_last_out", "--searches", "als", "--budget", "1"]
    for command in (
        [*PROGRAM, "run", "--home", str(home.path)],
        [*PROGRAM, *study, "--home", str(home.path)],
        [sys.executable, "-c", SERVE, str(home.path)],
    ):
        assert destinations(command, tmp_path / "log", environment) == set(), command
    assert home.report.exists() and home.tuned_file.exists()
