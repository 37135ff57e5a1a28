"""Partitions definitions: landed batches, cut-offs of the backtest, protocols of the study.

The partitioned assets are in `assets`. Partitions of batches are added by `landing_watch`, `planning` and `backfill`.
"""

import dagster as dg

from recsys_assets.recommender.tuning.validation_splits import PROTOCOLS

BATCHES = dg.DynamicPartitionsDefinition(name="batches")
# Share of the ratings, in order of time, that a backtest trains on. It is scored on the next tenth.
CUT_OFFS = dg.StaticPartitionsDefinition(["0.5", "0.6", "0.7", "0.8", "0.9"])
# A study chooses settings and scores every model once per protocol.
PROTOCOL_PARTITIONS = dg.StaticPartitionsDefinition(list(PROTOCOLS))
