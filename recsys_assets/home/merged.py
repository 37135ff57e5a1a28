"""Whether the stored `ratings` are the merge of what a home holds now, as far as the stored tables tell.

The run history knows more (`orchestration.planning`); commands that start no Dagster read the tables alone.
"""

import polars as pl

from recsys_assets.home.batches import read_batches
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.exclusions import last_forgotten
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import AssetStore, scan, written
from recsys_assets.recommender.data.known import keeps_times


def rests_on_others(home: Home) -> bool:
    """Whether users were forgotten, or batches removed, since the merge, or a version before 0.11 merged events.

    A removed batch is not noticed if neither it nor a later batch has a row in the ratings.
    """
    store = AssetStore(home.assets)
    if not store.has(["ratings"]):
        return False
    version, forgotten = store.current(["ratings"]), last_forgotten(home)
    if forgotten is not None and written(version) < forgotten:
        return True
    ratings = scan(version)
    if kept_kind(home).is_events and not keeps_times(ratings):
        return True
    # The column numbers the batches of the merge from 0.
    last = ratings.to_native().select(pl.col("batch").max()).collect().item()
    return last is not None and last >= len(read_batches(home))
