"""The error for bad data of a user."""

from recsys_assets.errors import RecsysError


class SourceError(RecsysError):
    """A source cannot be read or fetched; the message names file, line, rule and way out."""
