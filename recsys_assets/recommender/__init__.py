"""The science and the data formats. Nothing here imports Dagster, knows a storage or keeps global state."""
