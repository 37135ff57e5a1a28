"""Dagster partitions: the batches that ratings arrive in, the cut-offs of backtests, the protocols of the study."""

import dagster as dg

from recsys_assets.recommender.tuning.slices import PROTOCOLS

BATCHES = dg.DynamicPartitionsDefinition(name="batches")
# Share of the ratings, in time, that a backtest trains on; it is scored on the next tenth.
CUT_OFFS = dg.StaticPartitionsDefinition(["0.5", "0.6", "0.7", "0.8", "0.9"])
# What a study chooses for, and scores every model under.
PROTOCOL_PARTITIONS = dg.StaticPartitionsDefinition(list(PROTOCOLS))
