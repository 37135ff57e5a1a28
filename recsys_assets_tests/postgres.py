"""A PostgreSQL server of the test's own: Debian's package, a folder and a port of its own, an unprivileged user."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys_assets_tests.served import free_port

VARIABLE = "RECSYS_PG_URL"
_NOBODY = "nobody"


@dataclass
class Server:
    """A running server.

    Attributes:
        folder: its data.
        port: where it listens on localhost.
        user: the administrator.
        password: of the administrator.
    """

    folder: Path
    port: int
    user: str
    password: str
    _programs: Path
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        """The file with its messages."""
        return self.folder / "messages.log"

    def url(self, database: str) -> str:
        """The URL of a new database."""
        environment = {**os.environ, "PGPASSWORD": self.password}
        command = [self._programs / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, database]
        subprocess.run(command, env=environment, check=True)
        return f"postgresql+psycopg2://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        listening = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder, *listening], **_as_nobody(), stderr=log
            )
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        end = time.monotonic() + 900
        while subprocess.run(ready).returncode:
            assert self._process.poll() is None and time.monotonic() < end, "PostgreSQL does not start"
            time.sleep(0.2)

    def stop(self) -> None:
        """End the server and its connections."""
        assert self._process is not None
        self._process.send_signal(3)
        self._process.wait(60)


@contextmanager
def postgres(user: str = "pipeline", user_password: str = "sesame-8841") -> Iterator[Server]:
    """A running server, gone afterwards; the test is skipped if Debian's package is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path("/tmp") / f"recsys-postgres-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o700)
    try:
        password = folder.with_suffix(".password")
        password.write_text(user_password)
        if os.geteuid() == 0:
            shutil.chown(folder, _NOBODY)
            shutil.chown(password, _NOBODY)
        initdb = [found[-1].parent / "initdb", "-D", folder, "-U", user, "-A", "scram-sha-256", "--pwfile", password]
        subprocess.run([*initdb, "-E", "UTF8", "--no-sync"], check=True, stdout=subprocess.DEVNULL, **_as_nobody())
        password.unlink()
        server = Server(folder, free_port(), user, user_password, found[-1].parent)
        server.start()
        try:
            yield server
        finally:
            if server._process is not None and server._process.poll() is None:
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody() -> dict[str, object]:
    """Arguments of a process without rights: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(_NOBODY)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/tmp"}
