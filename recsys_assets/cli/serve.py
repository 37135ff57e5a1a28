"""The command `serve`: starts and supervises the webserver and the daemon of a home.

The services themselves are in `orchestration.services`, the sensors in `orchestration.sensors`.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer
from filelock import FileLock
from rich.console import Console

from recsys_assets.cli.faults import require_history
from recsys_assets.cli.terminal import CommandError, HomeOption, console
from recsys_assets.home.layout import Home
from recsys_assets.home.served import keep_others_out, record
from recsys_assets.home.settings import Settings, require_java
from recsys_assets.orchestration.process_sessions import kill_session
from recsys_assets.recommender.data.characters import visible

# The UI has no passwords, so by default only this machine reaches it.
LOCALHOST = "127.0.0.1"
_SERVICES = [sys.executable, "-W", "ignore", "-m", "recsys_assets.orchestration.services"]
# How often the webserver is asked whether it answers, and how long for.
_POLL_SECONDS, _ANSWERS_WITHIN_SECONDS = 0.3, 10
# Webserver and daemon usually end within two or three seconds.
_GRACE_SECONDS = 15
# The next start renames a longer log to serve.log.old, which replaces the previous one.
_LOG_BYTES = 10_000_000
# How Python prints an error below its traceback.
_ERROR = re.compile(r"^\S*(?:Error|Exception)\S*: .+", re.MULTILINE)
_LOOKED_AT_BYTES, _LONGEST_ERROR = 100_000, 300


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(serve)


def serve(
    port: Annotated[int, typer.Option(help="Port of the UI.", min=1, max=65535)] = 3000,
    host: Annotated[str, typer.Option(help="Address of the UI; it has no passwords.")] = LOCALHOST,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A further host name of the UI; repeat the option for several.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Start the UI and the automation: landed batches are ingested and lead to new recommendations.

    The command runs until Ctrl-C. The section `[automation]` of settings.toml says what runs by itself and how often.

    Examples: `recsys-assets serve`, `recsys-assets serve --port 3001 --home ~/my-ratings`
    """
    here = Home.resolve(home)
    require_java(here)
    require_history(here)
    settings = Settings.load(here)
    _warn_if_public(host)
    held = keep_others_out(here)
    _require_free(host, port)
    address = f"http://{_in_url(host)}:{port}"
    record(here, address)
    out = console()
    automation = settings.automation
    watching = (
        f"watched every {automation.tick_seconds} s" if automation.sensors else "not watched ([automation] sensors)"
    )
    refreshed = f"'{automation.cron}' {automation.time_zone}" if automation.schedule else "off ([automation] schedule)"
    log = here.logs / "serve.log"
    out.print(f"Home: {here.address}\nLanding: {here.address}/landing, {watching}", soft_wrap=True)
    out.print(f"Scheduled refresh: {refreshed}\nLog: {log}", soft_wrap=True)
    os.environ |= here.environment
    names = [argument for name in allowed_host or () for argument in ("--allowed-host", name)]
    command = [*_SERVICES, "--host", host, "--port", str(port), *names]

    def tell(is_running: Callable[[], bool]) -> None:
        _tell_address(out, address, lambda: _answers(host, port), is_running)

    if status := _supervise(command, here, log, held, tell):
        raise CommandError(f"Dagster has ended unexpectedly with status {status}; {log} says why.{_last_error(log)}")


def _last_error(log: Path) -> str:
    """The last error in a log, shortened to one line and led by a space; empty if there is none."""
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - _LOOKED_AT_BYTES, 0))
        text = stream.read().decode(errors="replace")
    found = _ERROR.findall(text)
    return f" Its last error: {shorten(visible(found[-1]), _LONGEST_ERROR, placeholder=' …')}" if found else ""


def _warn_if_public(host: str) -> None:
    from recsys_assets.orchestration.same_origin import is_loopback

    if not is_loopback(host):
        console(stderr=True).print(
            f"Warning: the UI has no passwords. Anybody who reaches {host} can read and change this home. "
            f"Without --host it listens on this machine only; `ssh -L` reaches it from another.",
            style="yellow",
            soft_wrap=True,
        )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tell_address(out: Console, address: str, answers: Callable[[], bool], is_running: Callable[[], bool]) -> None:
    """Print the address of the UI as soon as the webserver answers: before, a browser would be refused."""
    out.print("Starting the UI …")
    while is_running():
        if answers():
            out.print(f"UI: {address} (Ctrl-C ends it)\nReport: {address}/report", soft_wrap=True)
            return
        time.sleep(_POLL_SECONDS)


def _answers(host: str, port: int) -> bool:
    """Whether a webserver answers, with whatever status."""
    connection = HTTPConnection(host, port, timeout=_ANSWERS_WITHIN_SECONDS)
    try:
        connection.request("GET", "/server_info")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def _supervise(
    command: list[str], home: Home, log: Path, held: FileLock, tell: Callable[[Callable[[], bool]], None]
) -> int:
    """Run Dagster until it ends or a signal asks this process to end; then end all processes that Dagster started.

    Dagster itself would leave the code server and the worker of a run behind until the run ends.

    Args:
        command: starts Dagster.
        home: the home.
        log: file for the output of Dagster.
        held: the lock of `serve`.
        tell: called once Dagster was started, with a function that says whether it still runs.

    Returns:
        0 after a signal, else Dagster's exit status.
    """
    descriptor = held._context.lock_file_fd
    assert descriptor is not None
    # Dagster inherits the lock, so that the home counts as served as long as Dagster lives.
    os.set_inheritable(descriptor, True)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.old"))
    with log.open("ab") as sink:
        # Dagster has its own session, so that Ctrl-C in the terminal reaches this process alone. Its standard input
        # closes when this process dies, even by SIGKILL, and then Dagster ends.
        dagster = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            cwd=home.dagster,
            pass_fds=[descriptor],
            start_new_session=True,
        )
    for sign in (signal.SIGTERM, signal.SIGINT):
        # A shell that starts a program in the background may set SIGINT to be ignored.
        signal.signal(sign, signal.default_int_handler)
    try:
        tell(lambda: dagster.poll() is None)
        return dagster.wait() or 1
    except KeyboardInterrupt:
        return 0
    finally:
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, signal.SIG_IGN)
        _end(dagster)


def _end(dagster: "subprocess.Popen[bytes]") -> None:
    """End Dagster, then kill the processes that it leaves behind.

    The worker of a run is killed and not interrupted: an interrupted run counts as canceled by a person and is never
    retried. A killed run is marked as failed at the next start and is retried from failure.
    """
    dagster.terminate()
    with suppress(subprocess.TimeoutExpired):
        dagster.wait(_GRACE_SECONDS)
    kill_session(dagster.pid)
    dagster.wait()


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"{_in_url(host)}:{port} cannot be used ({error.strerror}); choose another --port or --host."
            ) from None
