"""Spark as separate processes, from PySpark's own classes: a standalone cluster, and a Spark Connect server."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark

from recsys_assets_tests.served import free_port, wait_for

_SPARK_HOME = Path(pyspark.__file__).parent
_CONNECT_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
_DEPLOY = "org.apache.spark.deploy"
LOCALHOST = "127.0.0.1"


@dataclass(frozen=True)
class Cluster:
    """A standalone cluster: the address of its master, and its workers, which start the executors."""

    master: str
    workers: list[subprocess.Popen[bytes]]

    def executors(self) -> list[psutil.Process]:
        """The running executors."""
        children = [child for worker in self.workers for child in psutil.Process(worker.pid).children(recursive=True)]
        return [child for child in children if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())]

    def settings(self, executor_memory: str) -> str:
        """Lines of the settings section `spark` for a run on this cluster, with an executor per worker."""
        config = f'"spark.driver.host" = "{LOCALHOST}", "spark.executor.memory" = "{executor_memory}"'
        return f'master = "{self.master}"\nconfig = {{ {config} }}\n'


@contextmanager
def standalone_cluster(folder: Path, *, n_workers: int = 2, memory: str = "1g") -> Iterator[Cluster]:
    """Start a master and workers of one core each.

    Args:
        folder: for the logs and the workers' files.
        n_workers: number of workers.
        memory: memory that a worker gives to executors.
    """
    port = free_port()
    with ExitStack() as processes:
        start = _starter(processes, folder)
        listening = ["--host", LOCALHOST, "--port", str(port), "--webui-port", str(free_port())]
        start("master", "bin/spark-class", f"{_DEPLOY}.master.Master", *listening)
        _wait_until_listening(port)
        master = f"spark://{LOCALHOST}:{port}"
        workers = []
        for number in range(n_workers):
            place = ["--work-dir", str(folder / f"worker-{number}"), "--webui-port", str(free_port())]
            size = ["--host", LOCALHOST, "--cores", "1", "--memory", memory]
            workers.append(
                start(f"worker-{number}", "bin/spark-class", f"{_DEPLOY}.worker.Worker", *place, *size, master)
            )
        yield Cluster(master, workers)


@contextmanager
def connect_server(folder: Path, *, master: str = "local[2]", config: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a Spark Connect server, and yield its address.

    Args:
        folder: for the log and the checkpoints.
        master: where the server computes.
        config: further Spark properties.
    """
    port = free_port()
    properties = {
        "spark.driver.host": LOCALHOST,
        "spark.driver.bindAddress": LOCALHOST,
        "spark.driver.memory": "1g",
        "spark.connect.grpc.binding.address": LOCALHOST,
        "spark.connect.grpc.binding.port": str(port),
        "spark.checkpoint.dir": str(folder / "checkpoints"),
        "spark.ui.enabled": "false",
        **(config or {}),
    }
    options = [word for name, value in properties.items() for word in ("--conf", f"{name}={value}")]
    with ExitStack() as processes:
        start = _starter(processes, folder)
        start("connect", "bin/spark-submit", "--class", _CONNECT_SERVER, "--master", master, *options, "spark-internal")
        _wait_until_listening(port)
        yield f"sc://{LOCALHOST}:{port}"


def _starter(processes: ExitStack, folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"},
        "SPARK_HOME": str(_SPARK_HOME),
        "SPARK_LOCAL_IP": LOCALHOST,
        "PYSPARK_PYTHON": sys.executable,
    }

    def start(name: str, program: str, *words: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(_SPARK_HOME / program), *words], stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        processes.callback(_end, process)
        return process

    return start


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def _wait_until_listening(port: int) -> None:
    def listens() -> bool:
        with suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=1):
            return True
        return False

    wait_for(f"a server on port {port}", listens, seconds=180)
