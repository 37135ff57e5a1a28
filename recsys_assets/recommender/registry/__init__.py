"""The registry: which model is fitted on which table, and how it predicts in which task.

The asset graph makes one model asset per `Fit` and one predictions asset per `Entry`, and every score table of a task
has a row for each of its entries. A function names the assets that it needs by its parameters, as in Dagster. A new
model needs a `Fit` and an `Entry` in the module of its task; the algorithm itself belongs in `models/`.
"""

from collections import Counter
from collections.abc import Iterable

from recsys_assets.recommender.registry import latest_rating, next_item, ratings, top_n
from recsys_assets.recommender.registry.derived import DERIVED
from recsys_assets.recommender.registry.types import Derived, Entry, Fit, Parameters, Task

FITS: tuple[Fit, ...] = (*ratings.FITS, *top_n.FITS, *latest_rating.FITS, *next_item.FITS)
ENTRIES: tuple[Entry, ...] = (*ratings.ENTRIES, *top_n.ENTRIES, *latest_rating.ENTRIES, *next_item.ENTRIES)

__all__ = ["DERIVED", "ENTRIES", "FITS", "Derived", "Entry", "Fit", "Parameters", "Task"]


def _refuse_duplicates(lists: str, names: Iterable[str]) -> None:
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(
            f"recommender/registry/: {lists} have the name {', '.join(twice)} more than once; choose another name. "
            "docs/reference/models.md lists the models."
        )


# Dagster would refuse the second asset as well, but with a key and without a file.
_refuse_duplicates("ENTRIES", (f"{entry.task}/{entry.name}" for entry in ENTRIES))
_refuse_duplicates("FITS and DERIVED", [*(fit.asset for fit in FITS), *(table.asset for table in DERIVED)])
