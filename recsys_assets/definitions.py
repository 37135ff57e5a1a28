"""The code location: what the Dagster UI, daemon and `dg` load."""

from recsys_assets.build import build_defs
from recsys_assets.home import Home, keep_private

keep_private()
home = Home.resolve()
if home.path.exists():
    # `dg dev` has made it, if nobody else has.
    home.close()

defs = build_defs(home=home)
