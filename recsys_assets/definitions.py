"""The code location: what the Dagster UI, daemon and `dg` load."""

from recsys_assets.home.layout import Home, keep_private
from recsys_assets.orchestration.build import build_defs

keep_private()
home = Home.resolve()
if home.path.exists():
    # `dg dev` has made it, if nobody else has.
    home.close()

defs = build_defs(home=home)
