"""The section `data` of the settings: how landed files are read, and which batches are refused."""

from typing import Any, Literal

from pydantic import Field, field_validator

from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.wording import EVENTS, RATINGS

# Columns of ratings that are not needed.
_IGNORABLE = ("timestamp", "rating")


class SampleSettings(Section):
    """A sample of the users, for development. Every score is then marked with the share."""

    share: float = Field(1.0, gt=0, le=1, description="Share of the users who are kept, by a hash; 1 keeps all.")
    seed: int = Field(0, ge=0, description="Seed of the hash; another seed keeps other users.")


class DataSettings(Section):
    """Input: how landed files are read, and which batches are refused."""

    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Your column names by standard name (user_id, item_id, rating, timestamp, event, weight, title, "
        "year, genres).",
    )
    header: list[str] = Field(
        default_factory=list,
        description="Column names of delimited text without a header, in order, such as "
        "['user_id', 'item_id', 'rating', 'timestamp']; '' for a column that is not needed.",
    )
    delimiter: str = Field(
        "", description="Delimiter of the fields in delimited text; empty: detected from the header."
    )
    encoding: str = Field(
        "", description="Encoding of text files, such as latin-1; empty: UTF-8, or UTF-16 with a byte order mark."
    )
    rating_scale: list[float] = Field(
        default_factory=list,
        description="Lowest and highest rating, such as [1, 5]; empty: the scale of the release, else the range of "
        "the data.",
    )
    not_rated: list[float] = Field(
        default_factory=list,
        description="Ratings that mean 'not rated', such as [0] or [-1, 99]; rows with them are left out and counted.",
    )
    decimal: Literal["", ".", ","] = Field(
        "", description="Decimal mark of ratings and weights; empty: detected where it is clear."
    )
    time_format: str = Field(
        "",
        description="Format of times, such as '%d/%m/%Y'; empty: detected, and refused where the times leave it open.",
    )
    genre_separator: str = Field("|", min_length=1, description="Separator of the genres of an item.")
    ignore: list[str] = Field(
        default_factory=list,
        description='Columns that are not read: ["timestamp"] reads ratings without times, ["rating"] reads rows as '
        "events.",
    )
    feedback: Literal["auto", "ratings", "events"] = Field(
        "auto", description="Kind of the rows; 'auto': ratings if there is a column of ratings, else events."
    )
    event_weights: dict[str, float] = Field(
        default_factory=dict,
        description="Weight by event type, such as click = 1; a weight below 0 speaks against an item.",
    )
    other_events: Literal["refuse", "count"] = Field(
        "refuse",
        description="Event types without a weight: 'refuse' makes the row a bad row, 'count' gives it weight 1.",
    )
    event_damping: Literal["log1p", "none"] = Field(
        "log1p",
        description="'log1p' damps each sum of weights by log(1 + sum), because counts spread widely; 'none' keeps "
        "the sum.",
    )
    item_noun: str = Field(
        "", description="Name of the items for people, in the plural; empty: movies for MovieLens, else items."
    )
    event_noun: str = Field(
        "", description="Name of the events for people, in the plural, such as plays; empty: events."
    )
    max_unpacked_bytes: int = Field(
        8 * 2**30, ge=1, description="Largest unpacked size of a source, in bytes; a larger source is refused."
    )
    max_rejected_share: float = Field(
        0.01, ge=0, le=1, description="Largest share of bad rows in a batch; a batch with more is refused."
    )
    sample: SampleSettings = SampleSettings()

    @field_validator("rating_scale")
    @classmethod
    def _scale_ascends(cls, scale: list[float]) -> list[float]:
        if scale and (len(scale) != 2 or not scale[0] < scale[1]):
            raise ValueError("the lowest rating, then the highest")
        return scale

    @field_validator("time_format")
    @classmethod
    def _time_format_has_fields(cls, form: str) -> str:
        if form and "%" not in form:
            raise ValueError("a format such as '%d/%m/%Y' or '%Y-%m-%d %H:%M'")
        return form

    def feedback_noun(self, kind: DataKind) -> str:
        """What people call the feedback, in the plural."""
        return (self.event_noun or EVENTS) if kind.is_events else RATINGS

    def noun(self, *, is_movielens: bool) -> str:
        """What people call the items, in the plural."""
        return self.item_noun or ("movies" if is_movielens else "items")

    @field_validator("ignore")
    @classmethod
    def _can_be_ignored(cls, ignore: list[str]) -> list[str]:
        if unknown := sorted({*ignore} - {*_IGNORABLE}):
            raise ValueError(f"{unknown[0]!r} cannot be ignored; there is {', '.join(_IGNORABLE)}")
        return ignore

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that are parameters of `recommender.ingest.sources.read_source`."""
        return {
            "columns": self.columns,
            "header": self.header,
            "decimal": self.decimal or None,
            "time_format": self.time_format or None,
            "not_rated": self.not_rated,
            "delimiter": self.delimiter or None,
            "encoding": self.encoding or None,
            "rating_scale": tuple(self.rating_scale) or None,
            "genre_separator": self.genre_separator,
            "ignore": tuple(self.ignore),
            "feedback": self.feedback,
            "event_weights": self.event_weights,
            "other_events": self.other_events,
            "max_unpacked_bytes": self.max_unpacked_bytes,
        }
