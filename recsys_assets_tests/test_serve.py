"""What `serve` prints and how it ends, with another program in the place of Dagster."""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys_assets.home.layout import Home
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.served import free_port

_SERVE = """
import sys
from recsys_assets.cli import app, serve
serve._SERVICES, serve.require_java = [sys.executable, "-c", sys.argv.pop()], lambda _: None
app()
"""
# Listens only when the file `open` exists.
_SLOW = """
import os, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

# As Dagster's services do, it ends with `serve`, even if that is killed.
threading.Thread(target=lambda: sys.stdin.read() or os._exit(1), daemon=True).start()

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

while not Path("open").exists():
    time.sleep(0.05)
HTTPServer((sys.argv[2], int(sys.argv[4])), Answer).serve_forever()
"""


@contextmanager
def _serving(home: Home, port: int, services: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", _SERVE, "serve", "--home", str(home.path), "--port", str(port), services]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _lines_up_to(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """The next lines that are printed, up to the one with this beginning."""
    assert process.stdout
    lines = [process.stdout.readline()]
    while lines[-1] and not lines[-1].startswith(beginning):
        lines.append(process.stdout.readline())
    return lines


def test_serve_tells_the_address_when_the_webserver_answers(tmp_path):
    """A browser that opens the address as soon as it is printed would be refused."""
    home, port = Home(tmp_path / "home"), free_port()
    with _serving(home, port, _SLOW) as process:
        assert not [line for line in _lines_up_to(process, "Log: ") if line.startswith(("UI: ", "Report: "))]
        assert _lines_up_to(process, "Starting") == ["Starting the UI …\n"]
        (home.dagster / "open").touch()
        assert _lines_up_to(process, "UI: ") == [f"UI: http://127.0.0.1:{port} (Ctrl-C ends it)\n"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}") as answer:
            assert answer.status == 200
        process.terminate()
        assert process.wait() == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_status_0_while_it_starts(tmp_path, sign):
    """systemd would take a stop during a slow start for a failure and start `serve` again."""
    with _serving(Home(tmp_path / "home"), free_port(), _SLOW) as process:
        _lines_up_to(process, "Starting")
        process.send_signal(sign)
        told, complaint = process.communicate()
        assert (process.returncode, told, complaint) == (0, "", "")


def test_serve_tells_no_address_if_dagster_ends_before_it_answers(tmp_path):
    """Whoever opens the address would wait for a UI that never comes."""
    with _serving(Home(tmp_path / "home"), free_port(), "raise SystemExit(7)") as process:
        told, complaint = process.communicate()
        assert process.returncode == 1 and "UI: " not in told and "unexpectedly with status 7" in complaint


def test_serve_says_why_dagster_has_ended(tmp_path, monkeypatch):
    """Whoever has a slow machine would be told a status, and search a log for the setting to change."""
    told = "Timed out waiting for gRPC server to start after 1800s. To increase the timeout, add the following"

    def supervise(_command: list[str], _home: Home, log: Path, *_: object) -> int:
        log.write_text(f"Traceback (most recent call last):\n  File\nException: {told}\n\ncode_servers:\n")
        return 1

    monkeypatch.setattr("recsys_assets.cli.serve._supervise", supervise)
    monkeypatch.setattr("recsys_assets.cli.serve.require_java", lambda _: None)
    ended = invoke("serve", "--home", tmp_path / "home", "--port", free_port())
    assert ended.exit_code == 1
    assert f"Its last error: Exception: {told}" in " ".join(ended.stderr.split())
