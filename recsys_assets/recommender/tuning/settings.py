"""The section `study` of the settings: what `recsys-assets study` tries. The searches themselves are in `searches`."""

from pydantic import Field, field_validator

from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.tuning.searches import SEARCHES


class StudySettings(Section):
    """Searches of `recsys-assets study`, which chooses settings and models on validation splits."""

    budget: int = Field(
        4,
        ge=1,
        description="Candidates per search, the built-in settings included; searches over models try all models.",
    )
    searches: list[str] = Field(
        default_factory=list,
        description="Only these searches, such as ['als']; empty: all. See docs/how-to/run-a-study.md.",
    )
    seed: int = Field(0, ge=0, description="Seed of the validation splits and of the order of candidates.")
    n_seeds: int = Field(
        3,
        ge=1,
        description="Number of seeds that models are fitted with under the pipeline's own splits; scores are means "
        "over the seeds.",
    )

    @field_validator("searches")
    @classmethod
    def _searches_are_known(cls, searches: list[str]) -> list[str]:
        known = [search.name for search in SEARCHES]
        for name in searches:
            if name not in known:
                raise ValueError(f"no search {name!r}; there are: {', '.join(known)}")
        return searches
