"""Repeats of failed refreshes, by real runs of a job that is called `refresh` and does nothing but fail."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace

import dagster as dg
import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration import schedules, sensors
from recsys_assets.orchestration.repeats import CONTENT_TAG, REPEAT_TAG, SCHEDULED_TAG, Repeat, repeat_of
from recsys_assets.orchestration.retries import decide_on_retry
from recsys_assets.recommender.ingest.errors import SourceError

FULL, BAD = OSError(28, "No space left on device"), SourceError("this file is no table")
SENSOR, SCHEDULE = {CONTENT_TAG: "present"}, {SCHEDULED_TAG: "Sunday"}
MINUTE = 60.0


@pytest.fixture
def instance(tmp_path) -> Iterator[dg.DagsterInstance]:
    """An instance that keeps run tags, as that of a home does."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


def refreshed(
    instance: dg.DagsterInstance, tags: Mapping[str, str], error: Exception | None = None, job_name: str = "refresh"
) -> float:
    """Run a refresh that raises an error, or none; returns when it ended."""

    @dg.op
    def step() -> None:
        if error:
            raise error

    @dg.job(name=job_name, hooks={decide_on_retry})
    def job() -> None:
        step()

    job.execute_in_process(instance=instance, tags=dict(tags), raise_on_error=False)
    return time.time()


def _due(instance: dg.DagsterInstance, now: float) -> dg.RunRequest | None:
    return repeat_of(instance, "present", now).request


@pytest.mark.parametrize("tags", [SENSOR, SCHEDULE])
def test_a_failure_that_may_pass_is_repeated_ever_more_rarely_and_not_for_ever(instance, tags):
    """After a minute of a full disk lists would stay old until new data land; or a lasting fault costs a run a tick."""
    pauses: list[int] = []
    told = ""
    for _ in range(20):
        ended = refreshed(instance, tags, FULL)
        told = repeat_of(instance, "present", ended).told
        assert "No space left on device" in told and "started again" in told
        pause = next((4**power for power in range(8) if _due(instance, ended + MINUTE * 4**power)), None)
        if pause is None:
            break
        assert not _due(instance, ended + MINUTE * (pause - 0.5))
        pauses.append(pause)
        request = _due(instance, ended + MINUTE * pause)
        assert request and tags.items() <= {**request.tags, **tags}.items()
        tags = request.tags
    assert pauses == [1, 4, 16, 64, 256, 1_024]
    assert "and so did 6 repeats" in told and tags[REPEAT_TAG] == "6"


def test_a_permanent_failure_is_not_repeated(instance):
    """Bad data would be trained on again and again until somebody looks."""
    ended = refreshed(instance, SENSOR, BAD)
    for minutes in (1, 5, 3_000):
        found = repeat_of(instance, "present", ended + MINUTE * minutes)
        assert found.request is None and "when data or settings have changed" in found.told


@pytest.mark.parametrize(
    ("later", "error"), [({}, None), (SENSOR, None), ({CONTENT_TAG: "other"}, FULL), (SCHEDULE, None)]
)
def test_what_was_made_up_for_is_not_repeated(instance, later, error):
    """A refresh that a person has done since would be done a second time, or one of data that are gone."""
    refreshed(instance, SENSOR, FULL)
    ended = refreshed(instance, later, error)
    assert repeat_of(instance, "present", ended + 2 * MINUTE) == Repeat()


def test_new_lists_do_not_hide_that_the_scores_are_missing(instance):
    """A weekly refresh that failed would be left out because lists were made since, or failed lists be made twice."""
    refreshed(instance, SCHEDULE, FULL)
    ended = refreshed(instance, SENSOR, job_name="refresh_served")
    due = _due(instance, ended + 2 * MINUTE)
    assert due and due.job_name == "refresh"
    refreshed(instance, SCHEDULE)
    ended = refreshed(instance, SENSOR, FULL, job_name="refresh_served")
    due = _due(instance, ended + 2 * MINUTE)
    assert due and due.job_name == "refresh_served"
    for made_up_by in ("refresh_served", "refresh"):
        ended = refreshed(instance, {}, job_name=made_up_by)
        assert not _due(instance, ended + 2 * MINUTE)
    refreshed(instance, SCHEDULE, FULL)
    ended = refreshed(instance, SENSOR, BAD, job_name="refresh_served")
    due = _due(instance, ended + 2 * MINUTE)
    assert due and due.job_name == "refresh", "bad data of one job hid the full disk of the other"


def test_failed_runs_of_a_person_are_theirs_and_hide_no_other(instance):
    """The sensor would repeat what somebody tries by hand, or forget its own failed run because of that."""
    ended = refreshed(instance, {}, FULL)
    assert repeat_of(instance, "present", ended + 2 * MINUTE) == Repeat()
    refreshed(instance, SENSOR, FULL)
    ended = refreshed(instance, {}, FULL)
    assert _due(instance, ended + 2 * MINUTE)


def test_a_canceled_refresh_is_not_repeated(instance):
    """Whoever ends a run in the UI would see it come back a minute later."""
    ended = refreshed(instance, SENSOR, FULL)
    instance.report_run_canceled(instance.get_runs()[0])
    assert repeat_of(instance, "present", ended + 2 * MINUTE) == Repeat()


def test_the_sensor_repeats_and_a_change_of_settings_starts_anew(instance, tmp_path, monkeypatch):
    """Who has freed the disk or mended a setting would wait for new data before anything is refreshed."""
    home, cursor = Home(tmp_path / "home"), ""
    home.prepare()
    monkeypatch.setattr(sensors, "why_invalid", lambda _: "")
    for name in ("ratings", "users", "items"):
        instance.report_runless_asset_event(dg.AssetMaterialization(name, tags={"dagster/data_version": "1"}))

    def tick(minutes: float = 0) -> dg.RunRequest | dg.SkipReason:
        nonlocal cursor
        now = time.time() + minutes * MINUTE
        monkeypatch.setattr(sensors, "time", SimpleNamespace(time=lambda: now))
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        found = sensors.watch_ratings(context, home, "refresh")
        cursor = context.cursor or cursor
        return found

    first = tick()
    assert isinstance(first, dg.RunRequest)
    refreshed(instance, first.tags, FULL)
    assert "No space left on device" in str(tick())
    again = tick(minutes=2)
    assert isinstance(again, dg.RunRequest) and again.tags[CONTENT_TAG] == first.tags[CONTENT_TAG]
    refreshed(instance, again.tags, BAD)
    assert isinstance(tick(minutes=10), dg.SkipReason)
    home.settings_file.write_text("[als]\nrank = 3\n")
    mended = tick()
    assert isinstance(mended, dg.RunRequest) and mended.run_key not in (first.run_key, again.run_key)


def test_a_run_of_the_schedule_says_so(instance, tmp_path, monkeypatch):
    """A weekly refresh that failed would be taken for a person's, and come back a week later."""
    monkeypatch.setattr(schedules, "why_invalid", lambda _: "")
    (schedule,) = schedules.build_schedules(Home(tmp_path), Settings().automation)
    sunday = datetime(2026, 1, 4, 3, tzinfo=UTC)
    request = schedule(dg.build_schedule_context(instance, scheduled_execution_time=sunday))
    assert isinstance(request, dg.RunRequest) and SCHEDULED_TAG in request.tags
