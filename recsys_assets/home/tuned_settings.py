"""Results of a study in a home: `tuned.toml` with the tuned settings, and the tables for the report.

This module writes `tuned.toml`; `settings` reads it. The study itself is in `recommender.tuning`.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl
import tomlkit

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings, SettingsError, read_toml
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.report.study_section import StudyTables

_HEADER = """Chosen by `recsys-assets study` on validation splits of the training ratings; the next study may change it.
Your own settings.toml takes precedence. Delete it to go back to the built-in settings."""


def study_tables(store: AssetStore) -> StudyTables | None:
    """The tables of the last study for all studied protocols; None if there was no study."""

    def of_all(asset: str) -> pl.DataFrame:
        parts = [to_polars(scan(store.current([asset], part))) for part in store.batches([asset])]
        return pl.concat(parts, how="diagonal") if parts else pl.DataFrame()

    scores = of_all("study_scores")
    if scores.is_empty() or not all(store.has([asset]) for asset in ("tuned_settings", "leakage_audit")):
        return None
    settings, audit = (to_polars(scan(store.current([asset]))) for asset in ("tuned_settings", "leakage_audit"))
    sweep = to_polars(scan(store.current(["segment_sweep"]))) if store.has(["segment_sweep"]) else pl.DataFrame()
    return StudyTables(of_all("study_trials"), settings, scores, of_all("paired_tests"), audit, sweep)


def tuned_settings(home: Home) -> dict[str, Any]:
    """The settings in `tuned.toml` by dotted name (`als.rank`); empty if there is no file.

    Raises:
        SettingsError: a setting in the file is in no section; a study never writes that.
    """
    sections = read_toml(home.tuned_file)
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise SettingsError(f"{home.tuned_file}: {name!r} is in no section. Move it to {home.settings_file}.")
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def write_tuned(home: Home, tuned: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Write settings to `tuned.toml`. Other settings in the file stay.

    Args:
        home: the home with the file.
        tuned: values by dotted name, such as `als.rank`.

    Returns:
        Old value (None: the built-in default) and new value of each changed setting, by dotted name.
    """
    before = tuned_settings(home)
    now = dict(sorted({**before, **tuned}.items()))
    document = tomlkit.document()
    for line in _HEADER.splitlines():
        document.add(tomlkit.comment(line))
    for setting, value in now.items():
        section, name = setting.split(".")
        if section not in document:
            document.add(section, tomlkit.table())
        document[section][name] = value
    write_atomically(home.tuned_file, tomlkit.dumps(document).encode())
    return {setting: (before.get(setting), value) for setting, value in now.items() if before.get(setting) != value}


def overruled(tuned: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The tuned settings that the user's own settings override, with the user's values."""
    present = {setting: getattr(getattr(settings, setting.split(".")[0]), setting.split(".")[1]) for setting in tuned}
    return {setting: present[setting] for setting, value in tuned.items() if present[setting] != value}
