"""Which tasks, models and predictions exist for which kind of data."""

from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.registry import ENTRIES, FITS, Entry, Fit, Task
from recsys_assets.recommender.registry.fitting import steps_behind

# The segments describe the users of every kind of data, also if no entry predicts with them.
_ALWAYS = ("segment_model",)


def tasks_of(kind: DataKind) -> tuple[Task, ...]:
    """Return the tasks of a kind of data. The latest rating and the next item need an order of the ratings."""
    return ("time_cut", "top_n", "latest_rating", "next_item") if kind.times else ("time_cut", "top_n")


def entries_of(kind: DataKind) -> tuple[Entry, ...]:
    """Return the entries of the tasks of a kind of data."""
    return tuple(entry for entry in ENTRIES if entry.task in tasks_of(kind))


def fits_of(kind: DataKind) -> tuple[Fit, ...]:
    """Return the fits that these entries need, directly or through other steps, and those of the segments."""
    names = {name for entry in entries_of(kind) for name in entry.needs}
    needed = {step.asset for name in {*names, *_ALWAYS} for step in steps_behind(name)}
    return tuple(fit for fit in FITS if fit.asset in needed)
