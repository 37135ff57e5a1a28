"""The section `serving` of the settings: length and rules of the lists that users get."""

from pydantic import Field, ValidationInfo, field_validator

from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.ranking.rules import parsed


class ServingSettings(Section):
    """The lists that users get."""

    n: int = Field(10, ge=1, description="Recommendations per user.")
    where: str = Field(
        "",
        description="SQL condition on the columns of items, such as 'year >= 1990 and available'; empty: every item "
        "may be shown. See docs/how-to/rules-for-lists.md.",
    )
    exclude_rated: bool = Field(True, description="Leave out the items that the user has rated.")
    exclude_rated_days: int = Field(
        0,
        ge=0,
        description="Leave out only items that the user rated within this number of days before the latest rating of "
        "the home; 0: leave out all rated items.",
    )
    max_per_value: dict[str, int] = Field(
        default_factory=dict,
        description="Largest number of items with one value in a list, by column: { genres = 3 }. `recsys-assets "
        "rules` prints the cost of the limits.",
    )
    explore: int = Field(
        0,
        ge=0,
        description="Places at the end of each list for items that nobody has rated yet, chosen by their attributes. "
        "`recsys-assets rules` prints what these places cost and bring.",
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
            parsed(where)
        return where

    @field_validator("exclude_rated_days")
    @classmethod
    def _days_of_what_is_excluded(cls, days: int, info: ValidationInfo) -> int:
        if days and info.data.get("exclude_rated") is False:
            raise ValueError("has no effect with exclude_rated = false; take one of the two away")
        return days
