"""Settings that follow the data: `auto`, a multiple of it such as `auto * 0.3`, or a number that stays what it is.

What `auto` comes to is a rule beside the model that the setting belongs to. The rules grow and shrink with the data and
are anchored where the built-in numbers were found: on the training ratings of case study A, out of MovieLens 1M.
"""

import math

# A setting as it is written.
Setting = float | str

AUTO = "auto"
# The training ratings of case study A: how many, by how many users, and the median of a user.
ANCHOR_RATINGS = 800_000
ANCHOR_USERS = 5_399
ANCHOR_MEDIAN = 86.0


def multiple(factor: float) -> str:
    """That many times what the rule says."""
    return AUTO if factor == 1 else f"{AUTO} * {factor:g}"


def resolved(setting: Setting, auto: float) -> float:
    """The number that a setting stands for.

    Args:
        setting: a number, as such or as text, `auto`, or a multiple of it.
        auto: what the rule says of the data at hand.

    Raises:
        ValueError: it is nothing of these.
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
