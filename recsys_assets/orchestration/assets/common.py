"""The decorator `pipeline_asset`, code versions and chart metadata: everything that the assets share.

The assets themselves are in the modules beside this one.
"""

import base64
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import dagster as dg

from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.io_managers import column_schema, table_of
from recsys_assets.orchestration.retries import decide_on_retry
from recsys_assets.recommender.registry import DERIVED, ENTRIES, FITS
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.report.theme import Spec, alternative_text, to_png

SettingsParam = dg.ResourceParam[Settings]
TABLE_KINDS = {"table", "parquet"}
MODEL_KINDS = {"model"}
# Charts take seconds, and recommendations do not depend on them. They run last, so that recommendations do not wait.
LAST = {"dagster/priority": "-1"}
# The settings sections that the models and the derived tables depend on.
SETTINGS_OF_MODELS = tuple(
    dict.fromkeys([*(of.settings for of in FITS), *(of.settings for of in DERIVED if of.settings)])
)
_SETTINGS = "settings"


def pipeline_asset(
    *,
    group: str,
    kinds: set[str],
    key: dg.AssetKey | Sequence[str] | str | None = None,
    settings: Sequence[str] = (),
    code: str = "",
    fits_models: bool = False,
    **options: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.asset` with the options that all assets of this pipeline share.

    The docstring of the function becomes the description of the asset.

    Args:
        group: the stage.
        kinds: shown in the UI.
        key: asset key; the function's name by default.
        settings: settings sections that the result depends on.
        code: hash of the code that makes the result; by default the hash of the function's module.
        fits_models: whether the asset may fit any model of the registry. The code version then covers the code and
            settings of all models.
        options: passed on to `dagster.asset`.
    """
    sections = (*settings, *SETTINGS_OF_MODELS) if fits_models else tuple(settings)

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        asset_key = dg.AssetKey.from_coercible(key or function.__name__)
        made_by = (code or SOURCES.code_of_module(function.__module__)) + (_code_of_models() if fits_models else "")
        with _beta_is_meant():
            return dg.asset(
                key=asset_key,
                group_name=group,
                kinds=kinds,
                tags={"stage": group},
                metadata=_metadata(asset_key, sections),
                code_version=made_by,
                backfill_policy=dg.BackfillPolicy.single_run(),
                hooks={decide_on_retry},
                **options,
            )(function)

    return decorate


def tables_of_one_step(
    *,
    group: str,
    tables: Mapping[str, str],
    settings: Sequence[str] = (),
    **options: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.multi_asset` with the options that all assets of this pipeline share. A run may select some of them.

    Args:
        group: the stage.
        tables: name and description of each table.
        settings: settings sections that the tables depend on.
        options: passed on to `dagster.multi_asset`.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        made_by = SOURCES.code_of_module(function.__module__)
        outs = {
            name: dg.AssetOut(
                key=name,
                description=description,
                kinds=TABLE_KINDS,
                tags={"stage": group},
                metadata=_metadata(dg.AssetKey(name), settings),
                code_version=made_by,
                is_required=False,
            )
            for name, description in tables.items()
        }
        with _beta_is_meant():
            return dg.multi_asset(
                outs=outs,
                group_name=group,
                backfill_policy=dg.BackfillPolicy.single_run(),
                hooks={decide_on_retry},
                can_subset=True,
                **options,
            )(function)

    return decorate


@contextmanager
def _beta_is_meant() -> Iterator[None]:
    """The backfill policy is beta. It makes a range of batches one run, hence one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield


def _metadata(key: dg.AssetKey, sections: Sequence[str]) -> dict[str, Any]:
    if unknown := [section for section in sections if section not in Settings.model_fields]:
        raise ValueError(
            f"{key.to_user_string()}: there is no section {', '.join(unknown)} in the settings. "
            "Name the section in the class Settings of home/settings.py."
        )
    table = table_of(key)
    schema = {"dagster/column_schema": column_schema(table)} if table else {}
    return schema | ({_SETTINGS: ", ".join(dict.fromkeys(sections))} if sections else {})


@cache
def _code_of_models() -> str:
    return SOURCES.code_of_everything((*FITS, *DERIVED), ENTRIES)


def with_settings(asset: dg.AssetsDefinition, settings: Settings) -> dg.AssetsDefinition:
    """The asset with a code version that covers its code, its settings and the engine; and with the owners.

    The UI therefore shows an asset as outdated if its code or its settings have changed since it was materialized.
    """

    def versioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        used = [getattr(settings, section).model_dump_json() for section in sections_of(spec)]
        # `auto` chooses between engines that give the same tables.
        engine = "spark" if settings.engine == "spark" else "polars"
        facts = [str(spec.code_version), engine, *used]
        code_version = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
        return spec.replace_attributes(code_version=code_version, owners=settings.instance.owners)

    return asset.map_asset_specs(versioned)


def sections_of(spec: dg.AssetSpec) -> list[str]:
    """The settings sections that an asset depends on."""
    return [section for section in str(spec.metadata.get(_SETTINGS, "")).split(", ") if section]


def pictures(
    title: str, draw: Callable[..., Spec | list[Spec] | None], *of: Any
) -> dict[str, dg.MarkdownMetadataValue]:
    """Charts as metadata: the UI shows each chart behind [Show Markdown].

    A chart never fails a run. If drawing raises any error, the metadata and a warning in the log say why.

    Args:
        title: title of the chart; several charts are numbered.
        draw: returns a chart, a list of charts, or None if there is nothing to show.
        of: arguments of `draw`.
    """
    try:
        drawn = draw(*of) or []
        charts = (
            {f"{title} {number}": chart for number, chart in enumerate(drawn, 1)}
            if isinstance(drawn, list)
            else {title: drawn}
        )
        return {name: _shown(chart) for name, chart in charts.items()}
    except Exception as error:
        told = f"No picture '{title}': {type(error).__name__}: {error}"
        dg.get_dagster_logger().warning(told)
        return {title: dg.MetadataValue.md(told)}


def _shown(chart: Spec) -> dg.MarkdownMetadataValue:
    # Brackets and line breaks would end the alternative text.
    text = re.sub(r"[\[\]\s]+", " ", alternative_text(chart))
    return dg.MetadataValue.md(f"![{text}](data:image/png;base64,{base64.b64encode(to_png(chart)).decode()})")


def plotted(number: float) -> float:
    """A number for the UI, which plots it over materializations and shows every digit: four significant ones."""
    return float(f"{number:.4g}")
