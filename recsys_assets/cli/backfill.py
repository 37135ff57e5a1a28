"""The command that reads batches again: in the running instance where the home is served, else in this process."""

import json
import time
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recsys_assets.cli.faults import require_history
from recsys_assets.cli.run import BatchesRefusedError, launch, locked
from recsys_assets.cli.serve import served_at
from recsys_assets.cli.terminal import CommandError, HomeOption, console, follow_up, nearest
from recsys_assets.home.batches import read_batches
from recsys_assets.home.layout import Home

if TYPE_CHECKING:
    import dagster as dg

    from recsys_assets.orchestration.launch import Launch

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
_POLL_SECONDS = 0.5


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(backfill)


def backfill(
    batches: Annotated[list[str], typer.Argument(help="The batches to read again, by the names in landing/.")],
    home: HomeOption = None,
) -> None:
    """Read batches again and merge them, as one run of the job `ingest` if they are neighbours.

    Where `recsys-assets serve` runs, the run is launched there and waited for (Ctrl-C ends the waiting only), and what
    depends on the ratings follows by itself if they have changed. Else it runs here; `recsys-assets run` refreshes the
    rest. A batch that is refused does not keep the others out: they are read and merged, and the exit status is 1.

    Examples: `recsys-assets backfill 2024-05.csv`, `recsys-assets backfill may june july`
    """
    import dagster as dg

    here, out = Home.resolve(home), console()
    here.prepare()
    require_history(here)
    _require_landed(here, batches)
    with dg.DagsterInstance.from_config(str(here.dagster)) as instance:
        if address := served_at(here):
            _make_known(here, instance, batches)
            _read_there(here, address, instance, batches, out)
            return
        with locked(here):
            _make_known(here, instance, batches)
            try:
                launch(here, out, again=batches)
            except BatchesRefusedError:
                _tell_next(here, out)
                raise
    _tell_next(here, out)


def _tell_next(home: Home, out: Console) -> None:
    out.print(f"Next: {follow_up('run', home)}", soft_wrap=True)


def _require_landed(home: Home, batches: Sequence[str]) -> None:
    landed = home.landed_batches()
    for name in batches:
        if name not in landed:
            alike = nearest(name, landed, whole=True)
            hint = f" Nearest: {', '.join(alike)}." if alike else ""
            raise CommandError(f"No batch {name!r} lies in {home.landing}.{hint}")


def _make_known(home: Home, instance: "dg.DagsterInstance", batches: Sequence[str]) -> None:
    """Make batches known that are new, together and by name, and forget what was never read: a merge would fail at it.

    What is forgotten lies in `landing/` and becomes known again by the next `run` or by the sensor, when it changes.
    """
    from recsys_assets.orchestration.partitions import BATCHES
    from recsys_assets.orchestration.sensors import unfinished

    name = str(BATCHES.name)
    known = set(instance.get_dynamic_partitions(name))
    # A run that is under way may be about to read it.
    unread = set() if unfinished(instance) else known - read_batches(home) - set(batches)
    for batch in unread:
        instance.delete_dynamic_partition(name, batch)
    instance.add_dynamic_partitions(name, sorted(set(batches) - known))


def _read_there(home: Home, address: str, instance: "dg.DagsterInstance", batches: Sequence[str], out: Console) -> None:
    """Read batches again in the instance that serves the home.

    Raises:
        BatchesRefusedError: some were refused; the others are read and merged.
        CommandError: a run failed otherwise.
    """
    from recsys_assets.orchestration.failures import reason, step_failures
    from recsys_assets.orchestration.launch import Ended, Launch, carry_out, reading_again, reading_the_rest, refused_by

    def attempt(wanted: Launch) -> Ended:
        run_id = _launched(address, wanted)
        out.print(f"{wanted.title}: {address}/runs/{run_id}", soft_wrap=True)
        ended = _ended(home, instance, run_id)
        if ended.is_success:
            return Ended(True)
        failures = [f"{step} failed: {reason(error)}" for step, error in step_failures(instance, ended.run_id)]
        told = failures or [f"The run ended as {ended.status.value}: {address}/runs/{ended.run_id}"]
        return Ended(False, refused_by(instance, ended.run_id), told)

    refused, failures = carry_out(
        reading_again(instance, batches),
        lambda read, refused: reading_the_rest(home, instance, batches, read=read, refused=refused),
        attempt,
    )
    if refused or failures:
        raise (CommandError if failures else BatchesRefusedError)("\n".join([*refused.values(), *failures]))
    out.print("Done")


def _launched(address: str, wanted: "Launch") -> str:
    """The id of a run that was launched."""
    selector: dict[str, Any] = {**_LOCATION, "jobName": wanted.job}
    if wanted.assets:
        selector["assetSelection"] = [{"path": list(key.path)} for key in wanted.assets]
    tags = [{"key": key, "value": value} for key, value in wanted.tags.items()]
    params = {"selector": selector, "mode": "default", "runConfigData": {}, "executionMetadata": {"tags": tags}}
    answer = graphql(address, _LAUNCH, {"params": params})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise CommandError(f"{address} did not launch the run: {json.dumps(answer)}")
    return str(answer["run"]["runId"])


def _ended(home: Home, instance: "dg.DagsterInstance", run_id: str) -> "dg.DagsterRun":
    """The run when it has ended, or the one that took it up after its worker died.

    Raises:
        CommandError: the home is served no more; or somebody has deleted the run.
    """
    from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

    while True:
        run = instance.get_run_by_id(run_id)
        if run is None:
            raise CommandError(f"Run {run_id} is gone.")
        if run.is_finished and run.tags.get(WILL_RETRY_TAG) != "true":
            return run
        run_id = run.tags.get(AUTO_RETRY_RUN_ID_TAG, run_id)
        if served_at(home) is None:
            raise CommandError(
                f"The home is served no more; run {run_id} is taken up by the next `recsys-assets serve`."
            )
        time.sleep(_POLL_SECONDS)


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
