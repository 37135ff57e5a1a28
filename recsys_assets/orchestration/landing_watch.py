"""The cursor and the decisions of `landing_sensor`: for which landed batches to request a run.

The cursor holds the batches that were seen and requested. The event log holds the ingested ones: each raw table records
the fingerprint of its source. A lost cursor therefore costs hashing and no data. `home.landed` lists and hashes landed
files; the sensor itself is in `sensors`.
"""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import dagster as dg
from pydantic import BaseModel, ValidationError

from recsys_assets.home.batches import RAW_TABLES, read_batches
from recsys_assets.home.landed import Landed, fingerprint, landed
from recsys_assets.home.layout import Home
from recsys_assets.orchestration.assets.ingest import SOURCE_FINGERPRINT, ratings
from recsys_assets.orchestration.checks.results import was_good
from recsys_assets.orchestration.checks.rules import check_keys
from recsys_assets.orchestration.failures import causes, is_of_a_check, step_failures
from recsys_assets.orchestration.partitions import BATCHES
from recsys_assets.orchestration.verdicts import verdicts_of
from recsys_assets.recommender.ingest.errors import SourceError

SENSOR = "landing_sensor"
RAW = [dg.AssetKey(name) for name in RAW_TABLES]
MERGED = tuple(dg.AssetKey(name) for name in ("ratings", "users", "items"))
REQUEST_TAG = "recsys/request"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
# A file that looks truncated is read after this many quiet periods without a change, so that its fault is reported.
_PATIENCE = 10
# While a tick hashes, no other sensor ticks. The next tick hashes the remaining files.
_HASHING_SECONDS = 20.0
# After a temporary fault a batch is requested again: after a minute at first, then at doubled intervals up to an hour.
_AGAIN_SECONDS, _AGAIN_AT_MOST_SECONDS = 60.0, 3_600.0


class Seen(BaseModel):
    """State of one landed batch.

    Attributes:
        signature: signature of its files.
        since: time of the last change of the signature, in seconds since 1970.
        content: content fingerprint; empty until the batch is hashed.
        asked: content fingerprint of the last request, which is not repeated; empty if it is to be repeated.
        fault: why the last run did not read the batch; empty if it did.
        faults: number of runs that failed on this content for a temporary reason.
        again_at: earliest time of the next request, in seconds since 1970.
    """

    signature: str
    since: float
    content: str = ""
    asked: str = ""
    fault: str = ""
    faults: int = 0
    again_at: float = 0.0

    def failed(self, fault: str, *, may_pass: bool, now: float) -> None:
        """Record that a run did not read the batch."""
        self.fault = fault
        if may_pass:
            self.asked, self.faults = "", self.faults + 1
            self.again_at = now + self._pause

    def waits(self, now: float) -> bool:
        """Whether the next request has to wait. A clock that is set back does not make the pause longer."""
        return now < self.again_at <= now + self._pause

    @property
    def _pause(self) -> float:
        """Seconds between the last failed run and the next request."""
        return min(_AGAIN_SECONDS * 2 ** (self.faults - 1), _AGAIN_AT_MOST_SECONDS)


class Cursor(BaseModel):
    """The cursor of the sensor.

    Attributes:
        batches: landed batches by name.
        sequence: number of requests so far. It makes run keys of equal content differ.
        request: key of the last request until it is settled; then empty.
        requested: batches of the last request.
    """

    batches: dict[str, Seen] = {}
    sequence: int = 0
    request: str = ""
    requested: list[str] = []

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        """The stored cursor; an empty cursor if there is none or if it cannot be parsed."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError:
            return cls()


@dataclass
class Look:
    """Result of comparing `landing/` with the cursor.

    Attributes:
        cursor: the cursor to keep.
        waiting: why batches are not read yet, one line each.
        news: changes that a person should know, one line each.
    """

    cursor: Cursor
    waiting: list[str] = field(default_factory=list)
    news: list[str] = field(default_factory=list)


def look(home: Home, cursor: Cursor, *, quiet_seconds: float, now: float) -> Look:
    """Compare the landed files with the cursor: changed, quiet and complete, or gone.

    Args:
        home: the home with the landing folder.
        cursor: cursor of the previous tick.
        quiet_seconds: a file that has not changed for this long has stopped growing.
        now: seconds since 1970. If the clock is set back, every quiet period starts again.
    """
    result = Look(cursor.model_copy(deep=True))
    if not home.landing.is_dir():
        result.waiting.append(f"{home.landing} does not exist")
        return result
    batches, names = result.cursor.batches, home.landed_batches()
    found = {entry.name: entry for entry in landed(home)}
    result.waiting += [
        f"{name} cannot be read: this user may not open a folder, or the batch is changing"
        for name in names
        if name not in found
    ]
    gone = sorted(set(batches) - {*names, *found})
    # A batch that somebody removed, or that was never read, has no rows.
    read = read_batches(home) if gone else set()
    for name in gone:
        del batches[name]
        if name in read:
            result.news.append(f"{name} is no longer in landing/; its rows stay until the batch is removed")
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
    """Why landed batches were not read, one line per batch."""
    lines = []
    for name, seen in cursor.batches.items():
        if seen.fault:
            again = f" (again in {seen.again_at - now:.0f} s)" if seen.waits(now) else ""
            lines.append(f"{name} is not read: {seen.fault}{again}")
    return lines


def _seen(entry: Landed, before: Seen | None, now: float) -> Seen:
    if before and before.signature == entry.signature and (before.content or before.since <= now):
        return before
    known = before.model_dump(include={"asked", "fault"}) if before else {}
    return Seen(signature=entry.signature, since=now, **known)


def _waiting(entry: Landed, age: float, quiet_seconds: float) -> str:
    """Why a batch must wait; empty if it may be read."""
    if age < quiet_seconds or age <= 0:
        return f"waiting until {entry.name} has stopped growing"
    if not entry.files:
        return f"{entry.name} is empty"
    if age < quiet_seconds * _PATIENCE and not entry.is_complete:
        return f"{entry.name} is truncated; waiting for the rest"
    return ""


def _hash(entry: Landed, seen: Seen) -> str:
    """Hash a batch into `seen.content`; returns why that failed, or an empty string."""
    try:
        seen.content = fingerprint(entry.path)
    except (OSError, SourceError) as error:
        # The file was moved or locked after it was listed. The next tick tries again.
        return f"{entry.name} cannot be read: {error}"
    return ""


def settle(instance: dg.DagsterInstance, cursor: Cursor, now: float) -> list[str]:
    """Record the result of the last request, once its runs have ended.

    - A bad source is not requested again until it changes. The same holds for batches of a canceled run.
    - Batches that were requested together with a bad source are requested again at once, without the bad source.
    - After any other fault (disk, settings, machine) a batch is requested again later.

    Returns:
        Messages for the log of the sensor.
    """
    if not cursor.request:
        return []
    runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: cursor.request}))
    verdicts = {batch: found for run in runs for batch, found in verdicts_of(instance, run.run_id).items()}
    is_canceled = any(run.status == dg.DagsterRunStatus.CANCELED for run in runs)
    # A failed check refuses the merged tables. Only a person can say whether the change is intended.
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
    """The batches of the last request that it did not ingest.

    A batch that has changed since is left out, because it is requested anyway. If the request read all batches but
    did not merge them, the result is the last batch: reading it again leads to the merge.
    """
    requested = [name for name in cursor.requested if name in cursor.batches]
    asked = [name for name in requested if cursor.batches[name].content == cursor.batches[name].asked]
    known = instance.get_dynamic_partitions(str(BATCHES.name))
    unread = [
        name for name in asked if name not in known or ingested_content(instance, name) != cursor.batches[name].asked
    ]
    return unread or [name for name in asked if not _is_merged(instance, name)][-1:]


def _is_merged(instance: dg.DagsterInstance, batch: str) -> bool:
    """Whether `ratings` was materialized after the batch was read, and its run did not fail before the checks."""
    records = instance.fetch_materializations(ratings.key, limit=1).records
    return (
        bool(records)
        and records[0].storage_id > _last_event(instance, batch)
        and not any(unchecked_since(instance, key) for key in MERGED)
    )


def unchecked_since(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    """The run that materialized a merged table and failed before it was checked; empty if there is none."""
    records = instance.fetch_materializations(key, limit=1).records
    if not records or was_good(instance, check_keys(key)) is not None:
        return ""
    return records[0].run_id if _has_failed(instance, records[0].run_id) else ""


def _has_failed(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run and all its retries have ended without success.

    False for a run that was deleted, and for a materialization that a person reported in the UI.
    """
    _, group = (instance.has_run(run_id) and instance.get_run_group(run_id)) or ("", [])
    return bool(group) and not any(run.is_success or not run.is_finished for run in group)


def choose(instance: dg.DagsterInstance, cursor: Cursor, now: float) -> list[str]:
    """The batches to request a run for: new content, and content that is due to be requested again."""
    known = set(instance.get_dynamic_partitions(str(BATCHES.name)))
    wanted = []
    for name, seen in cursor.batches.items():
        if not seen.content or (seen.content == seen.asked and not seen.fault):
            continue
        if name in known and ingested_content(instance, name) == seen.content and _is_merged(instance, name):
            # Another run has ingested this content, or the files were rewritten with their old content.
            seen.asked, seen.fault = seen.content, ""
        elif seen.content != seen.asked and not seen.waits(now):
            wanted.append(name)
    return sorted(wanted)


def request(home: Home, instance: dg.DagsterInstance, cursor: Cursor, wanted: Sequence[str]) -> dg.SensorResult:
    """Request one ingest run per contiguous range of the batches, and mark the batches as requested.

    The merge reads the batches that have a partition. Batches that were never ingested and are not requested now lose
    their partition until they change, because the merge would fail on them; so do removed batches. Ingested batches
    that a new run history does not know get a partition, because their sources may be gone.
    """
    known, ingested = instance.get_dynamic_partitions(str(BATCHES.name)), read_batches(home)
    aside = [
        name
        for name in known
        if name not in {*wanted, *ingested} and (name not in cursor.batches or ingested_content(instance, name) is None)
    ]
    order = [name for name in known if name not in aside]
    new = sorted({*wanted, *ingested} - {*order})
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
    """Run tags for a contiguous range of batches."""
    return {
        _RANGE_START: batches[0],
        _RANGE_END: batches[-1],
    }


def contiguous(known: Sequence[str], wanted: Collection[str]) -> list[list[str]]:
    """The wanted batches split into contiguous ranges of `known`, because a run takes one range of partitions."""
    chosen = set(wanted)
    return [list(names) for is_wanted, names in groupby(known, lambda name: name in chosen) if is_wanted]


def selections(pieces: Sequence[Sequence[str]]) -> list[list[dg.AssetKey] | None]:
    """The assets to run for each range. Only the last range includes the merge, because it needs all batches."""
    return [*([RAW] * (len(pieces) - 1)), None]


def ingested_content(instance: dg.DagsterInstance, batch: str) -> str | None:
    """The content fingerprint that all raw tables of a batch recorded.

    None if a raw table is missing; an empty string if their fingerprints differ.
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
