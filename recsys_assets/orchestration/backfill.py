"""Reads batches again by runs of the instance that serves the home, and waits for these runs.

`launch` reads batches again in its own process if the home is not served.
"""

import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import dagster as dg
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

from recsys_assets.errors import BatchesRefusedError, RunFailedError
from recsys_assets.home.batches import read_batches
from recsys_assets.home.layout import Home
from recsys_assets.home.served import served_at
from recsys_assets.orchestration.code_location import LOCATION, REPOSITORY
from recsys_assets.orchestration.dagster_internals import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG
from recsys_assets.orchestration.failures import reason, step_failures
from recsys_assets.orchestration.launch import Ended, carry_out, refused_by
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.planning import Launch, reading_again, reading_the_rest
from recsys_assets.orchestration.sensors import unfinished

_TIMEOUT_SECONDS = 60
_POLL_SECONDS = 0.5


def make_known(home: Home, batches: Sequence[str]) -> None:
    """Add partitions for new and ingested batches, in the order of their names, and delete those of batches never read.

    A merge would leave out an ingested batch that a new run history does not know, and fail on a batch that was never
    read. Such a batch stays in `landing/`: the next `run`, or the sensor once it changes, adds its partition again.
    """
    name = str(BATCHES.name)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        wanted, known = {*read_batches(home), *batches}, set(instance.get_dynamic_partitions(name))
        # A run in progress may be about to read such a batch.
        unread = set() if unfinished(instance) else known - wanted
        for batch in unread:
            instance.delete_dynamic_partition(name, batch)
        instance.add_dynamic_partitions(name, sorted(wanted - known))


def read_where_served(home: Home, address: str, batches: Sequence[str], say: Callable[[str], None]) -> None:
    """Read batches again, and merge them, by runs of the instance that serves the home.

    Args:
        home: the served home.
        address: address of its UI.
        batches: names of the batches.
        say: called with one line per run, which includes the address of the run's page.

    Raises:
        BatchesRefusedError: some batches were refused; the others are read and merged.
        RunFailedError: a run could not be launched, or failed for another reason.
    """
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:

        def attempt(wanted: Launch) -> Ended:
            run_id = _launched(address, wanted)
            say(f"{wanted.title}: {address}/runs/{run_id}")
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
        raise (RunFailedError if failures else BatchesRefusedError)("\n".join([*refused.values(), *failures]))


def _launched(address: str, wanted: Launch) -> str:
    """Launch a run and return its id.

    Raises:
        RunFailedError: the webserver does not answer, or refuses the launch.
    """
    try:
        # The client puts the host into a URL as it is, and `hostname` would lose the brackets of an IPv6 address.
        client = DagsterGraphQLClient(urlsplit(address).netloc, timeout=_TIMEOUT_SECONDS)
        return client.submit_job_execution(
            wanted.job,
            repository_location_name=LOCATION,
            repository_name=REPOSITORY,
            tags=wanted.tags,
            asset_selection=list(wanted.assets) or None,
        )
    except DagsterGraphQLClientError as error:
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise RunFailedError(f"{address} did not launch the run ({why}); it may still be starting.") from None


def _ended(home: Home, instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    """Wait for the end of a run, or of its retry if its worker died.

    Raises:
        RunFailedError: the home is not served any more, or the run was deleted.
    """
    while True:
        run = instance.get_run_by_id(run_id)
        if run is None:
            raise RunFailedError(f"Run {run_id} was deleted.")
        if run.is_finished and run.tags.get(WILL_RETRY_TAG) != "true":
            return run
        run_id = run.tags.get(AUTO_RETRY_RUN_ID_TAG, run_id)
        if served_at(home) is None:
            raise RunFailedError(f"`serve` has ended; the next `recsys-assets serve` continues run {run_id}.")
        time.sleep(_POLL_SECONDS)
