"""Upgrades the home of an earlier version in place, format by format, and refuses the home of a later version.

The names are in `old_names`. Each step may be repeated, and the number of a format is written last, so that the next
upgrade completes an interrupted one. Landed files are not changed.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from recsys_assets.home.layout import FORMAT, Home, HomeError
from recsys_assets.home.old_names import FORMATS, Format
from recsys_assets.home.served import served_at
from recsys_assets.home.settings import SettingsError, read_toml
from recsys_assets.home.unfinished import unfinished_of, write_atomically

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
        raise HomeError(f"{home.path} has the format of an earlier version, and a run works on it. {_WAIT}") from None
    try:
        if home.dagster.is_dir() and served_at(home):
            raise HomeError(f"{home.path} has the format of an earlier version, and `serve` runs for it. {_WAIT}")
        return sum(_upgrade(home, names) for names in FORMATS if names.number > home.format)
    finally:
        lock.release()


_WAIT = "Wait for its end: the next command upgrades the home."


def _upgrade(home: Home, names: Format) -> int:
    """Bring a home to a format from the format before it."""
    n_changed = sum(_renamed_settings(home, old, names) for old in names.settings_files)
    configurations = _configurations(home, names)
    for path in [*_files(home.assets), *_files(home.study), *_files(home.promotions)]:
        n_changed += _renamed_content(path, home, names, configurations)
        if path.name in names.files and "versions" in path.parts:
            n_changed += _rename(path.parent, path.name, names.files[path.name])
    for pattern, renamed in names.paths.items():
        for folder in [*home.path.glob(pattern)]:
            n_changed += sum(_rename(folder, old, new) for old, new in renamed.items() if (folder / old).exists())
    # Deleted before the number is written: the next upgrade would take these configurations for its own.
    kept = home.path / _CONFIGURATIONS
    for path in (kept, *unfinished_of(kept), *unfinished_of(home.format_file)):
        path.unlink(missing_ok=True)
    write_atomically(home.format_file, f"{names.number}\n".encode())
    return n_changed


def _configurations(home: Home, names: Format) -> dict[str, str]:
    """New by old name of every recorded configuration, stored until the upgrade is complete."""
    kept = home.path / _CONFIGURATIONS
    stored = _read_json(kept) if kept.exists() else {}
    # Versions 0.7 to 0.9 stored the names alone, and sometimes left the file.
    found = stored if names.number == 2 and "format" not in stored else stored.get("names", {})
    if found and stored.get("format", 2) == names.number:
        return dict(found)
    found = {}
    for path in _files(home.promotions):
        if record := _read_json(path):
            renamed = names.json(path.relative_to(home.path), record)
            found[_hash(record["configuration"])] = _hash(renamed["configuration"])
    write_atomically(kept, json.dumps({"format": names.number, "names": found}).encode())
    return found


def _hash(configuration: Any) -> str:
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, without links and without files of an interrupted upgrade."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in sorted(names) if not name.endswith(_UNFINISHED)):
            if not path.is_symlink():
                yield path


def _renamed_content(path: Path, home: Home, names: Format, configurations: Mapping[str, str]) -> bool:
    place = path.relative_to(home.path)
    if path.suffix == ".json":
        content = _read_json(path)
        renamed = _with_configurations(names.json(place, content), configurations)
        if renamed == content:
            return False
        _rewrite(path, lambda unfinished: unfinished.write_text(json.dumps(renamed, indent=1, sort_keys=True)))
        return True
    return path.suffix == ".parquet" and _renamed_table(path, place, names)


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is damaged: the command that needs it says so and what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _with_configurations(value: Any, configurations: Mapping[str, str]) -> Any:
    """The same JSON value with the present names of configurations in its texts."""
    if isinstance(value, dict):
        return {name: _with_configurations(part, configurations) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_configurations(part, configurations) for part in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\b[0-9a-f]{8}\b", lambda found: configurations.get(found[0], found[0]), value)


def _renamed_table(path: Path, place: PurePath, names: Format) -> bool:
    """Rewrite a Parquet file if it has a column with an old name, or an old name in a column of names."""
    columns, of_names = names.columns(place), names.columns_of_names(place)
    if not columns and not of_names:
        return False
    try:
        table = pl.scan_parquet(path)
        types = table.collect_schema()
        renamed = {old: new for old, new in columns.items() if old in types}
        values = {}
        for name in (name for name in of_names if types.get(name) == pl.String):
            found = table.select(pl.col(name).drop_nulls().unique()).collect().to_series()
            values[name] = {old: new for old in found if (new := names.text(old)) != old}
        if not renamed and not any(values.values()):
            return False
        present = table.with_columns(pl.col(name).replace(changed) for name, changed in values.items()).rename(renamed)
        _rewrite(path, lambda unfinished: present.sink_parquet(unfinished, compression="snappy"))
    except pl.exceptions.PolarsError:
        # The file is damaged: the command that needs it says so and what to do.
        return False
    return True


def _renamed_settings(home: Home, old: str, names: Format) -> int:
    """Rename a settings file and the settings in it; comments, order and values stay.

    Raises:
        SettingsError: the file is no TOML, or a setting is written in a way that is not understood here.
    """
    new = names.settings_files[old]
    n_changed = _rename(home.path, old, new) if new != old and (home.path / old).exists() else 0
    path = home.path / new
    before = read_toml(path)
    text = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
    renamed = names.toml(text)
    if tomllib.loads(renamed) != names.parsed(before):
        listed = ", ".join(f"{old} is {new}" for old, new in names.settings.items())
        raise SettingsError(
            f"{path}: settings have other names since version {names.version}. Rename them by hand: {listed}."
        )
    if renamed != text:
        _rewrite(path, lambda unfinished: unfinished.write_bytes(renamed.encode()))
    return n_changed + (renamed != text)


def _rename(folder: Path, old: str, new: str) -> int:
    with _same_time(folder):
        (folder / old).replace(folder / new)
    return 1


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

    Files older than the last `forget` may contain a forgotten user, and `compact` finds them by their times.
    """
    found = folder.stat()
    yield
    os.utime(folder, ns=(found.st_atime_ns, found.st_mtime_ns))
