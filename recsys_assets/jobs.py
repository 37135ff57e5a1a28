"""Jobs: what is run together."""

import dagster as dg

_INGEST = dg.AssetSelection.groups("ingest")

ingest = dg.define_asset_job(
    "ingest",
    selection=_INGEST,
    description="Reads batches and merges them into `users`, `movies` and `ratings`. Launch it with a batch or a range "
    "of batches; without either Dagster starts a run that fails.",
)
refresh = dg.define_asset_job(
    "refresh",
    selection=dg.AssetSelection.all() - _INGEST,
    description="Everything after `ratings`: splits, models, scores, report, recommendations. Needs no batch.",
)
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all(),
    description="Both, for a batch or a range of batches; without either Dagster starts a run that fails.",
)

JOBS = [ingest, refresh, everything]
