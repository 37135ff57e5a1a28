"""The code location: what the Dagster UI, daemon and `dg` load."""

from recsys_assets.build import build_defs

defs = build_defs()
