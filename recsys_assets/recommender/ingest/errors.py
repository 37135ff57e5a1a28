"""The error that a user's data can cause."""


class SourceError(Exception):
    """A source that cannot be read or fetched; the message names file, line, rule and way out."""
