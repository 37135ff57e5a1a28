"""The command line `recsys-assets`: parses arguments, calls `orchestration` and `home`, and prints results.

Commands run the same jobs and assets as the UI. Each module has a group of commands; `app` puts them together. A
command imports Dagster and Spark only when it needs them, so that help and look-ups answer at once.
"""

from recsys_assets.cli.app import app

__all__ = ["app"]
