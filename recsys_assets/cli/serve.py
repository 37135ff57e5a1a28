"""The command that keeps the pipeline running: webserver and daemon of a home, with its automation."""

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from filelock import FileLock, Timeout

from recsys_assets.cli.terminal import CommandError, HomeOption, console
from recsys_assets.home import ENVIRONMENT_VARIABLE, Home
from recsys_assets.java import check_java
from recsys_assets.settings import Settings
from recsys_assets.storage import write_atomically

# Nobody but this machine's users reaches the UI, which has no passwords, unless a person says so.
LOCALHOST = "127.0.0.1"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(serve)


def serve(
    port: Annotated[int, typer.Option(help="Port of the UI.", min=1, max=65535)] = 3000,
    host: Annotated[str, typer.Option(help="Address of the UI; it has no passwords.")] = LOCALHOST,
    home: HomeOption = None,
) -> None:
    """Open the UI and keep everything fresh: what lands in `landing/` is ingested and leads to new recommendations.

    Runs until Ctrl-C. What runs by itself, and how often, is set in `[automation]` of settings.toml.

    Examples: `recsys-assets serve`, `recsys-assets serve --port 3001 --home ~/my-ratings`
    """
    check_java()
    here = Home.resolve(home)
    here.prepare()
    settings = Settings.load(here)
    _require_free(host, port)
    held = _keep_others_out(here)
    write_atomically(here.served_at, f"http://{host}:{port}\n".encode())
    out = console()
    out.print(f"Home: {here.path}\nUI: http://{host}:{port} (Ctrl-C ends it)", soft_wrap=True)
    automation = settings.automation
    watching = (
        f"watched every {automation.tick_seconds} s" if automation.sensors else "not watched ([automation] sensors)"
    )
    refreshed = f"'{automation.cron}' {automation.time_zone}" if automation.schedule else "off ([automation] schedule)"
    log = here.dagster / "logs" / "serve.log"
    out.print(f"Landing: {here.landing}, {watching}\nScheduled refresh: {refreshed}\nLog: {log}", soft_wrap=True)
    os.environ |= {"DAGSTER_HOME": str(here.dagster), ENVIRONMENT_VARIABLE: str(here.path)}
    command = ["-m", "dagster", "dev", "-w", str(_workspace(here)), "--host", host, "--port", str(port)]
    assert held.is_locked
    # Dagster takes this process over, so that a signal to it reaches who starts and ends the others.
    os.chdir(here.dagster)
    _print_into(log)
    os.execv(sys.executable, [sys.executable, "-W", "ignore", *command, "--log-level", "warning"])


def _print_into(log: Path) -> None:
    """Send what this process and its children print into a file; all runs' debug logs are part of it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        with log.open("ab") as sink:
            os.dup2(sink.fileno(), descriptor)


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(f"{host}:{port} cannot be used ({error.strerror}); choose another --port.") from None


def _keep_others_out(home: Home) -> FileLock:
    """A lock that is held for as long as this process lives, also as the program that it turns into.

    It must be kept: filelock gives back what nobody refers to.

    Raises:
        CommandError: the home is served already: two daemons would ask for everything twice.
    """
    lock = FileLock(home.dagster / ".serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CommandError(f"This home is served already: {served_at(home)} ({home.path}).") from None
    descriptor = lock._context.lock_file_fd
    assert descriptor is not None
    os.set_inheritable(descriptor, True)
    return lock


def served_at(home: Home) -> str | None:
    """The address of the UI of a home that is being served; None where it is not."""
    lock = FileLock(home.dagster / ".serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return home.served_at.read_text().strip() if home.served_at.exists() else None
    lock.release()
    return None


def _workspace(home: Home) -> Path:
    """The file that names the code location as the checkout's own workspace.yaml does."""
    location = {"module_name": "recsys_assets.definitions", "location_name": "recsys_assets"}
    path = home.dagster / "workspace.yaml"
    write_atomically(path, yaml.safe_dump({"load_from": [{"python_module": location}]}).encode())
    return path
