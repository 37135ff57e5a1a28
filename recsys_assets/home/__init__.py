"""A home on disk: where files lie, settings, versions of assets, batches, and what is remembered beside them.

No module here imports Dagster; runs belong to `orchestration`.
"""
