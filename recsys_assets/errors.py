"""The errors that a person can fix. Faults of a disk or of a library are explained by `cli.faults`."""

from typing import ClassVar


class RecsysError(Exception):
    """Something a person can fix; the message names the place, the rule and the way out, and stands alone.

    Attributes:
        permanent: whether the same thing fails again until a person changes something. Such a
            failure is never retried automatically.
    """

    permanent: ClassVar[bool] = True


class RunFailedError(RecsysError):
    """A run failed, or did only a part of its work."""


class BatchesRefusedError(RecsysError):
    """Everything was done except for refused batches."""
