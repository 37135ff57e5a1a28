"""Verdicts: why a run could not read some of its batches.

A run records its verdicts in the event log, where `landing_watch` and the command line read them. One bad batch must
not keep the others out: a run names every batch that it cannot read before it fails, so that one more run without them
is enough. Batches are judged in `home.batches`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import dagster as dg

from recsys_assets.home.batches import RAW_TABLES
from recsys_assets.recommender.ingest.errors import SourceError

_REASON, _MAY_PASS = "why it was not read", "may be read later as it is"
# An error message lists this many batches and counts the rest.
_TOLD = 20
_OBSERVED = dg.AssetKey(RAW_TABLES[0])
Read = TypeVar("Read")


@dataclass(frozen=True)
class Verdict:
    """Why a batch was not read.

    Attributes:
        reason: the reason in words, with the name of the batch.
        may_pass: whether the fault may be temporary, so that the same content may be read later.
    """

    reason: str
    may_pass: bool

    @classmethod
    def of(cls, batch: str, error: Exception) -> "Verdict":
        """A bad source stays bad. Any other error may be temporary: the disk, a mount, a missing permission."""
        if isinstance(error, SourceError):
            return cls(str(error), may_pass=False)
        return cls(f"Batch {batch}: {type(error).__name__}: {error}", may_pass=True)


class UnreadBatchesError(SourceError):
    """Some batches of a run could not be read. The step stored nothing of any batch."""

    def __init__(self, verdicts: Iterable[Verdict]) -> None:
        reasons = [verdict.reason for verdict in verdicts]
        more = [f"and {len(reasons) - _TOLD} batches more"] if len(reasons) > _TOLD else []
        super().__init__("\n".join([*reasons[:_TOLD], *more]))


def read_each(
    context: dg.AssetExecutionContext, read: Callable[[str], Read]
) -> tuple[Mapping[str, Read], Mapping[str, Verdict]]:
    """The result of `read` for each batch of the run that can be read, and a verdict on each other batch.

    The event log holds the verdicts too.
    """
    done, verdicts = {}, {}
    for batch in context.partition_keys:
        try:
            done[batch] = read(batch)
        except Exception as error:
            verdicts[batch] = Verdict.of(batch, error)
            if verdicts[batch].may_pass:
                context.log.debug(verdicts[batch].reason, exc_info=True)
    for batch, verdict in verdicts.items():
        told = {_REASON: dg.MetadataValue.text(verdict.reason), _MAY_PASS: dg.MetadataValue.bool(verdict.may_pass)}
        context.log_event(dg.AssetObservation(_OBSERVED, partition=batch, metadata=told))
    return done, verdicts


def verdicts_of(instance: dg.DagsterInstance, run_id: str) -> Mapping[str, Verdict]:
    """The verdicts of a run by batch."""
    found = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION):
        observation = entry.asset_observation
        if observation and observation.partition and _REASON in observation.metadata:
            reason, may_pass = (observation.metadata[name].value for name in (_REASON, _MAY_PASS))
            found[observation.partition] = Verdict(str(reason), bool(may_pass))
    return found
