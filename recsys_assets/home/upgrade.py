"""Brings the home of an earlier version to the present format, in place, and refuses the home of a later one.

The names themselves are in `old_names`. Each step may be repeated, and the format number is written last: an
interrupted upgrade is completed by the next one. Landed files stay as they are.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from recsys_assets.home.layout import FORMAT, Home, HomeError
from recsys_assets.home.old_names import (
    ASSETS,
    ATTRIBUTES,
    COLUMNS,
    FEATURES,
    FILES,
    NAMING_COLUMNS,
    PATTERN,
    SETTINGS,
    USER_TABLES,
    present_name,
    present_settings,
)
from recsys_assets.home.served import served_at
from recsys_assets.home.settings import SettingsError, read_toml
from recsys_assets.home.versions import write_atomically

# Old and new names of configurations, which are hashes over the names of settings; there during an upgrade.
_CONFIGURATIONS = ".upgrade.json"
_UNFINISHED = ".upgrading"


def bring_up_to_date(home: Home) -> int | None:
    """Bring a home to the present format.

    Returns:
        Number of changed files and folders; None if the home has the present format, or there is no home.

    Raises:
        HomeError: a later version of the package has written the home, or a process works on it.
        SettingsError: a settings file cannot be read, or its settings cannot be renamed.
    """
    if home.format == FORMAT or not home.is_there:
        return None
    if home.format > FORMAT:
        raise HomeError(
            f"{home.path} has format {home.format} and this version of recsys-assets knows formats up to {FORMAT}: a "
            "later version has written it. Install that version."
        )
    lock = FileLock(home.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HomeError(f"{home.path} is of an earlier version, and a run works on it. {_WAIT}") from None
    try:
        if home.dagster.is_dir() and served_at(home):
            raise HomeError(f"{home.path} is of an earlier version, and `serve` runs for it. {_WAIT}")
        return None if home.format == FORMAT else _upgrade(home)
    finally:
        lock.release()


_WAIT = "The home is brought to the present version by the first command after it has ended."


def _upgrade(home: Home) -> int:
    configurations = _configurations(home)
    n_changed = sum(_renamed_settings(path) for path in (home.settings_file, home.studied_file))
    for path in [*_files(home.assets), *_files(home.study)]:
        n_changed += _renamed_content(path, home, configurations)
        if path.name in FILES and "versions" in path.parts:
            with _same_time(path.parent):
                path.replace(path.with_name(FILES[path.name]))
            n_changed += 1
    for old, new in ASSETS.items():
        if (home.assets / old).exists():
            (home.assets / old).rename(home.assets / new)
            n_changed += 1
    for path in _files(home.promotions):
        n_changed += _renamed_json(path, configurations)
    write_atomically(home.format_file, f"{FORMAT}\n".encode())
    (home.path / _CONFIGURATIONS).unlink(missing_ok=True)
    return n_changed


def _configurations(home: Home) -> dict[str, str]:
    """New by old name of every recorded configuration, stored until the upgrade is complete."""
    kept = home.path / _CONFIGURATIONS
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    contents = [content["configuration"] for path in _files(home.promotions) if (content := _read_json(path))]
    names = {_hash(content): _hash(_renamed(content, {})) for content in contents}
    write_atomically(kept, json.dumps(names).encode())
    return names


def _hash(configuration: Any) -> str:
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, without links and without files of an interrupted upgrade."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in sorted(names) if not name.endswith(_UNFINISHED)):
            if not path.is_symlink():
                yield path


def _renamed_content(path: Path, home: Home, configurations: Mapping[str, str]) -> bool:
    if path.suffix == ".json":
        return _renamed_json(path, configurations)
    if path.suffix == ".parquet":
        is_of_users = path.is_relative_to(home.assets) and path.relative_to(home.assets).parts[0] in USER_TABLES
        return _renamed_table(path, ATTRIBUTES if is_of_users else COLUMNS)
    return False


def _renamed_json(path: Path, configurations: Mapping[str, str]) -> bool:
    content = _read_json(path)
    renamed = _renamed(content, configurations)
    if renamed == content:
        return False
    _rewrite(path, lambda unfinished: unfinished.write_text(json.dumps(renamed, indent=1, sort_keys=True)))
    return True


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is damaged: the command that needs it says so and what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _renamed(value: Any, configurations: Mapping[str, str], key: str = "") -> Any:
    """The same JSON value with the present names: keys, metrics and tasks, and names of configurations in texts."""
    if isinstance(value, dict):
        return {present_name(name): _renamed(part, configurations, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, configurations) for part in value]
    if not isinstance(value, str):
        return value
    if key in ("metric", "task"):
        return present_name(value)
    if value in FEATURES:
        return FEATURES[value]
    return re.sub(r"\b[0-9a-f]{8}\b", lambda found: configurations.get(found[0], found[0]), value)


def _renamed_table(path: Path, columns: Mapping[str, str]) -> bool:
    """Rewrite a Parquet file if it has a column with an old name, or an old name in a column of names."""
    try:
        table = pl.scan_parquet(path)
        types = table.collect_schema()
        named = [name for name in NAMING_COLUMNS if types.get(name) == pl.String]
        has_old = [pl.col(name).str.contains(PATTERN).any() for name in named]
        renamed = {old: new for old, new in columns.items() if old in types}
        if not renamed and not (has_old and any(table.select(has_old).collect().row(0))):
            return False
        names = [pl.col(name).map_elements(present_name, pl.String) for name in named]
        present = table.with_columns(names).rename(renamed)
        _rewrite(path, lambda unfinished: present.sink_parquet(unfinished, compression="snappy"))
    except pl.exceptions.PolarsError:
        # The file is damaged: the command that needs it says so and what to do.
        return False
    return True


def _renamed_settings(path: Path) -> bool:
    """Rename the settings in a file; comments, order and values stay.

    Raises:
        SettingsError: the file is no TOML, or a setting is written in a way that is not understood here.
    """
    before = read_toml(path)
    if not path.exists():
        return False
    text = path.read_bytes().decode("utf-8-sig")
    renamed = present_settings(text)
    if renamed == text:
        return False
    if tomllib.loads(renamed) != _renamed_keys(before):
        listed = ", ".join(f"{old} is {new}" for old, new in SETTINGS.items())
        raise SettingsError(f"{path}: settings have other names since version 0.7. Rename them by hand: {listed}.")
    _rewrite(path, lambda unfinished: unfinished.write_bytes(renamed.encode()))
    return True


def _rewrite(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes, atomically, with the times and permissions of the file."""
    unfinished, found = path.with_name(path.name + _UNFINISHED), path.stat()
    with _same_time(path.parent):
        write(unfinished)
        unfinished.chmod(found.st_mode)
        os.utime(unfinished, ns=(found.st_atime_ns, found.st_mtime_ns))
        unfinished.replace(path)
        # Spark's checksum of the file before.
        path.with_name(f".{path.name}.crc").unlink(missing_ok=True)


@contextmanager
def _same_time(folder: Path) -> Iterator[None]:
    """Give a folder its times back.

    What is older than the last `forget` may hold a forgotten user, and `compact` must go on to see that.
    """
    found = folder.stat()
    yield
    os.utime(folder, ns=(found.st_atime_ns, found.st_mtime_ns))


def _renamed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {present_name(name): _renamed_keys(part) for name, part in value.items()}
    return value
