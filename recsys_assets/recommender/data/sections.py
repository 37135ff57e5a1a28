"""Sections of the settings: the base class, and numbers that may be `auto`.

The section of a model stands in the module of the model; `home/settings` composes all sections. A field has one
default and one meaning, and `settings.toml`, the UI and the fit read them from there. The docstring of a section is one
line, because `settings.toml` shows it as one comment.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from recsys_assets.recommender.data.automatic import AUTO, resolved


class Section(BaseModel):
    """A table of settings.toml. Unknown names are refused, because a misspelt setting would have no effect.

    Attributes:
        tried: values that a study tries, by setting; see `tuning/searches`.
    """

    # Fields that allow numbers and text ("0.8", 0.8, "auto") hold text, because Dagster's config has no such unions.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    tried: ClassVar[Mapping[str, tuple[Any, ...]]] = {}


def _at_least(low: float, *, above: bool = False) -> AfterValidator:
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


AnyNumber = Annotated[str, _at_least(-math.inf)]
NotNegative = Annotated[str, _at_least(0)]
Positive = Annotated[str, _at_least(0, above=True)]
Count = Annotated[str, _at_least(1)]
