"""What every asset has: owners, a declared schema, a backfill policy; and the small helpers of their metadata."""

import base64
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import dagster as dg
from altair.typing import ChartType

from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.io_managers import column_schema, table_of
from recsys_assets.orchestration.retries import decide_on_retry
from recsys_assets.recommender.registry import FITS
from recsys_assets.recommender.report.theme import to_png

SettingsParam = dg.ResourceParam[Settings]
OWNERS = ["team:recsys"]
TABLE_KINDS = {"table", "parquet"}
MODEL_KINDS = {"model"}
# What people look at and nothing that is recommended rests on, pictures above all, takes seconds: whatever else can be
# done is done first, so that new recommendations do not wait for it.
LAST = {"dagster/priority": "-1"}
# A backtest and a study fit the models themselves, with what they are made from.
_OF_EVERY_MODEL = ("clusters", "cold_start", "segments", *(fit.settings for fit in FITS))
# Beside the sections of the models that are fitted there.
_SETTINGS_OF_STAGE: Mapping[str, Sequence[str]] = {
    "ingest": ("data",),
    "splitting": ("splitting",),
    "clusters": ("clusters",),
    "cold_start": ("cold_start", "als"),
    "segments": ("segments",),
    "evaluation": ("evaluation",),
    "serving": ("evaluation", "serving"),
    "backtest": ("evaluation", *_OF_EVERY_MODEL),
    "study": ("study", "evaluation", "splitting", *_OF_EVERY_MODEL),
}


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
                hooks={decide_on_retry},
                **options,
            )(function)

    return decorate


def with_code_version(asset: dg.AssetsDefinition, settings: Settings) -> dg.AssetsDefinition:
    """The asset with a code version that changes with the package's version and the settings of the asset's stage.

    So the UI shows what was computed by other code, or with other settings, than the present ones.
    """

    def versioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        fitted = [fit.settings for fit in FITS if fit.group == spec.group_name]
        sections = dict.fromkeys([*_SETTINGS_OF_STAGE.get(spec.group_name or "", ()), *fitted])
        used = [settings.engine, *(getattr(settings, section).model_dump_json() for section in sections)]
        digest = hashlib.sha256("\n".join(used).encode()).hexdigest()[:8]
        return spec.replace_attributes(code_version=f"{version('recsys_assets')}-{digest}")

    return asset.map_asset_specs(versioned)


def pictures(
    title: str, draw: Callable[..., ChartType | list[ChartType] | None], *of: Any
) -> dict[str, dg.MarkdownMetadataValue]:
    """Charts as metadata: the UI shows each behind [Show Markdown].

    A picture never ends a run. Where there is none, for whatever reason, its place and a warning say why.

    Args:
        title: of the picture; several are numbered.
        draw: makes a chart, or several, or none where there is nothing to show.
        of: the arguments of `draw`.
    """
    try:
        drawn = draw(*of) or []
        charts = (
            {f"{title} {number}": chart for number, chart in enumerate(drawn, 1)}
            if isinstance(drawn, list)
            else {title: drawn}
        )
        return {name: _shown(to_png(chart)) for name, chart in charts.items()}
    except Exception as error:
        told = f"No picture '{title}': {type(error).__name__}: {error}"
        dg.get_dagster_logger().warning(told)
        return {title: dg.MetadataValue.md(told)}


def _shown(png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![chart](data:image/png;base64,{base64.b64encode(png).decode()})")
