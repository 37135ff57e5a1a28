"""The error for bad data of a user."""

from collections.abc import Sequence

from recsys_assets.errors import RecsysError


class SourceError(RecsysError):
    """A source cannot be read or fetched; the message names file, line, rule and way out."""


def to_paste(settings_file: str, section: str, lines: Sequence[str]) -> str:
    """The end of a message: lines for the settings file of the home."""
    shown = "".join(f"\n  {line}" for line in (f"[{section}]", *lines))
    return f" in {settings_file} (a section stands there once only):{shown}"
