"""Whether the stored `ratings` are the merge of what a home holds now, as far as the stored tables tell.

The run history knows more (`orchestration.planning`); commands that start no Dagster read the tables alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import polars as pl

from recsys_assets.home.batches import read_batches
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.exclusions import last_forgotten
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import STATE_FOLDER, AssetStore, load, scan, written
from recsys_assets.recommender.data.known import keeps_times
from recsys_assets.recommender.models.stored import StoredModel


@dataclass(frozen=True)
class MergedWith(StoredModel):
    """The settings that a merge depends on: the sample of the users and, of events, the damping.

    Attributes:
        settings: values by name, as JSON holds them.
    """

    settings: Mapping[str, object]

    @classmethod
    def of(cls, home: Home, settings: Settings) -> Self:
        """The settings of a merge in a home."""
        damping = {"damping": settings.data.event_damping} if kept_kind(home).is_events else {}
        return cls({"sample": settings.data.sample.model_dump(), **damping})


def rests_on_others(home: Home) -> bool:
    """Whether users were forgotten, batches removed, or sample or damping changed since the merge.

    Also whether a version before 0.11 merged events. A removed batch is not noticed if neither it nor a later batch has
    a row in the ratings; changed settings are not noticed if an earlier version merged, which did not store them.
    """
    store = AssetStore(home.assets)
    if not store.has(["ratings"]):
        return False
    version, forgotten = store.current(["ratings"]), last_forgotten(home)
    if forgotten is not None and written(version) < forgotten:
        return True
    state = version / STATE_FOLDER
    if state.is_dir() and load(MergedWith, state) != MergedWith.of(home, Settings.load(home)):
        return True
    ratings = scan(version)
    if kept_kind(home).is_events and not keeps_times(ratings):
        return True
    # The column numbers the batches of the merge from 0.
    last = ratings.to_native().select(pl.col("batch").max()).collect().item()
    return last is not None and last >= len(read_batches(home))
