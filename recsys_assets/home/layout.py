"""Where everything of one catalogue lies: landed data, assets, settings, run history, report.

Paths only. What is in a folder, and in which form, is the business of the module that writes it.
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

ENVIRONMENT_VARIABLE = "RECSYS_HOME"


class HomeError(RecsysError):
    """A file of a home cannot be used; the message names it and the way out."""


# Names that programs give to what they are still writing.
UNFINISHED_SUFFIXES = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".swp", "~")
# Folders are called by names of batches, quoted as in addresses; file systems take 255 bytes, some of which are ours.
_LONGEST_NAME = 230
NAMES = (
    "A name may not begin with . or _, nor hold /, ... or invisible characters, nor end as unfinished files do "
    f"({', '.join(UNFINISHED_SUFFIXES)}), nor be longer than {_LONGEST_NAME} characters (25 in Japanese, say)."
)

# The dagster.yaml of a home. It names no folder, so that Dagster keeps everything beside it, wherever the home is moved
# or copied. That of the checkout says the same for the default home.
INSTANCE = {
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
    "concurrency": {"runs": {"max_concurrent_runs": 1}},
    "run_queue": {"dequeue_interval_seconds": 1},
    "run_launcher": {"module": "recsys_assets.orchestration.launcher", "class": "ProcessCheckingRunLauncher"},
    "run_monitoring": {
        "enabled": True,
        "poll_interval_seconds": 5,
        # A busy machine takes minutes to start a process that imports everything.
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
    """One home holds one catalogue; two homes never share a batch, an asset or a run."""

    path: Path

    @classmethod
    def resolve(cls, path: Path | str | None = None) -> "Home":
        """The home given, else that of RECSYS_HOME, else `.recsys` in the checkout (without one: here)."""
        if chosen := path or os.environ.get(ENVIRONMENT_VARIABLE):
            return cls(Path(chosen).expanduser().resolve())
        in_checkout = (_REPO_ROOT / "workspace.yaml").exists()
        return cls((_REPO_ROOT if in_checkout else Path.cwd()) / ".recsys")

    @property
    def landing(self) -> Path:
        """What arrived: one folder, zip or file per batch."""
        return self.path / "landing"

    @property
    def assets(self) -> Path:
        """What the assets hold; the layout is the IO manager's."""
        return self.path / "assets"

    @property
    def settings_file(self) -> Path:
        """What the user sets."""
        return self.path / "settings.toml"

    @property
    def studied_file(self) -> Path:
        """What the study chose: settings below those of the user."""
        return self.path / "studied.toml"

    @property
    def study(self) -> Path:
        """Every trial of the study, and the scores of what it chose."""
        return self.path / "study"

    @property
    def dagster(self) -> Path:
        """Run history and known batches: the DAGSTER_HOME of this home."""
        return self.path / "dagster"

    @property
    def logs(self) -> Path:
        """What runs and `serve` print. Outside `dagster`, whose own folder `logs` Dagster's telemetry uploads."""
        return self.path / "logs"

    @property
    def environment(self) -> dict[str, str]:
        """What every process that works with Dagster on this home must find in its environment.

        Webserver and daemon upload Dagster's spool whatever dagster.yaml says about telemetry; only the variable stops
        them.
        """
        return {
            "DAGSTER_HOME": str(self.dagster),
            ENVIRONMENT_VARIABLE: str(self.path),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }

    @property
    def report(self) -> Path:
        """The rendered report."""
        return self.path / "report" / "index.html"

    @property
    def rejected(self) -> Path:
        """Lists of refused rows, one file per batch."""
        return self.path / "rejected"

    @property
    def forgotten(self) -> Path:
        """The ids of users who are to be forgotten."""
        return self.path / "forgotten"

    @property
    def removed(self) -> Path:
        """Landed sources of batches that were removed, until the next `compact`."""
        return self.path / "removed"

    @property
    def lock(self) -> Path:
        """Held by the run that works on this home; there is never another."""
        return self.path / ".lock"

    @property
    def landing_lock(self) -> Path:
        """Held by the command that changes `landing/`, for as long as that takes."""
        return self.path / ".landing.lock"

    @property
    def served_at(self) -> Path:
        """Holds the address of the UI, and the process of `serve`, while the home is served."""
        return self.dagster / "served_at"

    @property
    def failures(self) -> Path:
        """One line per failed run."""
        return self.path / "failures.log"

    @property
    def promotions(self) -> Path:
        """The record of promotions, one file per decision."""
        return self.path / "promotions"

    @property
    def scratch(self) -> Path:
        """Temporary files of running steps; safe to delete when nothing runs."""
        return self.path / "scratch"

    def batch(self, name: str) -> Path:
        """The landed source of a batch.

        Raises:
            FileNotFoundError: nothing has landed under that name, or only a link that leads out of the landing folder.
        """
        if not is_batch_name(name):
            raise FileNotFoundError(f"{name!r} is no name for a batch, so nothing can have landed under it. {NAMES}")
        exact = self.landing / name
        if exact.exists():
            place = Path(os.path.realpath(exact))
            if place.is_relative_to(os.path.realpath(self.landing)):
                return exact
            raise FileNotFoundError(
                f"batch {name!r}: {exact} is a link that leads out of the landing folder, to {place}. Put the file "
                "itself in its place (`recsys-assets add` copies it), or take the link away."
            )
        if exact.is_symlink():
            raise FileNotFoundError(
                f"batch {name!r}: {exact} is a link to {exact.readlink()}, and nothing lies there. Put it back, or "
                "remove the batch."
            )
        raise FileNotFoundError(f"batch {name!r}: nothing lies at {exact}. Put it back, or remove the batch.")

    def landed_batches(self) -> list[str]:
        """Names of what has landed, in the order of their names; hidden and unfinished files are no batches."""
        if not self.landing.is_dir():
            return []
        return sorted(entry.name for entry in self.landing.iterdir() if not is_hidden(entry.name))

    def close(self) -> None:
        """Keep everybody but the owner out of a home that everybody may enter, as those of before 0.5 are.

        A home that is closed to others and open to a group was opened on purpose, and stays so.
        """
        found = self.path.stat()
        if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
            self.path.chmod(stat.S_IRWXU)

    def prepare(self) -> None:
        """Make the folders, for their owner alone, and the Dagster instance's configuration where there is none, or one
        that names a place.

        Logs that earlier versions kept where telemetry uploads them are moved away.
        """
        self.path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        self.close()
        for folder in (self.landing, self.assets, self.dagster, self.logs, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        for spool in _SPOOLS:
            _move_files(self.dagster / spool, self.logs)
        configuration = self.dagster / "dagster.yaml"
        if not configuration.exists():
            _write(configuration, INSTANCE)
            return
        stored = _read(configuration)
        content = _present_form(stored)
        if content != stored:
            _write(configuration, content)
        if _holds_its_path(stored):
            logs, place = self.dagster / "compute_logs", self.dagster / "storage"
            if logs.exists() and not place.exists():
                logs.rename(place)


def keep_private() -> None:
    """Let this process, and all that it starts, make files for their owner only: they hold what people have rated."""
    os.umask(stat.S_IRWXG | stat.S_IRWXO)


def is_batch_name(name: str) -> bool:
    """Whether Dagster, the landing folder and a reader of its list can tell the name from something else."""
    is_path = "/" in name or len(quote(name, safe="", errors="replace")) > _LONGEST_NAME
    return bool(name) and name.isprintable() and not (is_hidden(name) or "..." in name or is_path)


def is_hidden(name: str) -> bool:
    """Whether a name in the landing folder is that of no batch: hidden, or of what is still being written."""
    return name.startswith((".", "_")) or name.endswith(UNFINISHED_SUFFIXES)


_STORES = ("storage", "local_artifact_storage", "compute_logs")


def _holds_its_path(configuration: Mapping[str, Any]) -> bool:
    """Whether every store lies where homes once wrote it down; a copy of such a home would write into the original's
    history. Stores that somebody has set otherwise, such as PostgreSQL, stay as they are.
    """
    try:
        where = configuration["storage"]["sqlite"]["base_dir"]
        others = [configuration[section]["config"]["base_dir"] for section in _STORES[1:]]
    except (KeyError, TypeError):
        return False
    return Path(where).name == "dagster" and others == [where, str(Path(where) / "compute_logs")]


def _present_form(stored: Any) -> Any:
    """The configuration of an earlier version without paths, and with the launcher's present module."""
    if not isinstance(stored, dict):
        return stored
    content = {name: part for name, part in stored.items() if name not in _STORES or not _holds_its_path(stored)}
    launcher = content.get("run_launcher")
    if isinstance(launcher, dict) and launcher.get("module") == _LAUNCHER_BEFORE_0_6:
        content["run_launcher"] = INSTANCE["run_launcher"]
    return content


def _read(configuration: Path) -> Any:
    try:
        return yaml.safe_load(configuration.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise HomeError(f"{configuration}: {told}. Mend it, or delete it: the next command writes it anew.") from None


def _write(configuration: Path, content: Mapping[str, Any]) -> None:
    unfinished = configuration.with_suffix(".unfinished")
    try:
        unfinished.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        unfinished.replace(configuration)
    finally:
        unfinished.unlink(missing_ok=True)


def _move_files(folder: Path, target: Path) -> None:
    """Move the files of a folder; a log that exists there already becomes longer."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (target / file.name).exists():
            file.rename(target / file.name)
            continue
        with (target / file.name).open("ab") as log:
            log.write(file.read_bytes())
        file.unlink()
