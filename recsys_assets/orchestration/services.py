"""Code server, webserver and daemon of a home. Run as a module, it is the process that `serve` watches.

It does the work of `dagster dev` with the project's own webserver (`webserver`). Standard input is its lifeline: when
the process at the other end dies, in whatever way, all services end.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from dagster import DagsterInstance

from recsys_assets.orchestration.clock import Clock, forget_the_future
from recsys_assets.orchestration.code_location import LOCATION
from recsys_assets.orchestration.dagster_internals import ModuleTarget, ProxyServerManager
from recsys_assets.orchestration.process_sessions import kill_session

# Sensors keep their state under the name of the code location.
_LOCATION = ModuleTarget("recsys_assets.definitions", None, None, LOCATION)
_LOG_LEVEL = "warning"
_POLL_SECONDS = 1
# The services need about this long to start. Sensors write a megabyte of ticks an hour.
_FIRST_PRUNED_AFTER_SECONDS = 30
_PRUNED_EVERY_SECONDS = 3600
# Webserver and daemon usually end within two or three seconds.
_GRACE_SECONDS = 10


def main(listening: Sequence[str]) -> int:
    """Run the services until one of them ends or a signal comes.

    Args:
        listening: address arguments for `recsys_assets.orchestration.webserver`.

    Returns:
        0 after a signal, else the exit status of the service that ended by itself.
    """
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.default_int_handler)
    threading.Thread(target=_end_with_the_holder_of_the_lifeline, daemon=True).start()
    # Dagster then reports errors of the code location without its own stack frames, as under `dagster dev`.
    os.environ["DAGSTER_IS_DEV_CLI"] = "1"
    try:
        with (
            DagsterInstance.get() as instance,
            ProxyServerManager(instance, _LOCATION, _LOG_LEVEL) as servers,
            tempfile.TemporaryDirectory(prefix="recsys-") as folder,
        ):
            workspace = Path(folder) / "workspace.yaml"
            workspace.write_text(yaml.safe_dump({"load_from": list(servers.get_code_server_specs())}))
            target = ["--workspace", str(workspace)]
            webserver = ["-m", "recsys_assets.orchestration.webserver", *listening, *target]
            daemon = ["-m", "dagster._daemon", "run", "--log-level", _LOG_LEVEL, *target]
            return _run(instance, webserver, daemon)
    except KeyboardInterrupt:
        return 0


def _run(instance: DagsterInstance, webserver: Sequence[str], daemon: Sequence[str]) -> int:
    forget_the_future(instance)
    clock = Clock()
    running = [_started(service) for service in (webserver, daemon)]
    pruning: subprocess.Popen[bytes] | None = None
    due = time.monotonic() + _FIRST_PRUNED_AFTER_SECONDS
    try:
        while True:
            if (pruning is None or pruning.poll() is not None) and time.monotonic() >= due:
                # Pruning runs in a separate process, because its imports would stay in the memory of this one.
                pruning, due = (
                    _started(["-m", "recsys_assets.orchestration.run_history"]),
                    time.monotonic() + _PRUNED_EVERY_SECONDS,
                )
            for service in running:
                if service.poll() is not None:
                    print(f"{service.args!r} has ended with status {service.returncode}", file=sys.stderr)
                    return service.returncode or 1
            if clock.was_set_back():
                print("The clock was set back; restarting the daemon, which would sleep for that time", file=sys.stderr)
                _end([running.pop()])
                forget_the_future(instance)
                running.append(_started(daemon))
            time.sleep(_POLL_SECONDS)
    finally:
        _end(running)


def _end(services: "Sequence[subprocess.Popen[bytes]]") -> None:
    for service in services:
        service.terminate()
    for service in services:
        with suppress(subprocess.TimeoutExpired):
            service.wait(_GRACE_SECONDS)


def _started(module: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-W", "ignore", *module])


def _end_with_the_holder_of_the_lifeline() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    # No process is left to kill a service that does not end, or the worker of a run. The next `serve` retries killed
    # runs, as after a power cut.
    kill_session(os.getpid())
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
