"""Published results of the two case studies, with their data.

The report shows them next to the computed scores and never mixes them in.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CaseStudy:
    """A case study: its name and the data behind its results."""

    name: str
    data: str
    users: int
    ratings: int

    def is_about(self, users: int, ratings: int) -> bool:
        """Whether data of this size are the data of the study, so that its results are comparable."""
        return (users, ratings) == (self.users, self.ratings)


@dataclass(frozen=True)
class Published:
    """One published value, and the row of `evaluation_scores` that reproduces it."""

    study: CaseStudy
    protocol: str
    model: str
    population: str
    metric: str
    value: float
    meaning: str


CASE_STUDY_A = CaseStudy("Case study A", "MovieLens 1M", users=6_040, ratings=1_000_209)
CASE_STUDY_B = CaseStudy("Case study B", "MovieLens latest, September 2018", users=283_228, ratings=27_753_444)

WITHOUT_FILL = Published(
    CASE_STUDY_A,
    "time_cut",
    "als_unadjusted",
    "all",
    "top5pct_rating_published",
    3.649750743827708,
    "rating of the top 5 %, ALS without the fill",
)
WITH_FILL = Published(
    CASE_STUDY_A,
    "time_cut",
    "als_adjusted",
    "all",
    "top5pct_rating_published",
    4.292578849721707,
    "rating of the top 5 %, ALS with cold users filled in",
)
SEGMENT_MEAN = Published(
    CASE_STUDY_B,
    "latest_rating",
    "segment_mean",
    "train_users",
    "r2",
    0.12653523375337905,
    "R² of the mean of (segment, item), on the training users",
)
PUBLISHED = (WITHOUT_FILL, WITH_FILL, SEGMENT_MEAN)
