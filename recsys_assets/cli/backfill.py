"""The command that reads batches again: in the running instance where the home is served, else in this process."""

import json
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recsys_assets.cli.run import launch, locked
from recsys_assets.cli.serve import served_at
from recsys_assets.cli.terminal import CommandError, HomeOption, console, nearest
from recsys_assets.home import Home

if TYPE_CHECKING:
    import dagster as dg

# Neighbouring batches, and the assets to run for them; None for all of the job.
_Piece = tuple[list[str], "list[dg.AssetKey] | None"]
_LAUNCH = """
mutation Backfill($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
# The code location as workspace.yaml names it, and the name that Dagster gives the repository in it.
_LOCATION = {"repositoryLocationName": "recsys_assets", "repositoryName": "__repository__"}
_TIMEOUT_SECONDS = 60


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(backfill)


def backfill(
    batches: Annotated[list[str], typer.Argument(help="The batches to read again, by the names in landing/.")],
    home: HomeOption = None,
) -> None:
    """Read batches again and merge them, as one run of the job `ingest` if they are neighbours.

    Where `recsys-assets serve` runs, the run is launched there, and what depends on the ratings follows by itself if
    they have changed. Else it runs here; `recsys-assets run` refreshes the rest.

    Examples: `recsys-assets backfill 2024-05.csv`, `recsys-assets backfill may june july`
    """
    import dagster as dg

    from recsys_assets.cli.launch import Launch
    from recsys_assets.jobs import ingest

    here = Home.resolve(home)
    here.prepare()
    _require_landed(here, batches)
    with dg.DagsterInstance.from_config(str(here.dagster)) as instance:
        pieces = _pieces(instance, batches)
    if address := served_at(here):
        _launch_there(address, pieces, console())
        return
    with locked(here):
        titles = [Launch(ingest.name, f"Ingesting {', '.join(piece)}", piece, keys or ()) for piece, keys in pieces]
        launch(here, console(), titles)
    console().print("Next: recsys-assets run", soft_wrap=True)


def _require_landed(home: Home, batches: Sequence[str]) -> None:
    landed = home.landed_batches()
    for name in batches:
        if name not in landed:
            alike = nearest(name, landed, whole=True)
            hint = f" Nearest: {', '.join(alike)}." if alike else ""
            raise CommandError(f"No batch {name!r} lies in {home.landing}.{hint}")


def _pieces(instance: "dg.DagsterInstance", batches: Sequence[str]) -> list[_Piece]:
    """The batches in runs of neighbours, each with the assets to run, after those that are new have become known."""
    from recsys_assets.landing_watch import contiguous, selections
    from recsys_assets.partitions import BATCHES

    name = str(BATCHES.name)
    instance.add_dynamic_partitions(name, sorted(set(batches) - set(instance.get_dynamic_partitions(name))))
    pieces = contiguous(instance.get_dynamic_partitions(name), batches)
    return list(zip(pieces, selections(pieces), strict=True))


def _launch_there(address: str, pieces: Sequence[_Piece], out: Console) -> None:
    from recsys_assets.landing_watch import range_tags

    for piece, selection in pieces:
        selector: dict[str, Any] = {**_LOCATION, "jobName": "ingest"}
        if selection:
            selector["assetSelection"] = [{"path": list(key.path)} for key in selection]
        tags = [{"key": key, "value": value} for key, value in range_tags(piece).items()]
        params = {"selector": selector, "mode": "default", "runConfigData": {}, "executionMetadata": {"tags": tags}}
        answer = graphql(address, _LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise CommandError(f"{address} did not launch the run: {json.dumps(answer)}")
        out.print(f"Launched: {address}/runs/{answer['run']['runId']}", soft_wrap=True)


def graphql(address: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What the webserver answers.

    Raises:
        CommandError: it does not answer, or refuses the query.
    """
    body = json.dumps({"query": query, "variables": variables}).encode()
    asked = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_SECONDS) as stream:
            answer = json.load(stream)
    except OSError as error:
        raise CommandError(f"{address} does not answer ({error}); it may still be starting.") from None
    if answer.get("errors"):
        raise CommandError(f"{address} refuses: {answer['errors'][0]['message']}")
    return dict(answer["data"])
