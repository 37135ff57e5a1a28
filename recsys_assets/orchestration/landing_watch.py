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

from recsys_assets.home.landed import Landed, fingerprint, landed
from recsys_assets.home.layout import Home
from recsys_assets.orchestration.assets.ingest import ASSETS as INGEST_ASSETS
from recsys_assets.orchestration.assets.ingest import SOURCE_FINGERPRINT, ratings
from recsys_assets.orchestration.failures import causes, is_of_a_check, step_failures
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.verdicts import verdicts_of
from recsys_assets.recommender.ingest.errors import SourceError

RAW = [asset.key for asset in INGEST_ASSETS if asset.partitions_def is not None]
REQUEST_TAG = "recsys/request"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
# What looks cut off is read after all when it has not changed for this many quiet periods, so that its fault is told.
_PATIENCE = 10
# A tick that takes longer than a minute is given up by Dagster; what is not hashed yet is hashed in the next.
_HASHING_SECONDS = 20.0
# After a fault that may pass a batch is asked for again, soon at first, at last once an hour.
_AGAIN_SECONDS, _AGAIN_AT_MOST_SECONDS = 60.0, 3_600.0


class Seen(BaseModel):
    """One batch as it was seen last.

    Attributes:
        signature: of its files, since `since`.
        since: seconds since 1970.
        content: its fingerprint; empty until it is known.
        asked: the content that a run was asked for, and not to be asked for again.
        fault: why the last run did not read it; empty where it did.
        faults: how many runs have failed at this content of something that may pass.
        again_at: when the next one may be asked for.
    """

    signature: str
    since: float
    content: str = ""
    asked: str = ""
    fault: str = ""
    faults: int = 0
    again_at: float = 0.0

    def failed(self, fault: str, *, may_pass: bool, now: float) -> None:
        """Take note of a run that did not read it."""
        self.fault = fault
        if may_pass:
            self.asked, self.faults = "", self.faults + 1
            self.again_at = now + min(_AGAIN_SECONDS * 2 ** (self.faults - 1), _AGAIN_AT_MOST_SECONDS)


class Cursor(BaseModel):
    """The memory of the sensor.

    Attributes:
        batches: what lies in landing/.
        sequence: how many requests there have been; it keeps run keys of equal content apart.
        request: the key of the last request that is not settled yet.
        requested: its batches.
    """

    batches: dict[str, Seen] = {}
    sequence: int = 0
    request: str = ""
    requested: list[str] = []

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
    result = Look(cursor.model_copy(deep=True))
    if not home.landing.is_dir():
        result.waiting.append(f"{home.landing} is not there")
        return result
    batches, names = result.cursor.batches, home.landed_batches()
    found = {entry.name: entry for entry in landed(home)}
    result.waiting += [
        f"{name} cannot be read: a folder is closed to this user, or it is just being changed"
        for name in names
        if name not in found
    ]
    for name in sorted(set(batches) - {*names, *found}):
        del batches[name]
        result.news.append(f"{name} is gone from landing/; what was read from it stays until it is removed")
    deadline = time.monotonic() + _HASHING_SECONDS
    for name, entry in found.items():
        if entry.fault:
            result.waiting.append(f"{name} is not read: {entry.fault}")
            continue
        batches[name] = _seen(entry, batches.get(name), now)
        if batches[name].content or time.monotonic() > deadline:
            continue
        waiting = _waiting(entry, now - batches[name].since, quiet_seconds) or _hash(entry, batches[name])
        if waiting:
            result.waiting.append(waiting)
    return result


def unread(cursor: Cursor, now: float) -> list[str]:
    """Which batches have landed and are not read, and why, one line for each."""
    lines = []
    for name, seen in cursor.batches.items():
        if seen.fault:
            again = f" (again in {seen.again_at - now:.0f} s)" if seen.again_at > now else ""
            lines.append(f"{name} is not read: {seen.fault}{again}")
    return lines


def _seen(entry: Landed, before: Seen | None, now: float) -> Seen:
    if before and before.signature == entry.signature and (before.content or before.since <= now):
        return before
    known = before.model_dump(include={"asked", "fault"}) if before else {}
    return Seen(signature=entry.signature, since=now, **known)


def _waiting(entry: Landed, age: float, quiet_seconds: float) -> str:
    """Why a batch is not read yet; nothing if it may be."""
    if age < quiet_seconds or age <= 0:
        return f"waiting until {entry.name} has stopped growing"
    if not entry.files:
        return f"{entry.name} is empty"
    if age < quiet_seconds * _PATIENCE and not entry.is_complete:
        return f"{entry.name} lacks its end; waiting for the rest"
    return ""


def _hash(entry: Landed, seen: Seen) -> str:
    """Take its fingerprint; why that could not be done, else nothing."""
    try:
        seen.content = fingerprint(entry.path)
    except (OSError, SourceError) as error:
        # Taken away or locked since it was listed; the next tick looks again.
        return f"{entry.name} cannot be read: {error}"
    return ""


def settle(instance: dg.DagsterInstance, cursor: Cursor, now: float) -> list[str]:
    """After the last request has ended: note what was ingested, and when to ask again for what was not.

    A bad source is not asked for again until it changes; nor is anything whose run somebody canceled. What was read
    together with a bad source is asked for at once, without it. After any other fault, of the disk, the settings or
    the machine, the same is asked for again a while later.

    Returns:
        What there is to say.
    """
    if not cursor.request:
        return []
    runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: cursor.request}))
    verdicts = {batch: found for run in runs for batch, found in verdicts_of(instance, run.run_id).items()}
    is_canceled = any(run.status == dg.DagsterRunStatus.CANCELED for run in runs)
    # A check that failed has refused what was merged: a person has to say whether it is meant.
    is_refused = any(is_of_a_check(error) for run in runs for _, error in step_failures(instance, run.run_id))
    fault = next((cause for run in runs for cause in causes(instance, run)), "no run was started for it")
    failed = _unread(instance, cursor)
    for name in failed:
        seen, verdict = cursor.batches[name], verdicts.get(name)
        if verdict:
            seen.failed(verdict.reason, may_pass=verdict.may_pass, now=now)
        elif verdicts:
            seen.asked = ""
        elif is_canceled:
            seen.failed("its run was canceled; `recsys-assets backfill` reads it", may_pass=False, now=now)
        else:
            seen.failed(fault, may_pass=not is_refused, now=now)
    cursor.request, cursor.requested = "", []
    told = [name for name in failed if cursor.batches[name].fault]
    return [f"{', '.join(told)} could not be ingested; failures.log says why"] if told else []


def _unread(instance: dg.DagsterInstance, cursor: Cursor) -> list[str]:
    """The batches of the last request that it did not read; what has changed meanwhile is asked for anyway.

    If it read all and then failed to merge them, the last one: to read that once more brings the merge about.
    """
    requested = [name for name in cursor.requested if name in cursor.batches]
    asked = [name for name in requested if cursor.batches[name].content == cursor.batches[name].asked]
    known = instance.get_dynamic_partitions(str(BATCHES.name))
    unread = [
        name for name in asked if name not in known or ingested_content(instance, name) != cursor.batches[name].asked
    ]
    return unread or [name for name in asked if not _is_merged(instance, name)][-1:]


def _is_merged(instance: dg.DagsterInstance, batch: str) -> bool:
    """Whether `ratings` was made after the batch was read."""
    records = instance.fetch_materializations(ratings.key, limit=1).records
    return bool(records) and records[0].storage_id > _last_event(instance, batch)


def choose(instance: dg.DagsterInstance, cursor: Cursor, now: float) -> list[str]:
    """The batches to ask a run for now: all with content that was not asked for, or is to be asked for again."""
    known = set(instance.get_dynamic_partitions(str(BATCHES.name)))
    wanted = []
    for name, seen in cursor.batches.items():
        if not seen.content or (seen.content == seen.asked and not seen.fault):
            continue
        if name in known and ingested_content(instance, name) == seen.content and _is_merged(instance, name):
            # By the command line or by hand; or its files were written anew with what they held before.
            seen.asked, seen.fault = seen.content, ""
        elif seen.content != seen.asked and seen.again_at <= now:
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
        cursor.batches[name].asked, cursor.batches[name].fault = cursor.batches[name].content, ""
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
        _RANGE_START: batches[0],
        _RANGE_END: batches[-1],
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
