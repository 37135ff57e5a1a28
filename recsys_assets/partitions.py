"""Dagster partitions: the batches that ratings arrive in, and the cut-offs of backtests."""

import dagster as dg

BATCHES = dg.DynamicPartitionsDefinition(name="batches")
# Share of the ratings, in time, that a backtest trains on; it is scored on the next tenth.
CUT_OFFS = dg.StaticPartitionsDefinition(["0.5", "0.6", "0.7", "0.8", "0.9"])
