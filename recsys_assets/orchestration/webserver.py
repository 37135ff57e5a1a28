"""Dagster's webserver behind the checks of `same_origin`. Run as a module, it is one process of `serve`.

Dagster's own command `dagster-webserver` would obey requests from any web page, and would upload the instance's logs.
"""

import argparse

import uvicorn
from dagster import DagsterInstance
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.cli import DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_MAX_OVERFLOW, DEFAULT_POOL_RECYCLE
from dagster_webserver.version import __version__

from recsys_assets.home.layout import Home
from recsys_assets.orchestration.dagster_internals import (
    IWorkspaceProcessContext,
    WorkspaceFileTarget,
    WorkspaceProcessContext,
    configure_loggers,
)
from recsys_assets.orchestration.report_page import report_route
from recsys_assets.orchestration.same_origin import HostNames, SameOriginOnly

# Interval at which the UI polls for events; the value of `dagster dev`.
_POLL_MILLISECONDS = 2000
# An open browser keeps its connection: without a limit the server would wait for it and never end.
_GRACE_SECONDS = 3


def guarded(context: IWorkspaceProcessContext, names: HostNames, home: Home) -> SameOriginOnly:
    """Dagster's web app with the report of a home, behind the checks of `same_origin`."""
    app = create_app_from_workspace_process_context(context, "", _POLL_MILLISECONDS)
    # In front: the last route of the UI answers every path.
    app.router.routes.insert(0, report_route(home))
    return SameOriginOnly(app, names)


def main() -> None:
    """Serve the instance of DAGSTER_HOME until a signal arrives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--allowed-host", action="append", default=[])
    parser.add_argument("--workspace", required=True)
    given = parser.parse_args()
    configure_loggers(log_level="WARNING")
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        target = WorkspaceFileTarget([given.workspace])
        with WorkspaceProcessContext(instance, target, version=__version__, code_server_log_level="warning") as context:
            uvicorn.run(
                guarded(context, HostNames(given.host, given.allowed_host), Home.resolve()),
                host=given.host,
                port=given.port,
                log_level="warning",
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )


if __name__ == "__main__":
    main()
