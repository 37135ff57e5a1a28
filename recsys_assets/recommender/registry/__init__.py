"""The registry of models: each entry says what is fitted on what, and what is predicted from it.

An entry becomes a model asset and a predictions asset, and stands in every score table. Functions name the assets they
need by their parameters, as Dagster's own do. Adding a model means adding an entry in the module of its task.
"""

from recsys_assets.recommender.registry import latest_rating, next_movie, ratings, top_n
from recsys_assets.recommender.registry.derived import DERIVED
from recsys_assets.recommender.registry.types import Derived, Entry, Fit, Parameters, Task

FITS: tuple[Fit, ...] = (*ratings.FITS, *top_n.FITS, *latest_rating.FITS, *next_movie.FITS)
ENTRIES: tuple[Entry, ...] = (*ratings.ENTRIES, *top_n.ENTRIES, *latest_rating.ENTRIES, *next_movie.ENTRIES)

__all__ = ["DERIVED", "ENTRIES", "FITS", "Derived", "Entry", "Fit", "Parameters", "Task"]
