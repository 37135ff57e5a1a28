"""The kind of the data of a home: ratings or events, with or without times.

The asset graph, the tasks and the protocols depend on it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Feedback = Literal["ratings", "events"]


@dataclass(frozen=True)
class DataKind:
    """Kind of the data of a home, which all its batches share.

    Attributes:
        times: whether every rating or event has a time. Without times, nothing that needs an order exists.
        feedback: `ratings`, or `events` such as clicks, plays and purchases. Of events, nothing predicts a rating.

    Examples:
        >>> DataKind.from_dict({"times": False})
        DataKind(times=False, feedback='ratings')
    """

    times: bool = True
    feedback: Feedback = "ratings"

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DataKind":
        """Return the kind from the output of `content`.

        Raises:
            TypeError: the content describes no kind of data.
        """
        return cls(**content)

    @property
    def is_events(self) -> bool:
        """Whether the data are events."""
        return self.feedback == "events"

    @property
    def content(self) -> dict[str, Any]:
        """The kind as JSON values."""
        return asdict(self)

    @property
    def notice(self) -> str:
        """What the kind means for scores, in sentences; empty for ratings with times."""
        events = (
            "Events, not ratings: no rating is predicted, and every item of a user with a weight above 0 counts as "
            "liked."
        )
        times = (
            f"Without times: training and test {self.feedback} are divided at random, by a hash of user and item. "
            "There are no scores of latest ratings and of next items."
        )
        return " ".join([*([events] if self.is_events else []), *([] if self.times else [times])])


RATINGS_WITH_TIMES = DataKind()
