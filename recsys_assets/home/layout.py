"""The folders and files of a home: landed data, assets, settings, run history, report.

This module knows paths and the home's dagster.yaml. The module that writes a file defines the format of its content.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from recsys_assets.errors import RecsysError
from recsys_assets.home import remote
from recsys_assets.home.unfinished import write_atomically

ENVIRONMENT_VARIABLE = "RECSYS_HOME"
_TICK_SECONDS = "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"


class HomeError(RecsysError):
    """A file of a home cannot be used. The message names the file and the way out."""


# Number of the present format of a home; `upgrade` brings homes of earlier formats to it.
FORMAT = 4
# Suffixes that programs give to unfinished files.
UNFINISHED_SUFFIXES = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".swp", "~")
# File names contain the quoted name of a batch and a few more characters, and file systems allow 255 bytes.
_LONGEST_NAME = 230
NAMES = (
    "A name must not begin with . or _, contain /, ... or invisible characters, end like an unfinished file "
    f"({', '.join(UNFINISHED_SUFFIXES)}), or be longer than {_LONGEST_NAME} characters (25 in Japanese)."
)

# The dagster.yaml of a home. It names no folder, so that Dagster stores everything beside it even if the home is moved
# or copied. The checkout's own dagster.yaml has the same content, for the default home.
INSTANCE = {
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
    "concurrency": {"runs": {"max_concurrent_runs": 1}},
    "run_queue": {"dequeue_interval_seconds": 1},
    "run_launcher": {"module": "recsys_assets.orchestration.launcher", "class": "ProcessCheckingRunLauncher"},
    # A busy machine needs minutes to start the code server. A code server that ends by itself is noticed at once.
    "code_servers": {"local_startup_timeout": 1800},
    "run_monitoring": {
        "enabled": True,
        "poll_interval_seconds": 5,
        # A busy machine needs minutes to start a process with all imports.
        "start_timeout_seconds": 180,
        "cancel_timeout_seconds": 60,
    },
    "run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False},
    "retention": {
        "schedule": {"purge_after_days": 90},
        "sensor": {"purge_after_days": {"skipped": 1, "failure": 1, "success": 30}},
    },
}
_LAUNCHER_BEFORE_0_6 = "recsys_assets.launcher"
# Folders of DAGSTER_HOME that Dagster's telemetry uploads and empties.
_SPOOLS = ("logs", ".logs_queue")
_REPO_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Home:
    """A home: the folder of one catalogue. Two homes never share a batch, an asset or a run."""

    path: Path

    @classmethod
    def resolve(cls, path: Path | str | None = None) -> "Home":
        """The given home, else the home of RECSYS_HOME, else `.recsys` in the checkout or the current folder.

        For the URL of a home on an object store, it is the working copy.
        """
        if chosen := path or os.environ.get(ENVIRONMENT_VARIABLE):
            if url := remote.url_of(chosen):
                return cls(remote.working_copy(url))
            return cls(Path(chosen).expanduser().resolve())
        in_checkout = (_REPO_ROOT / "workspace.yaml").exists()
        return cls((_REPO_ROOT if in_checkout else Path.cwd()) / ".recsys")

    @property
    def address(self) -> str:
        """What `--home` takes for this home: the URL of a home on an object store, else the folder."""
        return remote.address(self.path)

    @property
    def format_file(self) -> Path:
        """The number of the home's format."""
        return self.path / "format"

    @property
    def format(self) -> int:
        """Number of the home's format; 1 for homes from before version 0.7, which have no number.

        Raises:
            HomeError: the file contains no number.
        """
        try:
            return int(self.format_file.read_text())
        except FileNotFoundError:
            return 1
        except ValueError:
            raise HomeError(f"{self.format_file} contains no number. Restore it from a copy of the home.") from None

    @property
    def is_there(self) -> bool:
        """Whether the folder holds anything that a home has."""
        own = (self.format_file, self.settings_file, self.tuned_file, self.landing, self.assets, self.dagster)
        return any(path.exists() for path in own)

    @property
    def landing(self) -> Path:
        """Landed batches: one folder, zip or file per batch."""
        return self.path / "landing"

    @property
    def assets(self) -> Path:
        """Stored assets; `versions` defines the layout."""
        return self.path / "assets"

    @property
    def settings_file(self) -> Path:
        """Settings of the user."""
        return self.path / "settings.toml"

    @property
    def tuned_file(self) -> Path:
        """Settings that a study chose. Settings of the user take precedence."""
        return self.path / "tuned.toml"

    @property
    def study(self) -> Path:
        """Trials and scores of studies, and trials of the quick choice."""
        return self.path / "study"

    @property
    def dagster(self) -> Path:
        """The DAGSTER_HOME of this home: run history and known batches."""
        return self.path / "dagster"

    @property
    def instance_file(self) -> Path:
        """The configuration of this home's Dagster instance."""
        return self.dagster / "dagster.yaml"

    @property
    def identity_file(self) -> Path:
        """A random name of the home, if its run history is in a database."""
        return self.dagster / "identity"

    @property
    def logs(self) -> Path:
        """Logs of runs and of `serve`. They are outside `dagster`, whose folder `logs` Dagster's telemetry uploads."""
        return self.path / "logs"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that every process with Dagster needs for this home.

        Webserver and daemon upload Dagster's spool whatever dagster.yaml says about telemetry. Only the variable
        DAGSTER_DISABLE_TELEMETRY stops them.

        Dagster gives up a sensor's tick after 60 s and does not keep its cursor. A landed file is hashed in one tick,
        and 60 s are enough for some 12 GB only.
        """
        return {
            _TICK_SECONDS: os.environ.get(_TICK_SECONDS, "900"),
            "DAGSTER_HOME": str(self.dagster),
            ENVIRONMENT_VARIABLE: str(self.path),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report" / "index.html"

    @property
    def rejected(self) -> Path:
        """Lists of the rejected rows of refused batches, one CSV file per batch."""
        return self.path / "rejected"

    @property
    def forgotten(self) -> Path:
        """The exclusion list: ids of forgotten users."""
        return self.path / "forgotten"

    @property
    def blocked(self) -> Path:
        """The ids of blocked items, which are in no list."""
        return self.path / "blocked"

    @property
    def removed(self) -> Path:
        """Landed files of removed batches, until the next `compact`."""
        return self.path / "removed"

    @property
    def kind(self) -> Path:
        """Kind of the data, detected from the first batch."""
        return self.path / "kind.json"

    @property
    def lock(self) -> Path:
        """Lock of the one run that works on this home."""
        return self.path / ".lock"

    @property
    def landing_lock(self) -> Path:
        """Lock of the one command that changes `landing/`."""
        return self.path / ".landing.lock"

    @property
    def download_lock(self) -> Path:
        """Lock of the one command that downloads a release, or searches the home."""
        return self.path / ".download.lock"

    @property
    def served_at(self) -> Path:
        """Address of the UI and PID of `serve`, while the home is served."""
        return self.dagster / "served_at"

    @property
    def failures(self) -> Path:
        """Log with one line per failed run."""
        return self.path / "failures.log"

    @property
    def promotions(self) -> Path:
        """The record of promotions, one file per decision."""
        return self.path / "promotions"

    @property
    def scratch(self) -> Path:
        """Temporary files of running steps. They may be deleted when no run is in progress."""
        return self.path / "scratch"

    def batch(self, name: str) -> Path:
        """The landed file or folder of a batch.

        Raises:
            FileNotFoundError: nothing has landed under this name, or the name is a broken link or a link that leads out
                of the landing folder.
        """
        if not is_batch_name(name):
            raise FileNotFoundError(f"{name!r} is not allowed as the name of a batch. {NAMES}")
        exact = self.landing / name
        if exact.exists():
            place = Path(os.path.realpath(exact))
            if place.is_relative_to(os.path.realpath(self.landing)):
                return exact
            raise FileNotFoundError(
                f"batch {name!r}: {exact} is a link that leads out of the landing folder, to {place}. Put the file "
                "itself in its place (`recsys-assets add` copies it), or remove the link."
            )
        if exact.is_symlink():
            raise FileNotFoundError(
                f"batch {name!r}: {exact} is a link to {exact.readlink()}, which does not exist. Put the file back, or "
                "remove the batch."
            )
        raise FileNotFoundError(f"batch {name!r}: {exact} does not exist. Put the file back, or remove the batch.")

    def landed_batches(self) -> list[str]:
        """Names of the landed batches in order. Hidden and unfinished files are no batches."""
        if not self.landing.is_dir():
            return []
        return sorted(entry.name for entry in self.landing.iterdir() if not is_hidden(entry.name))

    def close(self) -> None:
        """Restrict a home that is open to everybody to its owner. Versions before 0.5 made such homes.

        A home that is open to a group and closed to others stays as it is: somebody opened it on purpose.
        """
        found = self.path.stat()
        if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
            self.path.chmod(stat.S_IRWXU)

    def prepare(self) -> None:
        """Create the folders of the home, for the owner only, and its dagster.yaml; update homes of earlier versions.

        A dagster.yaml that names folders, or an old module of the run launcher, is rewritten. Logs of earlier versions
        are moved out of the folders that telemetry uploads.

        Raises:
            HomeError: dagster.yaml is not valid YAML.
        """
        self.path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        self.close()
        # A home with results and without a number is one of format 1.
        if not (self.format_file.exists() or self.assets.exists() or self.promotions.exists()):
            write_atomically(self.format_file, f"{FORMAT}\n".encode())
        for folder in (self.landing, self.assets, self.dagster, self.logs, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        for spool in _SPOOLS:
            _move_files(self.dagster / spool, self.logs)
        if not self.instance_file.exists():
            write_instance(self, INSTANCE)
            return
        stored = read_instance(self)
        content = _present_form(stored)
        if content != stored:
            write_instance(self, content)
        if _holds_its_path(stored):
            logs, place = self.dagster / "compute_logs", self.dagster / "storage"
            if logs.exists() and not place.exists():
                logs.rename(place)


def keep_private() -> None:
    """Set the umask of this process and its children to owner only, because files hold personal ratings."""
    os.umask(stat.S_IRWXG | stat.S_IRWXO)


def is_batch_name(name: str) -> bool:
    """Whether a name is allowed for a batch: Dagster, the landing folder and people must be able to tell it apart."""
    is_path = "/" in name or len(quote(name, safe="", errors="replace")) > _LONGEST_NAME
    return bool(name) and name.isprintable() and not (is_hidden(name) or "..." in name or is_path)


def is_hidden(name: str) -> bool:
    """Whether a name in the landing folder is no batch: a hidden or an unfinished file."""
    return name.startswith((".", "_")) or name.endswith(UNFINISHED_SUFFIXES)


_STORES = ("storage", "local_artifact_storage", "compute_logs")


def _holds_its_path(configuration: Mapping[str, Any]) -> bool:
    """Whether dagster.yaml has the absolute paths that earlier versions wrote.

    A copy of such a home would write to the history of the original. Other stores, such as PostgreSQL, do not count: a
    person has configured them.
    """
    try:
        where = configuration["storage"]["sqlite"]["base_dir"]
        others = [configuration[section]["config"]["base_dir"] for section in _STORES[1:]]
    except (KeyError, TypeError):
        return False
    return Path(where).name == "dagster" and others == [where, str(Path(where) / "compute_logs")]


def _present_form(stored: Any) -> Any:
    """A dagster.yaml of an earlier version without paths and with the present module of the run launcher."""
    if not isinstance(stored, dict):
        return stored
    content = {name: part for name, part in stored.items() if name not in _STORES or not _holds_its_path(stored)}
    launcher = content.get("run_launcher")
    if isinstance(launcher, dict) and launcher.get("module") == _LAUNCHER_BEFORE_0_6:
        content["run_launcher"] = INSTANCE["run_launcher"]
    return content


def read_instance(home: Home) -> Any:
    """The content of the home's dagster.yaml.

    Raises:
        HomeError: it is not valid YAML.
    """
    try:
        return yaml.safe_load(home.instance_file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise HomeError(
            f"{home.instance_file}: {told}. Fix it, or delete it: the next command writes a new one."
        ) from None


def write_instance(home: Home, content: Mapping[str, Any]) -> None:
    """Replace the home's dagster.yaml."""
    write_atomically(home.instance_file, yaml.safe_dump(dict(content), sort_keys=False).encode())


def _move_files(folder: Path, target: Path) -> None:
    """Move the files of a folder. If a log exists in the target, the moved log is appended to it."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (target / file.name).exists():
            file.rename(target / file.name)
            continue
        with (target / file.name).open("ab") as log:
            log.write(file.read_bytes())
        file.unlink()
