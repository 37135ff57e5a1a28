"""All settings of a home, with default, meaning and allowed values.

Later sources take precedence over earlier ones: built-in defaults, `studied.toml` of the home (written by the study),
`settings.toml`, environment variables (RECSYS_ALS__RANK=20), run config of a launch (`resources: settings: config: als:
rank: 20`). A field has the name of the `recommender` parameter that it sets. The docstring of a section appears in
`settings.toml` as one comment line and in the UI, so it has one line.
"""

import math
import os
import re
import tomllib
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from zoneinfo import available_timezones

import tomlkit
from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from recsys_assets.errors import RecsysError
from recsys_assets.home.layout import Home
from recsys_assets.recommender.data.automatic import AUTO, resolved
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.wording import EVENTS, RATINGS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WAY_OUT = "`recsys-assets init` writes a file with every setting and what it allows."

_CRON_FIELDS = 5
# Columns of ratings that are not needed.
_IGNORABLE = ("timestamp", "rating")


class SettingsError(RecsysError):
    """A setting cannot be used. The message names its source and the allowed values."""


class Section(BaseModel):
    """A table of settings.toml. Unknown names are refused, because a misspelt setting would have no effect."""

    # Fields that allow numbers and text ("0.8", 0.8, "auto") hold text, because Dagster's config has no such unions.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


def _checked(low: float, *, above: bool = False) -> AfterValidator:
    """A validator of text that is `auto`, a multiple of `auto`, or a number.

    Args:
        low: the lowest allowed number.
        above: whether `low` itself is refused.
    """

    def checked(text: str) -> str:
        number, lowest = resolved(text, 1.0), min(low, 0) if AUTO in text else low
        if number < lowest or (above and number == lowest):
            raise ValueError(f"has to be {'above' if above else 'at least'} {lowest:g}")
        return text.removesuffix(".0")

    return AfterValidator(checked)


_AnyNumber = Annotated[str, _checked(-math.inf)]
_NotNegative = Annotated[str, _checked(0)]
_Positive = Annotated[str, _checked(0, above=True)]
_Count = Annotated[str, _checked(1)]


class SampleSettings(Section):
    """A sample of the users, for development. Every score is then marked with the share."""

    share: float = Field(1.0, gt=0, le=1, description="Share of the users that is kept, by a hash; 1 keeps all.")
    seed: int = Field(0, ge=0, description="Seed of the hash: another one keeps other users.")


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
    delimiter: str = Field("", description="Between the fields of delimited text; empty: told from the header.")
    encoding: str = Field("", description="Of text, such as latin-1; empty: UTF-8, or UTF-16 where a mark says so.")
    rating_scale: list[float] = Field(
        default_factory=list,
        description="Lowest and highest rating, such as [1, 5]; empty: the release's own, else what the data hold.",
    )
    not_rated: list[float] = Field(
        default_factory=list,
        description="Ratings that mean 'not rated', such as [0] or [-1, 99]; such rows are left out and counted.",
    )
    decimal: Literal["", ".", ","] = Field("", description="Decimal mark of ratings; empty: told where it is clear.")
    time_format: str = Field(
        "", description="Of times, such as '%d/%m/%Y'; empty: told by the times, and refused where they leave it open."
    )
    genre_separator: str = Field("|", min_length=1, description="Between the genres of an item.")
    ignore: list[str] = Field(
        default_factory=list,
        description='Columns that are not read: ["timestamp"] reads ratings without their times, ["rating"] as events.',
    )
    feedback: Literal["auto", "ratings", "events"] = Field(
        "auto", description="What the rows are; 'auto': ratings if there is a column of ratings, else events."
    )
    event_weights: dict[str, float] = Field(
        default_factory=dict,
        description="Weight of each event type, such as click = 1; one below 0 speaks against.",
    )
    other_events: Literal["refuse", "count"] = Field(
        "refuse", description="An event type without a weight is a bad row, or counts 1."
    )
    event_damping: Literal["log1p", "none"] = Field(
        "log1p", description="Sums of weights are dampened by log(1 + sum), because counts spread widely; or not."
    )
    item_noun: str = Field(
        "", description="What the report calls items, in the plural; empty: movies for MovieLens, else items."
    )
    event_noun: str = Field(
        "", description="What report and commands call events, in the plural, such as plays; empty: events."
    )
    max_unpacked_bytes: int = Field(8 * 2**30, ge=1, description="A source that unpacks to more bytes is refused.")
    max_rejected_share: float = Field(0.01, ge=0, le=1, description="Share of bad rows above which a batch is refused.")
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


def _is_fraction(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


class SplittingSettings(Section):
    """Training rows and test rows: the cut in time (case study A) and the partition of users (case study B)."""

    cut: str = Field(
        "auto",
        description="Where training ends in time: a number of ratings ('800000'), a fraction ('0.8'), or 'auto': "
        "800,000 for exactly MovieLens 1M, as in case study A, else 0.8.",
    )
    train_share: float = Field(0.7, gt=0, lt=1, description="Case study B: share of users whose histories train.")
    seed: int = Field(1234, ge=0, description="Seed of the users' partition.")

    @field_validator("cut")
    @classmethod
    def _cut_is_known(cls, cut: str) -> str:
        if cut == "auto" or (cut.isdecimal() and int(cut) > 0) or _is_fraction(cut):
            return cut
        raise ValueError(f"{cut!r} is none of: a number of ratings ('800000'), a fraction ('0.8'), 'auto'")

    @property
    def parsed_cut(self) -> int | float | Literal["auto"]:
        """The cut as `recommender.data.splitting` takes it: a number of ratings, a fraction or `auto`."""
        if self.cut == "auto":
            return "auto"
        return int(self.cut) if self.cut.isdecimal() else float(self.cut)


class ClusterSettings(Section):
    """K-means clusters of users by attributes."""

    k: int = Field(5, ge=1, description="Number of clusters; 5 as in case study A.")
    k_max: int = Field(30, ge=2, description="The sweep shows SSE for 1 to this K, the silhouette for 2 to one less.")
    silhouette_sample: int = Field(8_000, ge=10, description="Users on which the silhouette is computed.")
    n_init: int = Field(3, ge=1, description="Starts of K-means per K of the sweep.")
    weigh: Literal["auto", "attributes", "columns"] = Field(
        "auto",
        description="What weighs alike: 'attributes', or one-hot 'columns' as in case study A, where an attribute of "
        "many values hardly counts; 'auto': columns for exactly MovieLens 1M, else attributes.",
    )
    seed: int = Field(0, ge=0, description="Seed of K-means.")


class ColdStartSettings(Section):
    """Case study A's fill: predicted ratings for users without a training rating."""

    fill_size: str = Field(
        "median",
        description="Ratings drawn per such user: a number, or 'median': as many as the median user has.",
    )
    seed: int = Field(0, ge=0, description="Seed of the draw.")

    @field_validator("fill_size")
    @classmethod
    def _fill_size_is_known(cls, fill_size: str) -> str:
        if fill_size == "median" or (fill_size.isdecimal() and int(fill_size) > 0):
            return fill_size
        raise ValueError(f"{fill_size!r} is neither a number of ratings, from 1 on, nor 'median'")


class ALSSettings(Section):
    """Explicit ALS, case study A's model. It is scored for comparison; recommendations do not use it."""

    rank: int = Field(10, ge=1, description="Number of factors.")
    reg_param: float = Field(0.1, ge=0, description="Regularisation, scaled by the number of ratings.")
    max_iter: int = Field(10, ge=1, description="Iterations.")
    n_blocks: int = Field(4, ge=1, description="Blocks of users and of items; more for a cluster.")
    seed: int = Field(0, ge=0, description="Seed of the starting factors.")


class UserItemBiasSettings(Section):
    """Rating model: global mean, user bias and item bias."""

    user_shrinkage: float = Field(5.0, ge=0, description="Ratings without a bias added to each user's own.")
    item_shrinkage: float = Field(5.0, ge=0, description="The same for items.")


class ClusterMeanSettings(Section):
    """Rating model: mean rating per cluster of users and item."""

    shrinkage: float = Field(50.0, ge=0, description="Ratings at the item's mean added to each cluster's own.")
    item_shrinkage: float = Field(10.0, ge=0, description="Ratings at the global mean added to each item's own.")


class FactorsSettings(Section):
    """Rating model: matrix factorisation with attributes of users and items as prior."""

    rank: int = Field(24, ge=1, description="Number of factors beside the bias.")
    max_iter: int = Field(12, ge=1, description="Iterations.")
    n_profile: int = Field(
        0, ge=0, description="Dimensions of what a user has rated, whatever the rating, beside its attributes."
    )
    reg_links: float = Field(10.0, ge=0, description="Regularisation of the regression of factors on attributes.")
    seed: int = Field(0, ge=0, description="Seed of the starting factors.")


class ProfileFactorsSettings(FactorsSettings):
    """Rating model: matrix factorisation with attributes and with the items that a user has rated as prior."""

    rank: int = Field(40, ge=1, description="Number of factors beside the bias.")
    n_profile: int = Field(
        60, ge=0, description="Dimensions of what a user has rated, whatever the rating, beside its attributes."
    )
    seed: int = Field(1, ge=0, description="Seed of the starting factors: another, so that averages gain.")


class AttributeEffectsSettings(Section):
    """Rating model: effects of user attributes on each item, beyond the factors."""

    reg: float = Field(300.0, ge=0, description="Regularisation of the effects of attributes, in ratings.")


class StackHoldoutSettings(Section):
    """The held-out training ratings that the stack of rating models is fitted on."""

    folds: Literal["time", "random"] = Field(
        "time", description="Which of them are hidden from the models, as what is predicted: the latest or random ones."
    )
    seed: int = Field(0, ge=0, description="Seed of what is random.")


class StackSettings(Section):
    """The stack: a linear model of the predictions of all rating models."""

    reg: float = Field(30_000.0, ge=0, description="Regularisation of the weights of the scaled features, in ratings.")
    level_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How much of the level that ratings lay above all models is expected to last.",
    )


class RankingSettings(Section):
    """Implicit ALS for top N. It is scored, and part of the blend if `blend.ease_weight` is below 1."""

    rank: int = Field(32, ge=1, description="Number of factors.")
    reg_param: float = Field(0.1, ge=0, description="Regularisation.")
    max_iter: int = Field(10, ge=1, description="Iterations.")
    alpha: float = Field(1.0, gt=0, description="Weight of a rating as confidence.")
    neutral_offset: float = Field(
        -0.5,
        description="Standard deviations from the mean rating to the one below which a rating speaks against an item.",
    )
    n_blocks: int = Field(4, ge=1, description="Blocks of users and of items; more for a cluster.")
    seed: int = Field(0, ge=0, description="Seed of the starting factors.")


class EASESettings(Section):
    """EASE for top N."""

    reg: _Positive = Field(
        "auto",
        description="Regularisation of the weights between items: auto (3,000 for case study A, otherwise with the "
        "root of users times ratings), a multiple such as 'auto * 0.3', or a number.",
    )
    neutral_offset: _AnyNumber = Field(
        "auto",
        description="Standard deviations from the mean rating to the one that is neither liked nor disliked: auto "
        "(-0.5), or a number.",
    )
    max_items: int = Field(6_000, ge=1, description="The most rated items that it knows; time grows with the cube.")


class LikingSettings(Section):
    """Liking: predicts from attributes alone which items a user likes. New users get its lists."""

    reg: _NotNegative = Field(
        "auto",
        description="Regularisation of the attributes; a large one leaves popularity. auto: 300 for case study A, "
        "more with more users, less with more ratings of each.",
    )
    half_life: _Positive = Field(
        "auto", description="Share of the ratings after which a user weighs half as much: auto (0.15), or a number."
    )


class RecentPopularitySettings(Section):
    """Recent popularity: a baseline for lists that counts later ratings more."""

    half_life: float = Field(0.1, gt=0, description="Share of the ratings after which one counts half as much.")


class ItemKNNSettings(Section):
    """Item-based nearest neighbours by cosine similarity: a baseline for lists."""

    neighbours: int = Field(500, ge=1, description="The most similar items that each item is scored by.")
    shrinkage: float = Field(10.0, ge=0, description="Held against items that few users liked.")


class BlendSettings(Section):
    """The blend of EASE, implicit ALS and liking."""

    ease_weight: float = Field(1.0, ge=0, le=1, description="Share of EASE beside implicit ALS.")
    prior_ratings: _NotNegative = Field(
        "auto",
        description="Ratings of a user that weigh as much as its attributes: auto (60 for case study A, otherwise with "
        "the median number of ratings of a user), a multiple such as 'auto * 0.3', or a number.",
    )


class NextRankingSettings(RankingSettings):
    """Implicit ALS for the next item (case study B)."""


class NextEASESettings(EASESettings):
    """EASE for the next item (case study B). Every rating counts as a preference, even a low one."""

    reg: _Positive = Field(
        "auto * 3.2",
        description="Regularisation of the weights between items; see ease.reg. 8,000 for case study B.",
    )
    neutral_offset: _AnyNumber = Field(
        "-4", description="Standard deviations from the mean rating to the one that is neither liked nor disliked."
    )


class TransitionSettings(Section):
    """Transitions: which items are rated soon after another item (case study B)."""

    window: int = Field(10, ge=1, description="How many ratings later still count.")
    decay: float = Field(0.9, gt=0, le=1, description="Weight of one step further.")
    backwards: float = Field(0.5, ge=0, le=1, description="Weight of the opposite order.")
    popularity_exponent: float = Field(0.3, ge=0, le=1, description="How much an item's frequency counts against it.")
    shrinkage: float = Field(10.0, ge=0, description="Transitions to nowhere added to each item's own.")
    half_life: float = Field(1.5, gt=0, description="Ratings of the user after which one weighs half as much.")


class SessionSettings(Section):
    """Sessions: the next item within a session and at the start of a session (case study B)."""

    pause: float = Field(3_600.0, gt=0, description="Seconds between two ratings from which a new session starts.")
    first: int = Field(5, ge=1, description="How many ratings of a session count as its start.")
    smoothing: float = Field(0.01, gt=0, le=1, description="Probability added to each transition at a session's start.")
    ease_weight: float = Field(0.05, ge=0, description="Weight of EASE beside transitions at a session's start.")
    start_weight: float = Field(0.2, ge=0, description="Weight of what sessions start with, beside transitions.")


class ItemNeighboursSettings(Section):
    """Item neighbours: predicts a rating from the user's ratings of similar items (case study B)."""

    item_shrinkage: float = Field(5.0, ge=0, description="Ratings without a bias added to each item's own.")
    user_shrinkage: float = Field(5.0, ge=0, description="The same for users.")
    pair_shrinkage: float = Field(50.0, ge=0, description="Common users without agreement added to each pair's own.")
    sum_shrinkage: float = Field(0.3, ge=0, description="Similarity to items without a residual added to the user's.")
    exponent: float = Field(2.0, gt=0, description="Power of the similarities: a higher one leaves fewer neighbours.")
    max_items: int = Field(6_000, ge=1, description="The most rated items, which have neighbours.")


class RatingNeighboursSettings(ItemNeighboursSettings):
    """Rating model: item neighbours on the training ratings of case study A; part of the stack."""


class SegmentResidualSettings(Section):
    """Mean residual of the ratings per segment and item (case study B)."""

    shrinkage: float = Field(20.0, ge=0, description="Ratings without a residual added to each pair's own.")


class ResponseStackSettings(Section):
    """The stack of the models of the latest rating (case study B)."""

    reg: float = Field(30.0, ge=0, description="Regularisation of the standardised features.")


class ItemMeanSettings(Section):
    """Item mean: the baseline for ratings, and the fallback of other rating models."""

    shrinkage: float = Field(10.0, ge=0, description="Ratings of the global mean added to each item's own.")


class SegmentSettings(Section):
    """Segments: LDA on the users' histories (case study B)."""

    n_segments: int = Field(20, ge=2, description="Number of segments; 20 as in case study B.")
    passes: int = Field(3, ge=1, description="Passes over the histories.")
    batch_size: _Count = Field(
        "auto", description="Users per update of the topics: auto (a twentieth of them, 256 to 4,096), or a number."
    )
    learning_offset: float = Field(5.0, gt=0, description="Slows the first updates down.")
    learning_decay: float = Field(0.6, gt=0.5, le=1, description="How fast later updates weigh less.")
    n_jobs: int = Field(1, ge=1, description="Processes; another number gives (slightly) other segments.")
    seed: int = Field(0, ge=0, description="Seed of the topics.")


class EvaluationSettings(Section):
    """Scores: the models shown as `selected`, bootstrap and ties."""

    selected_rating_model: str = Field("stack", description="The model shown as 'selected' for ratings.")
    selected_ranking_model: str = Field(
        "auto",
        description="The model shown as 'selected' for top N; recommendations are made with it. auto: chosen on slices "
        "of the training ratings, see docs/decisions/quick-choice.md; with a name, nothing is chosen there.",
    )
    selected_response_model: str = Field(
        "response_stack", description="The model shown as 'selected' for the latest rating (case study B)."
    )
    selected_next_item_model: str = Field(
        "sessions", description="The model shown as 'selected' for the next item (case study B)."
    )
    n_resamples: int = Field(1_000, ge=100, description="Bootstrap resamples of users behind each interval.")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap and of the order of ties.")

    @field_validator(
        "selected_rating_model", "selected_ranking_model", "selected_response_model", "selected_next_item_model"
    )
    @classmethod
    def _model_is_known(cls, model: str, info: ValidationInfo) -> str:
        # Imported here, because most commands never need the models and would start more slowly.
        from recsys_assets.recommender.registry.fitting import entry
        from recsys_assets.recommender.tuning.searches import SELECTED_KNOBS

        tasks = {knob: task for task, knob in SELECTED_KNOBS.items()}
        knob = f"evaluation.{info.field_name}"
        return AUTO if (knob, model) == (SELECTED_KNOBS["top_n"], AUTO) else entry(tasks[knob], model).name


class StudySettings(Section):
    """Searches of `recsys-assets study`, which chooses settings and models on validation splits."""

    budget: int = Field(
        4,
        ge=1,
        description="Candidates tried per search, the built-in settings first; contests between models try all.",
    )
    searches: list[str] = Field(
        default_factory=list,
        description="Only these searches, such as ['als']; empty: all. See docs/how-to/run-a-study.md.",
    )
    seed: int = Field(0, ge=0, description="Seed of validation slices and of the order of candidates.")
    n_seeds: int = Field(
        3, ge=1, description="Seeds that models are fitted with under the pipeline's own splits; scores are the means."
    )

    @field_validator("searches")
    @classmethod
    def _searches_are_known(cls, searches: list[str]) -> list[str]:
        # Imported here, because most commands never need the study and would start more slowly.
        from recsys_assets.recommender.tuning.searches import SEARCHES

        known = [search.name for search in SEARCHES]
        for name in searches:
            if name not in known:
                raise ValueError(f"no search {name!r}; there are: {', '.join(known)}")
        return searches


class ServingSettings(Section):
    """The lists that users get."""

    n: int = Field(10, ge=1, description="Recommendations per user.")
    where: str = Field(
        "",
        description="SQL condition on the columns of items, such as 'year >= 1990 and available'; empty: all may be "
        "shown. See docs/how-to/rules-for-lists.md.",
    )
    exclude_rated: bool = Field(True, description="Leave out of a user's list what the user has rated.")
    exclude_rated_days: int = Field(
        0, ge=0, description="Only what was rated in the last so many days, before the latest rating of all; 0: all."
    )

    max_per_value: dict[str, int] = Field(
        default_factory=dict,
        description="At most so many items of one value in a list, by column: { genres = 3 }. `recsys-assets rules` "
        "prints what it costs.",
    )

    explore: int = Field(
        0,
        ge=0,
        description="Places of each list, at its end, for items that nobody has rated yet, chosen by their attributes.",
    )

    @field_validator("explore")
    @classmethod
    def _places_are_left(cls, explore: int, info: ValidationInfo) -> int:
        if explore > info.data.get("n", explore):
            raise ValueError("at most n, the length of a list")
        return explore

    @field_validator("max_per_value")
    @classmethod
    def _some_of_each_value(cls, most: dict[str, int]) -> dict[str, int]:
        for column, number in most.items():
            if number < 1:
                raise ValueError(f"{column}: at least 1")
        return most

    @field_validator("where")
    @classmethod
    def _where_is_a_condition(cls, where: str) -> str:
        if where.strip():
            # Imported here, because most commands never make lists and would start more slowly.
            from recsys_assets.recommender.ranking.rules import parsed

            parsed(where)
        return where

    @field_validator("exclude_rated_days")
    @classmethod
    def _days_of_what_is_excluded(cls, days: int, info: ValidationInfo) -> int:
        if days and info.data.get("exclude_rated") is False:
            raise ValueError("has no effect with exclude_rated = false; take one of the two away")
        return days


class SparkSettings(Section):
    """The Spark session. It starts when a step first needs it."""

    master: str = Field("local[*]", description="Spark master; 'spark://host:7077' for a cluster.")
    driver_memory: str = Field("4g", description="Memory of the driver, which is all of Spark on one machine.")
    shuffle_partitions: int = Field(4, ge=1, description="Partitions of a shuffle; Spark's 200 are for large clusters.")
    config: dict[str, str] = Field(default_factory=dict, description="Any further Spark properties.")


class ScaleSettings(Section):
    """Samples of large data. Smaller data are never sampled."""

    fit_ratings: int = Field(
        3_000_000,
        ge=1,
        description="Most ratings that a model is fitted on; of more, those of a sample of the users. Counts and means "
        "use all ratings, and every user gets recommendations.",
    )
    score_users: int = Field(
        20_000,
        ge=1,
        description="Most users that models are scored on; of more, a sample. Intervals say what it costs.",
    )


class RunSettings(Section):
    """Execution of runs."""

    executor: Literal["in_process", "multiprocess"] = Field(
        "in_process",
        description="in_process: one process and one JVM for all steps; multiprocess: a process, and where needed a "
        "JVM, per step.",
    )


class CheckSettings(Section):
    """Limits for changes of tables against the last good ones. To accept a change, raise its limit for one run."""

    max_row_drop: float = Field(
        0.5, ge=0, le=1, description="Share of the rows of users, items or ratings that may be lost; more is an error."
    )
    max_distribution_shift: float = Field(
        0.1, ge=0, le=1, description="Share of ratings with another value than before, above which a check warns."
    )
    max_segment_shift: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the users' affinity that has moved between segments, above which a check warns. A fit on "
        "slightly other ratings moves up to 0.17 by itself on MovieLens 1M.",
    )


class AutomationSettings(Section):
    """Automation while `recsys-assets serve` runs. A changed setting takes effect at the next start."""

    sensors: bool = Field(True, description="Watch landing/ for new data, and refresh when the ratings have changed.")
    schedule: bool = Field(True, description="Refresh at the times of `cron`.")
    tick_seconds: int = Field(5, ge=1, description="How often the sensors look.")
    quiet_seconds: float = Field(5, ge=0, description="What lands is read when it has not changed for this long.")
    cron: str = Field("0 3 * * 0", description="When to refresh, changed data or not: Sundays at 3.")
    time_zone: str = Field("UTC", description="Time zone of `cron`, such as Europe/Berlin.")

    @field_validator("cron")
    @classmethod
    def _cron_is_one(cls, cron: str) -> str:
        # Dagster's own check would import Dagster, which most commands never need.
        try:
            CronSim(cron, datetime.now())
        except CronSimError:
            is_valid = False
        else:
            is_valid = len(cron.split()) == _CRON_FIELDS
        if not is_valid:
            raise ValueError("five fields: minute, hour, day of the month, month, day of the week")
        return cron

    @field_validator("time_zone")
    @classmethod
    def _time_zone_exists(cls, time_zone: str) -> str:
        if time_zone not in available_timezones():
            raise ValueError("a name such as UTC or Europe/Berlin")
        return time_zone


class InstanceSettings(Section):
    """Where Dagster keeps the run history."""

    postgres_url_env: str = Field(
        "",
        description="Name of the environment variable that holds the URL of a PostgreSQL database, such as "
        "RECSYS_PG_URL; empty: files below dagster/ in the home.",
    )

    @field_validator("postgres_url_env")
    @classmethod
    def _is_the_name_of_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("has to be the name of an environment variable; the URL itself belongs into the variable")
        return name


class HistorySettings(Section):
    """How long finished runs and their logs are kept. Records that assets and checks need are always kept."""

    keep_days: float = Field(30, ge=0, description="Days after which a finished run is deleted.")
    keep_runs: int = Field(50, ge=1, description="Finished runs that are kept at most, the newest ones.")


class _Environment(EnvSettingsSource):
    """The RECSYS_ environment variables as a source of settings."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A list or table from JSON. Other text is returned as it is, so that validation names the variable later."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class Settings(BaseSettings):
    """All settings of a home."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    # Settings files; the first one takes precedence. Empty here: `load` sets the files of one home.
    files: ClassVar[tuple[Path, ...]] = ()

    engine: Literal["polars", "spark"] = Field(
        "polars", description="What computes the tables: polars on one machine, spark on a cluster."
    )
    data: DataSettings = DataSettings()
    splitting: SplittingSettings = SplittingSettings()
    clusters: ClusterSettings = ClusterSettings()
    cold_start: ColdStartSettings = ColdStartSettings()
    item_mean: ItemMeanSettings = ItemMeanSettings()
    als: ALSSettings = ALSSettings()
    user_item_bias: UserItemBiasSettings = UserItemBiasSettings()
    cluster_mean: ClusterMeanSettings = ClusterMeanSettings()
    bayesian_factors: FactorsSettings = FactorsSettings()
    profile_factors: ProfileFactorsSettings = ProfileFactorsSettings()
    attribute_effects: AttributeEffectsSettings = AttributeEffectsSettings()
    rating_neighbours: RatingNeighboursSettings = RatingNeighboursSettings()
    stack_holdout: StackHoldoutSettings = StackHoldoutSettings()
    stack: StackSettings = StackSettings()
    ranking: RankingSettings = RankingSettings()
    ease: EASESettings = EASESettings()
    liking: LikingSettings = LikingSettings()
    recent_popularity: RecentPopularitySettings = RecentPopularitySettings()
    item_knn: ItemKNNSettings = ItemKNNSettings()
    blend: BlendSettings = BlendSettings()
    segments: SegmentSettings = SegmentSettings()
    item_neighbours: ItemNeighboursSettings = ItemNeighboursSettings()
    segment_residuals: SegmentResidualSettings = SegmentResidualSettings()
    response_stack: ResponseStackSettings = ResponseStackSettings()
    next_ranking: NextRankingSettings = NextRankingSettings()
    next_ease: NextEASESettings = NextEASESettings()
    transitions: TransitionSettings = TransitionSettings()
    sessions: SessionSettings = SessionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    study: StudySettings = StudySettings()
    serving: ServingSettings = ServingSettings()
    scale: ScaleSettings = ScaleSettings()
    spark: SparkSettings = SparkSettings()
    run: RunSettings = RunSettings()
    checks: CheckSettings = CheckSettings()
    automation: AutomationSettings = AutomationSettings()
    instance: InstanceSettings = InstanceSettings()
    history: HistorySettings = HistorySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources in order of precedence: arguments, environment, `settings.toml`, `studied.toml`."""
        del env_settings, dotenv_settings, file_secret_settings
        # Each file is a source of its own: within one source, a section of one file would replace the whole section
        # of another.
        files = (InitSettingsSource(settings_cls, read_toml(path)) for path in cls.files)
        return init_settings, _Environment(settings_cls), *files

    @classmethod
    def load(cls, home: Home) -> "Settings":
        """The settings of a home.

        Raises:
            SettingsError: a file cannot be read, or a name or value is unknown or not allowed.
        """

        class SettingsOfHome(cls):  # type: ignore[valid-type, misc]
            files = (home.settings_file, home.studied_file)

        _check_sections_of_variables()
        try:
            return cls.model_validate(SettingsOfHome().model_dump())
        except ValidationError as error:
            faults = "; ".join(map(_told, error.errors()))
            studied = (
                f", {home.studied_file} (`recsys-assets study` writes it; you may delete it)"
                if home.studied_file.exists()
                else ""
            )
            raise SettingsError(
                f"{home.settings_file}{studied} or the RECSYS_ environment: {faults}. {_WAY_OUT}"
            ) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a settings file; empty if the file does not exist.

    Raises:
        SettingsError: the file is not UTF-8 or not TOML; the message names the line.
    """
    if not path.exists():
        return {}
    try:
        # Some editors write a byte order mark, which TOML does not allow.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}. Mend it, or delete it to go back to the built-in settings.") from None


def _check_sections_of_variables() -> None:
    """Refuse environment variables of an unknown section, because they would have no effect.

    A variable without a section, such as RECSYS_HOME, need not be a setting and is not refused.

    Raises:
        SettingsError: a variable names an unknown section.
    """
    sections = [name for name, field in Settings.model_fields.items() if isinstance(field.default, Section)]
    for variable in os.environ:
        found = re.match("RECSYS_(.*?)__", variable, re.IGNORECASE)
        if found and (section := found[1].lower()) not in sections:
            alike = get_close_matches(section, sections, n=1)
            hint = f"; the nearest is {alike[0]!r}" if alike else ""
            raise SettingsError(f"{variable} in the environment: there is no section {section!r}{hint}. {_WAY_OUT}")


def _told(fault: "ErrorDetails") -> str:
    """A fault with its source: the environment variable if it is set, else the name in the files."""
    variable = "RECSYS_" + "__".join(part for part in fault["loc"] if isinstance(part, str)).upper()
    given = next((name for name in os.environ if name.upper() == variable), None)
    place = given or ".".join(map(str, fault["loc"]))
    is_json = given and fault["type"] in ("list_type", "dict_type", "model_type")
    hint = "; in a variable, lists and tables are JSON, such as '[1, 5]'" if is_json else ""
    # Somebody may have written a URL with a password where the name of its variable belongs.
    found = "" if fault["loc"] == ("instance", "postgres_url_env") else f" (found {fault['input']!r})"
    return f"{place}: {fault['msg']}{found}{hint}"


def template() -> str:
    """A settings.toml with every setting: its meaning and, commented out, its default."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of this home. Take a # away to change a default."))
    document.add(tomlkit.comment("The environment goes before this file: RECSYS_ALS__RANK=20."))
    knobs = [
        "\n" + _commented(name, field.default, field.description)
        for name, field in Settings.model_fields.items()
        if not isinstance(field.default, Section)
    ]
    sections = [
        _section(name, field.default)
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, Section)
    ]
    return "".join([document.as_string(), *knobs, *sections])


def _section(name: str, section: Section) -> str:
    """A table of settings.toml. Inner tables come after its own settings, as TOML requires."""
    values = {key: (getattr(section, key), knob) for key, knob in type(section).model_fields.items()}
    own = [
        _commented(key, value, knob.description)
        for key, (value, knob) in values.items()
        if not isinstance(value, Section)
    ]
    inner = [_section(f"{name}.{key}", value) for key, (value, _) in values.items() if isinstance(value, Section)]
    return "".join([f"\n# {type(section).__doc__}\n[{name}]\n", *own, *inner])


def _commented(key: str, default: object, meaning: str | None) -> str:
    value = tomlkit.item(default).as_string() if not isinstance(default, dict) else "{}"
    return f"# {meaning}\n# {key} = {value}\n"
