"""What every asset has: owners, a declared schema, a backfill policy; and the small helpers of their metadata."""

import base64
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
from altair.typing import ChartType

from recsys_assets.io_managers import column_schema, table_of
from recsys_assets.recommender.report.theme import to_png
from recsys_assets.settings import Settings

SettingsParam = dg.ResourceParam[Settings]
OWNERS = ["team:recsys"]
TABLE_KINDS = {"table", "parquet"}
MODEL_KINDS = {"model"}


def pipeline_asset(
    *,
    group: str,
    kinds: set[str],
    key: dg.AssetKey | Sequence[str] | str | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.asset` with what all assets of this pipeline share; the docstring becomes the description."""

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        asset_key = dg.AssetKey.from_coercible(key or function.__name__)
        table = table_of(asset_key)
        schema = {"dagster/column_schema": column_schema(table)} if table else {}
        with warnings.catch_warnings():
            # Beta, and meant: a range of batches, and what follows from it, is one run, one process, one JVM.
            warnings.simplefilter("ignore", dg.BetaWarning)
            return dg.asset(
                key=asset_key,
                group_name=group,
                kinds=kinds,
                owners=OWNERS,
                tags={"stage": group},
                metadata=schema,
                backfill_policy=dg.BackfillPolicy.single_run(),
                **options,
            )(function)

    return decorate


def picture(chart: ChartType) -> dg.MarkdownMetadataValue:
    """A chart as metadata: the UI shows it behind [Show Markdown]."""
    encoded = base64.b64encode(to_png(chart)).decode()
    return dg.MetadataValue.md(f"![chart](data:image/png;base64,{encoded})")
