"""Dagster partitions: the batches that ratings arrive in."""

import dagster as dg

BATCHES = dg.DynamicPartitionsDefinition(name="batches")
