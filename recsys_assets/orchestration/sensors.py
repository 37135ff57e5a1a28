"""Sensors: requests for runs after a change (landed data, new content of the ratings), and the log of failed runs.

The jobs are in `jobs`, the cursor and decisions of `landing_sensor` in `landing_watch`, retries in `retries`,
schedules in `schedules`. docs/how-to/automate.md gives the reasons.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from recsys_assets.home import remote
from recsys_assets.home.layout import Home
from recsys_assets.home.lock import is_locked
from recsys_assets.home.running import AutomationSettings
from recsys_assets.home.versions import AssetStore
from recsys_assets.orchestration.assets.serving import recommendations, similar_items
from recsys_assets.orchestration.checks.results import was_good
from recsys_assets.orchestration.checks.rules import check_keys
from recsys_assets.orchestration.failures import one_line
from recsys_assets.orchestration.jobs import JOBS, ingest, recommend, refresh, refresh_served
from recsys_assets.orchestration.landing_watch import (
    SENSOR,
    Cursor,
    choose,
    look,
    request,
    settle,
    unchecked_since,
    unread,
)
from recsys_assets.orchestration.repeats import CONTENT_TAG, repeat_of

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# A change of these tables triggers a refresh. New users get recommendations, and new items are recommended, before
# they have a rating.
_MERGED = ("ratings", "users", "items")
_DECISION, _REPORT = map(dg.AssetKey, ("promoted_configuration", "evaluation_report"))
_MODEL, _SERVED = "serving_model", (recommendations.key, similar_items.key)
_INPUT = "dagster/input_data_version/"
# The last assets of each run that `retrain_sensor` requests. They tell which content of the merged tables the last such
# run used.
_ENDS = {recommend.name: _SERVED, refresh_served.name: (*_SERVED, _DECISION), refresh.name: (*_SERVED, _REPORT)}
# `refresh_served` reads the settings that the last `refresh` has chosen.
_CHOICE = dg.AssetKey("quick_choice")
_NOTES_SHOWN = 10
_SEEN = dg.SkipReason("the last refresh has seen these ratings")


def build_sensors(
    home: Home,
    settings: AutomationSettings,
    jobs: Mapping[str, Any] = JOBS,
    outdated: Callable[[], str] = lambda: "",
) -> list[dg.SensorDefinition]:
    """The sensors of a home. Settings say whether they are on by default.

    Args:
        home: the home.
        settings: settings of the sensors.
        jobs: the jobs of the definitions, by name.
        outdated: returns why no run may be requested from the loaded asset graph; empty if one may.
    """
    status = dg.DefaultSensorStatus.RUNNING if settings.sensors else dg.DefaultSensorStatus.STOPPED
    tick = settings.tick_seconds

    @dg.sensor(
        name=SENSOR,
        job=jobs[ingest.name],
        minimum_interval_seconds=tick,
        default_status=status,
        description="Requests one run of `ingest` for all landed batches that are complete and not ingested yet.",
    )
    def landing_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if refused := outdated():
            return dg.SkipReason(refused)
        return watch_landing(context, home, settings.quiet_seconds)

    @dg.sensor(
        jobs=[jobs[name] for name in _ENDS],
        minimum_interval_seconds=tick,
        default_status=status,
        description=f"Requests `{settings.sensor_job}` when the content of `ratings`, `users` or `items` has changed, "
        "and `refresh` if no configuration is in use yet. A run of `recommend` comes before `refresh`, so that new "
        "users get recommendations without waiting for scores. A refresh that failed for a temporary cause is "
        "requested again up to six times, after growing pauses.",
    )
    def retrain_sensor(context: dg.SensorEvaluationContext) -> Sequence[dg.RunRequest] | dg.SkipReason:
        if refused := outdated():
            return dg.SkipReason(refused)
        is_used = is_chosen(home)
        asked = watch_ratings(context, home, settings.sensor_job if is_used else refresh.name)
        if isinstance(asked, dg.SkipReason):
            return asked
        waits = is_used and asked.job_name == refresh.name and CONTENT_TAG in asked.tags
        first = dg.RunRequest(run_key=f"{asked.run_key}-{recommend.name}", job_name=recommend.name, tags=asked.tags)
        return [first, asked] if waits else [asked]

    @dg.run_failure_sensor(
        name="failure_log",
        monitor_all_code_locations=True,
        minimum_interval_seconds=tick,
        default_status=status,
        description="Writes one line per failed run to `failures.log` in the home.",
    )
    def failure_log(context: dg.RunFailureSensorContext) -> None:
        record_failure(context, home)

    return [landing_sensor, retrain_sensor, failure_log]


def is_chosen(home: Home) -> bool:
    """Whether a home has what `refresh_served` needs: a configuration in use and the last choice of settings."""
    store = AssetStore(home.assets)
    return store.has(_DECISION.path) and store.has(_CHOICE.path)


def watch_landing(context: dg.SensorEvaluationContext, home: Home, quiet_seconds: float) -> dg.SensorResult:
    """One tick of `landing_sensor`."""
    remote.pull(home.path, landing=True)
    now = time.time()
    found = look(home, Cursor.parse(context.cursor), quiet_seconds=quiet_seconds, now=now)
    cursor, wanted = found.cursor, list[str]()
    if is_busy(context.instance, home):
        # The run may be ingesting these very batches. Batches that land during the run are requested together after it.
        found.waiting.append("a run is in progress")
    else:
        found.news += settle(context.instance, cursor, now)
        wanted = choose(context.instance, cursor, now)
    for line in found.news:
        context.log.warning(line)
    if wanted:
        return request(home, context.instance, cursor, wanted)
    notes = [*found.news, *found.waiting, *unread(cursor, now)] or ["nothing new in landing/"]
    shown = "; ".join(notes[:_NOTES_SHOWN]) + (f"; and {len(notes) - _NOTES_SHOWN} more" * (len(notes) > _NOTES_SHOWN))
    return dg.SensorResult(skip_reason=dg.SkipReason(shown), cursor=cursor.model_dump_json())


def watch_ratings(context: dg.SensorEvaluationContext, home: Home, job: str) -> dg.RunRequest | dg.SkipReason:
    """One tick of `retrain_sensor`.

    Args:
        context: of the tick; its cursor is the content and settings of the last request.
        home: the home.
        job: name of the job to request.
    """
    instance = context.instance
    versions = _present(instance)
    if None in versions.values():
        return dg.SkipReason("nothing has been ingested yet")
    state = hashlib.sha256(repr((sorted(versions.items()), _settings(home))).encode()).hexdigest()[:32]
    if context.cursor == state:
        return _again(instance, home, state)
    if is_busy(instance, home):
        return dg.SkipReason("the ratings have changed; waiting for the run in progress")
    if refused := why_invalid(instance):
        return dg.SkipReason(refused)
    if are_of_present_ratings(instance, _ENDS[job]):
        context.update_cursor(state)
        return _SEEN
    context.update_cursor(state)
    # The same content may come back later. Without the event, its run key would be taken and no run would start.
    newest = [_newest(instance, dg.AssetKey(name)) for name in _MERGED]
    key = f"{state}-{max(record.storage_id for record in newest if record)}"
    return dg.RunRequest(run_key=key, job_name=job, tags={CONTENT_TAG: state})


def _again(instance: dg.DagsterInstance, home: Home, state: str) -> dg.RunRequest | dg.SkipReason:
    """A repeat of the last refresh if it is due, else why there is none."""
    repeat = repeat_of(instance, state, time.time())
    if repeat.request is None:
        return dg.SkipReason(repeat.told or "the last requested refresh has seen these ratings")
    if is_busy(instance, home):
        return dg.SkipReason("the last refresh has failed; waiting for the run in progress")
    if refused := why_invalid(instance):
        return dg.SkipReason(refused)
    ends = _ENDS[str(repeat.request.job_name)]
    if CONTENT_TAG in repeat.request.tags and are_of_present_ratings(instance, ends):
        return _SEEN
    return repeat.request


def _settings(home: Home) -> str:
    """Digest of the settings files, in use or not: a change may fix what made a refresh fail."""
    files = (home.settings_file, home.tuned_file)
    return hashlib.sha256(b"\0".join(file.read_bytes() if file.exists() else b"" for file in files)).hexdigest()


def are_of_present_ratings(instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]) -> bool:
    """Whether the assets were materialized from the present content of the merged tables."""
    return all(_present(instance) == _made_from(instance, key) for key in keys)


def done_meanwhile(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Why a run that `retrain_sensor` requested has nothing left to do; empty if it has.

    `recsys-assets run` may have done the same work while the run waited in the queue. A retry has something to do: the
    run that it retries may have made these very assets and died before it checked them.
    """
    is_requested = CONTENT_TAG in run.tags and run.parent_run_id is None
    keys = _ENDS.get(run.job_name, ()) if is_requested else ()
    if not keys or not are_of_present_ratings(instance, keys):
        return ""
    made = " and ".join(key.to_user_string() for key in keys)
    return f"Nothing is left to do: another run made {made} from the present ratings while this run waited."


def why_invalid(instance: dg.DagsterInstance) -> str:
    """Why no automatic run may train on the present ratings; empty if their checks passed.

    A failed check stops the downstream steps of its own run only. Without this function, the next run would train on
    the refused ratings.
    """
    for name in _MERGED:
        record = _newest(instance, dg.AssetKey(name))
        if record is None:
            return "nothing has been ingested yet"
        good = was_good(instance, check_keys(dg.AssetKey(name)))
        if good is False:
            return (
                f"{name} failed a check in run {record.run_id}. Fix the data, or accept the change: "
                "RECSYS_CHECKS__MAX_ROW_DROP=1 recsys-assets run"
            )
        if good is None and (run_id := unchecked_since(instance, dg.AssetKey(name))):
            return f"{name} was not checked in run {run_id}, which failed. Next: recsys-assets run"
    made_from, catalogue = _made_from(instance, dg.AssetKey("ratings")), ("users", "items")
    if any(made_from[name] not in (None, _data_version(instance, name)) for name in catalogue):
        return "the ratings were not merged with the present users and items. Next: recsys-assets run"
    return ""


def unfinished(instance: dg.DagsterInstance) -> bool:
    """Whether any run of this home is in progress or queued."""
    return bool(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=1))


def is_busy(instance: dg.DagsterInstance, home: Home) -> bool:
    """Whether a run is unfinished or a command holds the home's lock."""
    return unfinished(instance) or is_locked(home)


def record_failure(context: dg.RunFailureSensorContext, home: Home) -> None:
    """Append one line to `failures.log` and to the log of the sensor."""
    line = one_line(context.instance, context.dagster_run)
    stamped = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n"
    with home.failures.open("a", encoding="utf-8") as log:
        log.write(stamped)
    remote.push(home.path)
    context.log.error(line)


def _newest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.EventLogRecord | None:
    records = instance.fetch_materializations(key, limit=1).records
    return records[0] if records else None


def _tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    record = _newest(instance, key)
    materialization = record.asset_materialization if record else None
    return dict(materialization.tags or {}) if materialization else {}


def _data_version(instance: dg.DagsterInstance, name: str) -> str | None:
    return _tags(instance, dg.AssetKey(name)).get("dagster/data_version")


def _present(instance: dg.DagsterInstance) -> dict[str, str | None]:
    """The present data versions of the merged tables."""
    return {name: _data_version(instance, name) for name in _MERGED}


def _made_from(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str | None]:
    """The data versions of the merged tables that an asset was materialized from, directly or by the present model."""
    seen = _inputs(instance, key)
    if _MODEL in seen and seen[_MODEL] == _data_version(instance, _MODEL):
        seen = {**_inputs(instance, dg.AssetKey(_MODEL)), **seen}
    return {name: seen.get(name) for name in _MERGED}


def _inputs(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The data versions of an asset's inputs, by name."""
    tags = _tags(instance, key).items()
    return {tag.removeprefix(_INPUT): version for tag, version in tags if tag.startswith(_INPUT)}
