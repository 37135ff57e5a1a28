"""A recommender pipeline as Dagster assets: see `recsys_assets.build.build_defs` and docs/architecture.md."""
