"""Which tasks, models and predictions exist for which kind of data."""

from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.registry import ENTRIES, FITS, Entry, Fit, Task
from recsys_assets.recommender.registry.fitting import steps_behind

# The segments describe the users of every kind of data, also if no entry predicts with them.
_ALWAYS = ("segment_model",)
_RATING_TASKS = ("time_cut", "latest_rating")
_IN_ORDER = ("latest_rating", "next_item")


def has_task(kind: DataKind, task: Task) -> bool:
    """Return whether a kind of data has a task.

    Events have no rating to predict. The latest rating and the next item need an order of the ratings.
    """
    return not (kind.is_events and task in _RATING_TASKS) and (kind.times or task not in _IN_ORDER)


def has_entry(kind: DataKind, entry: Entry) -> bool:
    """Return whether a kind of data has an entry of the registry."""
    return has_task(kind, entry.task) and not (kind.is_events and entry.ranks_by_rating)


def entries_of(kind: DataKind) -> tuple[Entry, ...]:
    """Return the entries of a kind of data."""
    return tuple(entry for entry in ENTRIES if has_entry(kind, entry))


def fits_of(kind: DataKind) -> tuple[Fit, ...]:
    """Return the fits that the entries of a kind of data need, directly or through other steps, and the segments."""
    names = {name for entry in entries_of(kind) for name in entry.needs}
    needed = {step.asset for name in {*names, *_ALWAYS} for step in steps_behind(name)}
    return tuple(fit for fit in FITS if fit.asset in needed)
