"""One catalogue on disk, the home: layout, settings, stored versions, batches, id map, promotions, exclusions, erasing.

No module here imports Dagster. Runs belong to `orchestration`, computations to `recommender`.
"""
