"""Why batches were not read: the run that was to read them records it in the event log, for whoever asked for the run.

One batch must not keep the others out. So a run names every batch that it cannot read before it fails, and what comes
next is one run without them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import dagster as dg

from recsys_assets.recommender.ingest.errors import SourceError

_REASON, _MAY_PASS = "why it was not read", "may be read later as it is"
# More batches than this are counted, not listed.
_TOLD = 20
Read = TypeVar("Read")


@dataclass(frozen=True)
class Verdict:
    """Why a batch was not read.

    Attributes:
        reason: in words, with the name of the batch.
        may_pass: whether the same content may be read another time: it is not the source that is bad.
    """

    reason: str
    may_pass: bool

    @classmethod
    def of(cls, batch: str, error: Exception) -> "Verdict":
        """A bad source stays bad; whatever else happens to a batch may be the disk, a mount, or a right to read."""
        if isinstance(error, SourceError):
            return cls(str(error), may_pass=False)
        return cls(f"Batch {batch}: {type(error).__name__}: {error}", may_pass=True)


class UnreadBatchesError(SourceError):
    """Some batches of a run were not read; nothing of any batch was stored in its step."""

    def __init__(self, verdicts: Iterable[Verdict]) -> None:
        reasons = [verdict.reason for verdict in verdicts]
        more = [f"and {len(reasons) - _TOLD} batches more"] if len(reasons) > _TOLD else []
        super().__init__("\n".join([*reasons[:_TOLD], *more]))


def read_each(context: dg.AssetExecutionContext, read: Callable[[str], Read]) -> dict[str, Read]:
    """What is read of each batch of the run.

    Raises:
        UnreadBatchesError: of those that cannot be read, each of which is recorded.
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
        context.log_event(dg.AssetObservation(context.asset_key, partition=batch, metadata=told))
    if verdicts:
        raise UnreadBatchesError(verdicts.values())
    return done


def verdicts_of(instance: dg.DagsterInstance, run_id: str) -> Mapping[str, Verdict]:
    """The batches that a run could not read, by name."""
    found = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION):
        observation = entry.asset_observation
        if observation and observation.partition and _REASON in observation.metadata:
            reason, may_pass = (observation.metadata[name].value for name in (_REASON, _MAY_PASS))
            found[observation.partition] = Verdict(str(reason), bool(may_pass))
    return found
