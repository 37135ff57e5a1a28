from collections import Counter
from pathlib import Path

import dagster as dg
from sqlalchemy import event
from sqlalchemy.engine import Engine

from recsys_assets.home.layout import Home
from recsys_assets.orchestration.event_log import kept_connections


@dg.op
def step(_: dg.OpExecutionContext) -> None:
    """Does nothing."""


@dg.job
def many_steps() -> None:
    """Twenty steps."""
    for number in range(20):
        step.alias(f"step_{number}")()


def test_a_run_does_not_open_the_event_log_again_for_each_event(tmp_path):
    """A quarter of a run on small data would go into opening databases; or deleted rows would stay in SQLite's log."""
    home = Home(tmp_path / "home")
    home.prepare()
    opened = Counter[str]()

    def count(connection, _):
        opened.update(Path(row[2]).stem for row in connection.execute("PRAGMA database_list"))

    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        event.listen(Engine, "connect", count)
        try:
            with kept_connections(instance):
                ran = many_steps.execute_in_process(instance=instance)
                # Dagster opens a new database a few times to create its tables; the run has 80 events of steps.
                assert 1 <= opened[ran.run_id] <= 10 and 1 <= opened["index"] <= 10, opened
        finally:
            event.remove(Engine, "connect", count)
        assert not [*(home.dagster / "history").rglob("*.db-wal")]
        ended = instance.get_records_for_run(ran.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS).records
        assert len(ended) == 20
