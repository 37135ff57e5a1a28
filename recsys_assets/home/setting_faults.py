"""Names a wrong setting, its file or variable, and the setting that was probably meant."""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from recsys_assets.home.old_names import EARLIER_SECTIONS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# How pydantic calls a name that no field has.
_UNKNOWN = "extra_forbidden"
# The value may be a URL with a password instead of the name of a variable.
_SECRET = ("instance", "postgres_url_env")


def told(faults: Sequence["ErrorDetails"], settings: type[BaseModel], files: Mapping[Path, Mapping[str, Any]]) -> str:
    """The faults, each with the file or variable of the wrong setting.

    Args:
        faults: the errors of a validation.
        settings: the class of all settings.
        files: content of the settings files, the one that takes precedence first.
    """
    sentences = [f"{_place(fault['loc'], files)}: {_fault(fault, settings)}" for fault in faults]
    return " ".join(sentence if sentence.endswith("?") else f"{sentence}." for sentence in sentences)


def _place(location: tuple[int | str, ...], files: Mapping[Path, Mapping[str, Any]]) -> str:
    """The environment variable if it is set, else the first file that has the setting."""
    if variable := _variable(location):
        return f"{variable} in the environment"
    return str(next((path for path, content in files.items() if _has(content, location)), next(iter(files))))


def _variable(location: tuple[int | str, ...]) -> str | None:
    wanted = "RECSYS_" + "__".join(part for part in location if isinstance(part, str)).upper()
    return next((name for name in os.environ if name.upper() == wanted), None)


def _has(content: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if isinstance(part, int):
            return True
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def _fault(fault: "ErrorDetails", settings: type[BaseModel]) -> str:
    location, name = fault["loc"], ".".join(map(str, fault["loc"]))
    is_hidden = location == _SECRET or isinstance(fault["input"], Mapping)
    found = "" if is_hidden else f" (found {fault['input']!r})"
    if fault["type"] == _UNKNOWN:
        return f"there is no setting {name}{found}{_meant(location, settings)}"
    is_json = _variable(location) and fault["type"] in ("list_type", "dict_type", "model_type")
    hint = "; in a variable, lists and tables are JSON, such as '[1, 5]'" if is_json else ""
    return f"{name}: {fault['msg']}{found}{hint}"


def _meant(location: tuple[int | str, ...], settings: type[BaseModel]) -> str:
    """The present name of a section, the nearest name of its section, or settings of this name elsewhere; or empty."""
    *path, wanted = map(str, location)
    if not path and wanted in EARLIER_SECTIONS:
        return f"; did you mean {EARLIER_SECTIONS[wanted]}?"
    section: Any = settings
    for part in path:
        section = section.model_fields[part].annotation
    if alike := get_close_matches(wanted, section.model_fields, n=1):
        return f"; did you mean {'.'.join([*path, alike[0]])}?"
    elsewhere = [
        f"{name}.{wanted}"
        for name, field in settings.model_fields.items()
        if wanted in getattr(field.annotation, "model_fields", ())
    ]
    return f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else ""
