"""A recommender pipeline as Dagster assets: `recsys_assets.build_defs` and docs/architecture.md."""
