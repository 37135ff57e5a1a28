"""The error that a user's data can cause."""

from recsys_assets.errors import RecsysError


class SourceError(RecsysError):
    """A source that cannot be read or fetched; the message names file, line, rule and way out."""
