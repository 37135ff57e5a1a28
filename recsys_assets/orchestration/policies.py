"""Policies of assets: how old what people look at may become. In one place, with the reason."""

from datetime import timedelta

import dagster as dg

# One missed weekly refresh is told, two are a failure.
_WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
# Only what people act on. Whatever is upstream is as old as these, and would say the same thing thirty times. A
# backtest is run when somebody asks for it: it has no age at which it is too old.
_FRESH = dg.AssetSelection.assets("evaluation_scores", "recommendations")


def with_policies(assets: list[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets with the policies that apply to them."""
    fresh = _FRESH.resolve(assets)

    def applied(spec: dg.AssetSpec) -> dg.AssetSpec:
        return dg.apply_freshness_policy(spec, _WEEKLY) if spec.key in fresh else spec

    return [asset.map_asset_specs(applied) for asset in assets]
