"""Settings that follow the size of the data: `auto`, a multiple such as `auto * 0.3`, or a fixed number.

This module parses a setting. The rule behind `auto` is in the module of the model that has the setting. Each rule is
anchored at the value found on the training ratings of case study A (MovieLens 1M) and scales it with the data;
docs/decisions/automatic-settings.md lists the rules.
"""

import math

# A setting as the settings file holds it.
Setting = float | str

AUTO = "auto"
# Training ratings of case study A: their number, the number of their users, and the median number of ratings per user.
ANCHOR_RATINGS = 800_000
ANCHOR_USERS = 5_399
ANCHOR_MEDIAN = 86.0


def multiple(factor: float) -> str:
    """Return the setting that is `factor` times the rule."""
    return AUTO if factor == 1 else f"{AUTO} * {factor:g}"


def resolved(setting: Setting, auto: float) -> float:
    """Return the number that a setting stands for.

    Args:
        setting: a number, a number as text, `auto`, or a multiple of `auto`.
        auto: value of the rule for the data at hand.

    Raises:
        ValueError: the setting is none of these.

    Examples:
        >>> resolved("auto * 0.5", auto=3000.0)
        1500.0
        >>> resolved(20, auto=3000.0)
        20.0
    """
    text = str(setting)
    name, star, factor = (part.strip() for part in text.partition("*"))
    try:
        number = (float(factor) if star else 1.0) if name == AUTO else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is neither a number nor 'auto' nor a multiple of it such as 'auto * 0.3'")
    return auto * number if name == AUTO else number
