"""Freshness policies: the age at which an asset counts as late.

All policies of assets are in this module. The schedule that keeps assets fresh is in `schedules`.
"""

from datetime import timedelta

import dagster as dg

# One missed weekly refresh is a warning, two are a failure.
_WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
# Only the assets that people act on. Upstream assets have the same age and would repeat the warning thirty times. A
# backtest runs on request, so it has no policy.
_FRESH = dg.AssetSelection.assets("evaluation_scores", "recommendations")


def with_policies(assets: list[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets with the policies that apply to them."""
    fresh = _FRESH.resolve(assets)

    def applied(spec: dg.AssetSpec) -> dg.AssetSpec:
        return dg.apply_freshness_policy(spec, _WEEKLY) if spec.key in fresh else spec

    return [asset.map_asset_specs(applied) for asset in assets]
