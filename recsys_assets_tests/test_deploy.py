"""The files in deploy/: what they pin and name, and that the services of compose.yaml work together as processes."""

import configparser
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from filelock import FileLock

from recsys_assets.home.batches import RAW_TABLES
from recsys_assets.home.layout import INSTANCE, Home, read_instance, write_instance
from recsys_assets.orchestration.landing_watch import range_tags
from recsys_assets.orchestration.process_sessions import kill_session
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.postgres import Server, postgres
from recsys_assets_tests.served import SELECTOR, Served, free_port, retry_of, wait_for

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())["items"]
# Services with a command of ours, in the order in which compose starts them.
OURS = ("init", "code", "webserver", "daemon", "prune")
PASSWORD = "sesame-5512"
# Seconds for processes that start at once on a busy machine.
_LONG = 3_600
# `${NAME}`, `${NAME:-default}` and `${NAME:?}` in compose.yaml.
_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?](.*?))?\}")
_SETTINGS = f"{FAST_SETTINGS}\n[automation]\nsensors = false\nschedule = false\n"


def _of_image() -> dict[str, str]:
    """The environment that the Dockerfile sets."""
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    [text] = [line.removeprefix("ENV ") for line in lines if line.startswith("ENV ")]
    return dict(part.split("=", 1) for part in text.split())


def _texts(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        for part in found:
            yield from _texts(part)
    else:
        yield str(found)


def test_every_image_and_version_is_the_present_one():
    """Somebody would deploy another version than the checkout, or another one each time."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    dockerfile, values = (DEPLOY / "Dockerfile").read_text(), (DEPLOY / "values.yaml").read_text()
    images = [service["image"] for service in COMPOSE["services"].values()]
    assert {image for image in images if image.startswith("recsys-assets:")} == {f"recsys-assets:{version}"}
    assert f"recsys-assets:{version} ." in dockerfile
    kubernetes, image = (DEPLOY / "kubernetes.yaml").read_text(), yaml.safe_load(values)["dagsterDaemon"]["image"]
    assert re.findall(r"image: (?:&\w+ )?(\S+/\S+)$", kubernetes, re.MULTILINE) == [f"{image['repository']}:{version}"]
    assert image["tag"] == version
    dagster = re.search(r"^dagster==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert dagster and f"--version {dagster[1]} " in values
    based_on = re.findall(r"^FROM (\S+)$", dockerfile, re.MULTILINE)
    assert all(re.search(r":\d+\.\d+(\.\d+)?-", image) for image in (*based_on, *images) if "recsys" not in image)


def test_nothing_runs_as_root_or_listens_to_the_world():
    """A hole in the webserver would give away the machine, or the UI without passwords be open to everybody."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    user = re.search(r"^USER ([1-9]\d+)$", dockerfile, re.MULTILINE)
    assert user and f"useradd --uid {user[1]} " in dockerfile
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    unit = (DEPLOY / "recsys-assets.service").read_text()
    assert "\nUser=recsys\n" in unit and "--host" not in unit
    values = yaml.safe_load((DEPLOY / "values.yaml").read_text())
    services = [values["dagsterWebserver"], values["dagsterDaemon"], *values["dagster-user-deployments"]["deployments"]]
    as_user = {"runAsNonRoot": True, "runAsUser": int(user[1])}
    assert all(service["podSecurityContext"].items() >= as_user.items() for service in services)


def test_no_file_holds_a_password():
    """A password would be in the repository, and the same one in every deployment."""
    for service in COMPOSE["services"].values():
        environment = service.get("environment", {})
        assert all("${POSTGRES_PASSWORD:?}" in text for name, text in environment.items() if "PASSWORD" in name)
        assert "${POSTGRES_PASSWORD:?}@" in environment.get("RECSYS_PG_URL", "${POSTGRES_PASSWORD:?}@")
    texts = list(_texts([KUBERNETES, yaml.safe_load((DEPLOY / "values.yaml").read_text())]))
    assert "recsys-postgresql" in texts and not [text for text in texts if "://" in text and "@" in text]


def test_a_job_makes_the_home_for_the_chart(tmp_path, monkeypatch):
    """On Kubernetes there would be no landing/, so nothing could land, and the sensor would say so for ever."""
    values = yaml.safe_load((DEPLOY / "values.yaml").read_text())
    [job] = [made for made in KUBERNETES if made["kind"] == "Job"]
    pod, [code] = job["spec"]["template"]["spec"], values["dagster-user-deployments"]["deployments"]
    [container] = pod["containers"]
    assert (pod["volumes"], container["volumeMounts"]) == (code["volumes"], code["volumeMounts"])
    assert (container["env"], pod["securityContext"]) == (code["env"], code["podSecurityContext"])
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    program, *arguments = container["command"]
    assert program == "recsys-assets" and invoke(*arguments, "--home", tmp_path).exit_code == 0
    assert Home(tmp_path).landing.is_dir()


def test_the_chart_retries_and_forgets_as_a_home_does():
    """On Kubernetes a step that always fails would be computed twice, or old ticks would be kept for ever."""
    values = yaml.safe_load((DEPLOY / "values.yaml").read_text())
    assert _in_instance(values["dagsterDaemon"]["runRetries"]) == INSTANCE["run_retries"]
    # `started: -1` is Dagster's default.
    assert values["retention"]["sensor"]["purgeAfterDays"].pop("started") == -1
    assert _in_instance(values["retention"]) == {"enabled": True, **INSTANCE["retention"]}


def _in_instance(values: Any) -> Any:
    """Values of the chart with the names that dagster.yaml has for them."""
    if not isinstance(values, dict):
        return values
    return {
        re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name): _in_instance(part) for name, part in values.items()
    }


def test_the_unit_starts_a_command_that_exists():
    """systemd would start something that was renamed, and only on somebody's server."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(DEPLOY / "recsys-assets.service")
    program, *arguments = unit["Service"]["ExecStart"].split()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(program).name in scripts
    helped = [sys.executable, "-c", "from recsys_assets.cli import app; app()", *arguments[:1], "--help"]
    assert subprocess.run(helped, capture_output=True, check=True)


@dataclass
class Deployed:
    """The services of compose.yaml as processes of this machine, each in a session of its own.

    Attributes:
        folder: stands for the volume /data, and for the logs of containers.
        server: stands for the service `postgres`.
        ports: port of this machine by port in compose.yaml.
    """

    folder: Path
    server: Server
    ports: dict[str, int] = field(default_factory=lambda: {"4000": free_port(), "3000": free_port()})
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def home(self) -> Home:
        """The home in the volume."""
        return Home(self.folder / "data" / "home")

    def environment(self, service: str) -> dict[str, str]:
        """The environment of a container, in place of this process's own."""
        own = COMPOSE["services"][service]["environment"]
        found = {name: self._here(service, text) for name, text in {**_of_image(), **own}.items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Not in the image: the checkout's modules, and a small JVM.
        kept = {name: os.environ[name] for name in ("PYSPARK_SUBMIT_ARGS", "TMPDIR", "JAVA_HOME") if name in os.environ}
        return {**kept, "PATH": path, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **found}

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        """Start the command of a service."""
        command = [self._here(service, word) for word in COMPOSE["services"][service]["command"]]
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self.running[service] = process
        return process

    def kill(self, service: str) -> None:
        """End a container as the kernel does: everything in it at once."""
        process = self.running.pop(service)
        process.send_signal(signal.SIGKILL)
        kill_session(process.pid)
        process.wait()

    def logs(self) -> dict[str, str]:
        """What each service has printed, with the runs in `code`."""
        return {path.stem: path.read_text() for path in self.folder.glob("*.log")}

    def ui(self) -> Served:
        """The webserver."""
        return Served(self.home, self.running["webserver"], f"http://127.0.0.1:{self.ports['3000']}")

    def _here(self, service: str, text: str) -> str:
        """A text of compose.yaml with the places of this machine."""
        if text == "0.0.0.0":
            return "127.0.0.2" if service == "code" else "127.0.0.1"
        text = _VARIABLE.sub(lambda found: {"POSTGRES_PASSWORD": PASSWORD}.get(found[1], found[2] or ""), text)
        text = text.replace("@postgres:5432", f"@127.0.0.1:{self.server.port}")
        if text == "/app/deploy/workspace.yaml":
            location = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())
            # An address that the daemon does not take for its own container.
            location["load_from"][0]["grpc_server"] |= {"host": "127.0.0.2", "port": self.ports["4000"]}
            (self.folder / "workspace.yaml").write_text(yaml.safe_dump(location))
            return str(self.folder / "workspace.yaml")
        text = text.replace("/data/", f"{self.folder}/data/").replace("sleep 3600", "sleep 30")
        return str(self.ports.get(text, text))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """All services, started in the order of compose.yaml; gone afterwards."""
    folder = tmp_path_factory.mktemp("deployed")
    with postgres("recsys", PASSWORD) as server:
        server.url("recsys")
        services = Deployed(folder, server)
        (folder / "data").mkdir()
        try:
            assert services.start("init").wait(_LONG) == 0, (folder / "init.log").read_text()
            services.home.settings_file.write_text(_SETTINGS)
            stored = read_instance(services.home)
            patient = {**stored["run_monitoring"], "start_timeout_seconds": _LONG}
            at_once = {"runs": {"max_concurrent_runs": 8}}
            write_instance(services.home, {**stored, "concurrency": at_once, "run_monitoring": patient})
            for name in OURS[1:]:
                services.start(name)
            wait_for("the code location in the UI", lambda: _answers(services), _LONG)
            yield services
        finally:
            for name in list(services.running):
                services.kill(name)


@pytest.fixture
def instance(services: Deployed, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance of the services."""
    for name, value in services.environment("daemon").items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as found:
        yield found


def _answers(services: Deployed) -> bool:
    asked = "query($s: RepositorySelector!) { sensorsOrError(repositorySelector: $s) { __typename } }"
    try:
        return services.ui().query(asked, s=SELECTOR)["sensorsOrError"]["__typename"] == "Sensors"
    except (OSError, AssertionError):
        return False


def _land(services: Deployed, instance: dg.DagsterInstance, names: list[str], first_user: int) -> None:
    for number, name in enumerate(names):
        made_up(n_users=6, n_items=8, first_user=first_user + 100 * number).write(services.home.landing / name)
    instance.add_dynamic_partitions("batches", names)


def _with_status(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> set[str]:
    return {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[status]))}


@pytest.mark.slow
def test_eight_runs_at_once_go_on_while_the_daemon_is_killed(services, instance):
    """Runs that are recorded at the same time would fail with a locked database, or the queue stop for ever."""
    names, ui = [f"batch-{number}" for number in range(8)], services.ui()
    _land(services, instance, names, first_user=1)
    # The runs start, are recorded, and wait for this lock.
    with FileLock(services.home.lock):
        runs = {ui.launch("ingest", [*RAW_TABLES], **range_tags([name])) for name in names}
        started = dg.DagsterRunStatus.STARTED
        wait_for("eight runs at once", lambda: _with_status(instance, started) == runs, _LONG)
        services.kill("daemon")
    queued = ui.launch("ingest", **range_tags(names))
    services.start("daemon")
    assert {ui.ended(run_id) for run_id in (*runs, queued)} == {"SUCCESS"}
    assert _with_status(instance, dg.DagsterRunStatus.SUCCESS) == {*runs, queued}
    texts = [str(entry) for run_id in (*runs, queued) for entry in instance.all_logs(run_id)]
    texts += [*services.logs().values(), services.server.log.read_text()]
    assert not [text for text in texts if re.search("database is locked|deadlock|OperationalError", text)]


@pytest.mark.slow
def test_a_run_whose_container_is_killed_is_retried(services, instance):
    """A deployment would stand still for ever after a container was restarted, or print its password."""
    ui, names = services.ui(), ["may", "june"]
    _land(services, instance, names, first_user=1_001)
    # The run waits for the lock when its container goes.
    with FileLock(services.home.lock):
        waiting = ui.launch("ingest", **range_tags(names))
        started = dg.DagsterRunStatus.STARTED
        wait_for("the start of the run", lambda: waiting in _with_status(instance, started), _LONG)
        services.kill("code")
        services.start("code")
    assert ui.ended(waiting) == "FAILURE"
    assert ui.ended(retry_of(instance, waiting)) == "SUCCESS"
    ended = {name: process.poll() for name, process in services.running.items()}
    assert ended == dict.fromkeys(OURS[1:]) | {"init": 0}
    assert not [name for name, text in services.logs().items() if PASSWORD in text]
    stored = [path for path in (services.folder / "data").rglob("*") if path.is_file()]
    assert not [path for path in stored if PASSWORD.encode() in path.read_bytes()]
