"""The kind of the data of a home: whether the ratings have times. The asset graph and the protocols depend on it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DataKind:
    """What the batches of a home have in common.

    Attributes:
        times: whether every rating has a time. Without times, nothing that needs an order of the ratings exists.

    Examples:
        >>> DataKind.from_dict({"times": False})
        DataKind(times=False)
    """

    times: bool = True

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DataKind":
        """Return the kind from the output of `content`.

        Raises:
            TypeError: the content is not that of a kind.
        """
        return cls(**content)

    @property
    def content(self) -> dict[str, Any]:
        """The kind as JSON values."""
        return asdict(self)

    @property
    def notice(self) -> str:
        """What the kind means for scores, in a sentence; empty for ratings with times."""
        if self.times:
            return ""
        return (
            "Without times: training and test ratings are divided at random, by a hash of user and item. There are no "
            "scores of latest ratings and of next items."
        )


RATINGS_WITH_TIMES = DataKind()
