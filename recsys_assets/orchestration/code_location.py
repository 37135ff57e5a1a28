"""The names under which Dagster knows the code location. `workspace.yaml` and `pyproject.toml` say the same."""

from recsys_assets.orchestration.dagster_internals import REPOSITORY_LABEL_TAG

LOCATION = "recsys_assets"
# The name that Dagster gives the repository of a code location with one `Definitions`.
REPOSITORY = "__repository__"
# Dagster lists a run under its job only with this tag, which it gives to runs that were launched from the UI.
REPOSITORY_TAG = {REPOSITORY_LABEL_TAG: f"{REPOSITORY}@{LOCATION}"}
