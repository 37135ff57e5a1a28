"""The command line `recsys-assets`: thin, the same jobs and assets as in the UI.

One module per group of commands; `app` puts them together. Nothing of Dagster or Spark is imported before a command
needs it, so that help and looks answer at once.
"""

from recsys_assets.cli.app import app

__all__ = ["app"]
