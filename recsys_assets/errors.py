"""The errors that a person can fix. Faults of a disk or of a library are explained by `cli.faults`."""

from typing import ClassVar


class RecsysError(Exception):
    """Something a person can fix; the message names the place, the rule and the way out, and stands alone.

    Attributes:
        permanent: whether the same thing fails again until a person changes something. Nothing tries such a failure
            again by itself.
    """

    permanent: ClassVar[bool] = True


class RunFailedError(RecsysError):
    """A run did not do all that it was to do."""


class BatchesRefusedError(RecsysError):
    """Everything was done but for batches that cannot come in."""
