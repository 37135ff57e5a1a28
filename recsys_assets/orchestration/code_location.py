"""The names under which Dagster knows the code location. `workspace.yaml` and `pyproject.toml` say the same.

Dagster launches runs of a code location. The command line executes its runs itself; `adopt` makes them runs of the code
location, so that the UI lists them like all others.
"""

import dagster as dg

from recsys_assets.orchestration.dagster_internals import (
    REPOSITORY_LABEL_TAG,
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

LOCATION = "recsys_assets"
# The name that Dagster gives the repository of a code location with one `Definitions`.
REPOSITORY = "__repository__"
# Dagster lists a run under its job only with this tag, which it gives to runs that were launched from the UI.
REPOSITORY_TAG = {REPOSITORY_LABEL_TAG: f"{REPOSITORY}@{LOCATION}"}


def adopt(instance: dg.DagsterInstance, run_id: str) -> None:
    """Make a run that this process has created a run of the code location: the timeline shows no others.

    Only the process that executes the run may call this, because it writes the whole record of the run.
    """
    run = instance.get_run_by_id(run_id)
    assert run is not None
    location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), REPOSITORY)
    instance.run_storage.replace_job_origin(run, RemoteJobOrigin(location, run.job_name))
