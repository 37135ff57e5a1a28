"""What `landing_sensor` remembers from tick to tick, and what it decides: for which batches to ask a run.

The cursor holds what was seen and asked for; what has been ingested is read from the event log, where each raw table
records the fingerprint of its source. So a cursor that is lost costs hashing, and no data.
"""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import dagster as dg
from pydantic import BaseModel, ValidationError

from recsys_assets.assets.ingest import ASSETS as INGEST_ASSETS
from recsys_assets.assets.ingest import SOURCE_FINGERPRINT
from recsys_assets.failures import step_failures
from recsys_assets.home import Home
from recsys_assets.landed import Landed, fingerprint, is_batch_name, landed
from recsys_assets.partitions import BATCHES
from recsys_assets.retries import was_bad_source

RAW = [asset.key for asset in INGEST_ASSETS if asset.partitions_def is not None]
REQUEST_TAG = "recsys/request"
# What looks cut off is read after all when it has not changed for this many quiet periods, so that its fault is told.
_PATIENCE = 10
# A tick that takes longer than a minute is given up by Dagster; what is not hashed yet is hashed in the next.
_HASHING_SECONDS = 20.0


class Seen(BaseModel):
    """One batch as it was seen last: `signature` since `since`, its `content`, and the content it was `asked` for."""

    signature: str
    since: float
    content: str = ""
    asked: str = ""


class Cursor(BaseModel):
    """The memory of the sensor.

    Attributes:
        batches: what lies in landing/.
        sequence: how many requests there have been; it keeps run keys of equal content apart.
        request: the key of the last request that is not settled yet.
        requested: its batches.
        parts: parts of a request that failed by a bad source, to be asked for one after the other.
    """

    batches: dict[str, Seen] = {}
    sequence: int = 0
    request: str = ""
    requested: list[str] = []
    parts: list[list[str]] = []

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        """The cursor that was stored; an empty one where there is none that can be read."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError:
            return cls()


@dataclass
class Look:
    """What one tick found: the cursor to keep, what is waited for, and what a person should know."""

    cursor: Cursor
    waiting: list[str] = field(default_factory=list)
    news: list[str] = field(default_factory=list)


def look(home: Home, cursor: Cursor, *, quiet_seconds: float, now: float) -> Look:
    """Take in what lies in landing/: what changed, what is quiet and complete, what is gone.

    Args:
        home: whose landing/.
        cursor: of the tick before.
        quiet_seconds: what has not changed for so long has stopped growing.
        now: seconds since 1970. A clock that is set back makes everything wait anew.
    """
    found = {entry.name: entry for entry in landed(home)}
    result = Look(cursor.model_copy(deep=True))
    batches = result.cursor.batches
    for name in sorted(set(batches) - set(found)):
        del batches[name]
        result.news.append(f"{name} is gone from landing/; what was read from it stays until it is removed")
    deadline = time.monotonic() + _HASHING_SECONDS
    for name, entry in found.items():
        if not is_batch_name(name):
            result.waiting.append(f"{name!r} is no name for a batch; rename it")
            continue
        batches[name] = _seen(entry, batches.get(name), now)
        if batches[name].content or time.monotonic() > deadline:
            continue
        if waiting := _waiting(entry, now - batches[name].since, quiet_seconds):
            result.waiting.append(waiting)
        else:
            _hash(entry, batches[name])
    return result


def _seen(entry: Landed, before: Seen | None, now: float) -> Seen:
    if before and before.signature == entry.signature and (before.content or before.since <= now):
        return before
    return Seen(signature=entry.signature, since=now, asked=before.asked if before else "")


def _waiting(entry: Landed, age: float, quiet_seconds: float) -> str:
    """Why a batch is not read yet; nothing if it may be."""
    if age < quiet_seconds or age <= 0:
        return f"waiting until {entry.name} has stopped growing"
    if not entry.files:
        return f"{entry.name} is empty"
    if age < quiet_seconds * _PATIENCE and not entry.is_complete:
        return f"{entry.name} lacks its end; waiting for the rest"
    return ""


def _hash(entry: Landed, seen: Seen) -> None:
    try:
        seen.content = fingerprint(entry.path)
    except OSError:
        # Taken away or locked since it was listed; the next tick looks again.
        return


def settle(instance: dg.DagsterInstance, cursor: Cursor) -> list[str]:
    """After the last request has ended: note what was ingested; split what failed because of a bad source.

    One bad batch fails the run of all that were asked for together. Its companions must not wait for a person, so the
    halves are asked for one after the other, until the bad one is alone.

    Returns:
        What there is to say.
    """
    if not cursor.request:
        return []
    known = instance.get_dynamic_partitions(str(BATCHES.name))
    failed = [
        name
        for name in cursor.requested
        if (seen := cursor.batches.get(name)) and seen.content == seen.asked
        if name not in known or ingested_content(instance, name) != seen.asked
    ]
    runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: cursor.request}))
    is_bad = any(was_bad_source(error) for run in runs for _, error in step_failures(instance, run.run_id))
    cursor.request, cursor.requested = "", []
    if failed and is_bad and len(failed) > 1:
        middle = len(failed) // 2
        cursor.parts = [failed[:middle], failed[middle:], *cursor.parts]
    if not failed:
        return []
    return [f"{', '.join(failed)} could not be ingested; failures.log says why"]


def choose(instance: dg.DagsterInstance, cursor: Cursor) -> list[str]:
    """The batches to ask a run for now: the next part of a request that failed, else all with content not asked for."""
    while cursor.parts:
        part = cursor.parts.pop(0)
        if still := [name for name in part if (seen := cursor.batches.get(name)) and seen.content == seen.asked]:
            return still
    known = set(instance.get_dynamic_partitions(str(BATCHES.name)))
    wanted = []
    for name, seen in cursor.batches.items():
        if not seen.content or seen.content == seen.asked:
            continue
        if name in known and ingested_content(instance, name) == seen.content:
            # By the command line or by hand; or its files were written anew with what they held before.
            seen.asked = seen.content
        else:
            wanted.append(name)
    return sorted(wanted)


def request(instance: dg.DagsterInstance, cursor: Cursor, wanted: Sequence[str]) -> dg.SensorResult:
    """One ingest run for the batches, or one per run of neighbours where they are not neighbours; marks them as asked.

    Batches that have never been ingested and are not asked for now are forgotten until they change: a merge over all
    batches would fail at them.
    """
    known = instance.get_dynamic_partitions(str(BATCHES.name))
    aside = [name for name in known if name not in wanted and ingested_content(instance, name) is None]
    order = [name for name in known if name not in aside]
    new = [name for name in wanted if name not in order]
    pieces = contiguous([*order, *new], wanted)
    cursor.sequence += 1
    for name in wanted:
        cursor.batches[name].asked = cursor.batches[name].content
    contents = [(name, cursor.batches[name].asked, _last_event(instance, name)) for name in wanted]
    key = hashlib.sha256(repr((cursor.sequence, contents)).encode()).hexdigest()[:32]
    cursor.request, cursor.requested = key, list(wanted)
    return dg.SensorResult(
        dynamic_partitions_requests=[
            *([BATCHES.build_delete_request(aside)] if aside else []),
            *([BATCHES.build_add_request(new)] if new else []),
        ],
        run_requests=_run_requests(key, pieces),
        cursor=cursor.model_dump_json(),
    )


def _run_requests(key: str, pieces: Sequence[Sequence[str]]) -> list[dg.RunRequest]:
    return [
        dg.RunRequest(
            run_key=f"{key}-{number}", tags={**range_tags(piece), REQUEST_TAG: key}, asset_selection=selection
        )
        for number, (piece, selection) in enumerate(zip(pieces, selections(pieces), strict=True))
    ]


def range_tags(batches: Sequence[str]) -> Mapping[str, str]:
    """A range of neighbouring batches as Dagster reads it."""
    return {
        "dagster/asset_partition_range_start": batches[0],
        "dagster/asset_partition_range_end": batches[-1],
    }


def contiguous(known: Sequence[str], wanted: Collection[str]) -> list[list[str]]:
    """The wanted batches in runs of neighbours, in the order in which batches became known: what a range can say."""
    chosen = set(wanted)
    return [list(names) for is_wanted, names in groupby(known, lambda name: name in chosen) if is_wanted]


def selections(pieces: Sequence[Sequence[str]]) -> list[list[dg.AssetKey] | None]:
    """What to run for each piece: only the last goes on to the merge, because before it a batch may be missing."""
    return [*([RAW] * (len(pieces) - 1)), None]


def ingested_content(instance: dg.DagsterInstance, batch: str) -> str | None:
    """The fingerprint of the source that all raw tables of a batch were read from.

    None where one is missing, an empty text where they do not agree.
    """
    found = []
    for key in RAW:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[batch]), limit=1
        ).records
        if not records or (materialization := records[0].asset_materialization) is None:
            return None
        recorded = materialization.metadata.get(SOURCE_FINGERPRINT)
        found.append(str(recorded.value) if recorded else "")
    return found[0] if len(set(found)) == 1 else ""


def _last_event(instance: dg.DagsterInstance, batch: str) -> int:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=RAW[0], asset_partitions=[batch]), limit=1
    ).records
    return records[0].storage_id if records else 0
