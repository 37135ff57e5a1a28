import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

from recsys_assets.home.layout import INSTANCE, Home
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.assets import ASSETS
from recsys_assets.orchestration.assets.common import pipeline_asset
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.checks import CHECKS
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets_tests.running import copied

ROOT = Path(__file__).parent.parent
SNAPSHOT = Path(__file__).parent / "snapshots" / "assets.json"

# The named exception to the rule below: it takes over the configuration that was scored and is never scored itself.
FITTED_ON_EVERYTHING = "serving_model"
# The table that each task's rows, and everything that may learn for it, come from.
TRAINING_TABLES = {
    "time_cut": {"train_ratings"},
    "top_n": {"train_ratings"},
    # Train users are predicted by regressions that have not seen their response: test_latest_rating_models.py.
    "latest_rating": {"train_histories", "train_responses"},
    "next_item": {"train_histories"},
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Any:
    """The asset graph of an empty home."""
    home = Home(tmp_path_factory.mktemp("home"))
    return build_defs(home=home, settings=Settings()).get_repository_def().asset_graph


def _contract(node: Any) -> dict[str, object]:
    return {
        "deps": sorted(key.to_user_string() for key in node.parent_keys),
        "group": node.group_name,
        "owners": sorted(node.owners),
        "tags": dict(sorted(node.tags.items())),
        "partitions": str(getattr(node.partitions_def, "name", node.partitions_def)) if node.partitions_def else None,
        "backfill": node.backfill_policy.policy_type.value if node.backfill_policy else None,
        "automation": str(node.automation_condition) if node.automation_condition else None,
        "freshness": str(node.freshness_policy) if node.freshness_policy else None,
    }


def test_the_graph_is_the_one_agreed_on(graph):
    """An asset would lose its lineage, group, owner or automation without anybody having meant it.

    After a change that is meant: UPDATE_SNAPSHOTS=1 pytest recsys_assets_tests/test_definitions.py, then read the diff.
    """
    found = {node.key.to_user_string(): _contract(node) for node in graph.asset_nodes}
    text = json.dumps(dict(sorted(found.items())), indent=1) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text()


def test_every_asset_says_what_it_is(graph):
    """A person in the UI would find an asset without meaning or columns."""
    for node in graph.asset_nodes:
        assert node.description, node.key
        assert node.kinds, node.key
        assert node.backfill_policy == dg.BackfillPolicy.single_run(), node.key
        if node.key.path[-1] in TABLES:
            assert "dagster/column_schema" in node.metadata, node.key


def test_every_job_sensor_and_schedule_says_what_it_does(tmp_path):
    """A person in the UI would switch a sensor on without knowing what it starts."""
    defs = build_defs(home=Home(tmp_path))
    silent = [
        each.name
        for each in (*(defs.jobs or ()), *(defs.sensors or ()), *(defs.schedules or ()))
        if not each.description
    ]
    assert silent == []


def test_every_declared_table_is_an_asset(graph):
    """A table would be declared that nothing computes, or stored under a name nobody declared."""
    assert set(TABLES) <= {node.key.path[-1] for node in graph.asset_nodes}


def _paths_to_ratings(graph: Any, key: dg.AssetKey, stop: set[str], walked: tuple[str, ...] = ()):
    """Paths from an asset up to `ratings` that pass through none of the assets named by `stop`."""
    name = key.to_user_string()
    if name in stop:
        return
    if name == "ratings":
        yield (*walked, name)
        return
    for parent in sorted(graph.get(key).parent_keys):
        yield from _paths_to_ratings(graph, parent, stop, (*walked, name))


def test_no_scored_model_sees_what_it_is_scored_on(graph):
    """Scores would be too good to be true, because a model had learnt from its own test."""
    for node in graph.asset_nodes:
        if node.key.path[0] != "predictions":
            continue
        task = node.key.path[1]
        models = [key for key in node.parent_keys if "model" in graph.get(key).kinds]
        assert FITTED_ON_EVERYTHING not in {key.to_user_string() for key in models}
        for model in models:
            leaks = list(_paths_to_ratings(graph, model, TRAINING_TABLES[task]))
            assert not leaks, f"{node.key.to_user_string()}: {' <- '.join(leaks[0])}"


def test_the_serving_model_is_never_scored(graph):
    """The model fitted on all ratings would be praised for knowing the test rows."""
    children = graph.get(dg.AssetKey(FITTED_ON_EVERYTHING)).child_keys
    assert {key.to_user_string() for key in children} == {"recommendations", "similar_items"}


def test_no_step_is_split_by_dagster(tmp_path):
    """After a failure a check could be left out, because each process numbers the parts of a step otherwise."""
    definitions = build_defs(home=Home(tmp_path))
    declared = {part.node_def.name for part in (*ASSETS, *CHECKS)}
    for job in ("refresh", "everything"):
        assert {node.name for node in definitions.resolve_job_def(job).nodes} <= declared


def test_the_repo_root_serves_the_default_home():
    """`dg dev` in the checkout would show another run history than the command line."""
    stores = ("storage", "local_artifact_storage", "compute_logs")
    found = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert {section: content for section, content in found.items() if section not in stores} == INSTANCE
    by_default = InstanceRef.config_defaults(".recsys/dagster")
    in_root = InstanceRef.from_dir(str(ROOT))
    assert in_root.storage_data.config_dict["base_dir"] == by_default["storage"].config_dict["base_dir"]
    for section in stores[1:]:
        assert found[section]["config"] == by_default[section].config_dict
    location = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert location["module_name"] == "recsys_assets.definitions"
    assert location["location_name"] == "recsys_assets"


def test_the_default_home_lies_in_the_checkout(tmp_path, monkeypatch):
    """The command line would work on another home than `dg dev`, one in each folder that it is called from."""
    monkeypatch.delenv("RECSYS_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Home.resolve().path == ROOT / ".recsys"


def test_two_homes_hold_two_catalogues(tmp_path):
    """Batches of one catalogue would appear in the other's UI."""
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        home.prepare()
    with dg.DagsterInstance.from_config(str(homes[0].dagster)) as instance:
        instance.add_dynamic_partitions("batches", ["only-here"])
    with dg.DagsterInstance.from_config(str(homes[0].dagster)) as again:
        assert again.get_dynamic_partitions("batches") == ["only-here"]
    with dg.DagsterInstance.from_config(str(homes[1].dagster)) as other:
        assert other.get_dynamic_partitions("batches") == []


def test_a_copied_or_moved_home_has_its_own_history(tmp_path):
    """What is tried in a copy would be recorded in the original, whose sensors would then believe it."""
    original, copy, moved = (Home(tmp_path / name) for name in ("original", "copy", "moved"))
    original.prepare()
    with dg.DagsterInstance.from_config(str(original.dagster)) as instance:
        instance.add_dynamic_partitions("batches", ["before"])
    copied(original, copy.path).prepare()
    with dg.DagsterInstance.from_config(str(copy.dagster)) as instance:
        instance.add_dynamic_partitions("batches", ["in the copy"])
    original.path.rename(moved.path)
    with dg.DagsterInstance.from_config(str(moved.dagster)) as instance:
        assert instance.get_dynamic_partitions("batches") == ["before"]
    assert not original.path.exists()


def test_homes_that_hold_their_path_forget_it_and_nothing_else(tmp_path):
    """A home of an earlier version would go on writing into the place from which it was copied."""
    old, new = tmp_path / "old" / "dagster", Home(tmp_path / "new")
    stored = {
        "storage": {"sqlite": {"base_dir": str(old)}},
        "local_artifact_storage": {"module": "m", "class": "c", "config": {"base_dir": str(old)}},
        "compute_logs": {"module": "m", "class": "c", "config": {"base_dir": str(old / "compute_logs")}},
        "run_retries": {"enabled": True, "max_retries": 3},
    }
    (new.dagster / "compute_logs" / "of a run").mkdir(parents=True)
    configuration = new.dagster / "dagster.yaml"
    configuration.write_text(yaml.safe_dump(stored))
    new.prepare()
    assert yaml.safe_load(configuration.read_text()) == {"run_retries": {"enabled": True, "max_retries": 3}}
    assert (new.dagster / "storage" / "of a run").exists()
    chosen = stored | {"storage": {"postgres": {"postgres_url": "postgresql://localhost/runs"}}}
    configuration.write_text(yaml.safe_dump(chosen))
    new.prepare()
    assert yaml.safe_load(configuration.read_text()) == chosen


def test_a_home_of_an_earlier_version_finds_its_launcher(tmp_path):
    """After an upgrade no command could open the run history of a home that is there."""
    home = Home(tmp_path)
    home.prepare()
    configuration = home.dagster / "dagster.yaml"
    present = yaml.safe_load(configuration.read_text())
    before = {"module": "recsys_assets.launcher", "class": "ProcessCheckingRunLauncher"}
    configuration.write_text(yaml.safe_dump(present | {"run_launcher": before, "nux": {"enabled": True}}))
    home.prepare()
    assert yaml.safe_load(configuration.read_text()) == present | {"nux": {"enabled": True}}
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert type(instance.run_launcher).__name__ == "ProcessCheckingRunLauncher"


def test_a_section_that_the_settings_lack_is_named_with_the_file():
    """Whoever adds a model with a section of its own would read an AttributeError that names no file."""
    decorate = pipeline_asset(key="own_model", group="models", kinds=set(), settings=("own",), code="1")
    with pytest.raises(ValueError, match=r"own_model: there is no section own .*home/settings.py"):
        decorate(lambda: None)


def test_the_executor_is_one_setting(tmp_path):
    """Nobody could use more than one process without editing code."""
    for name in ("in_process", "multiprocess"):
        settings = Settings.model_validate({"run": {"executor": name}})
        job = build_defs(home=Home(tmp_path), settings=settings).resolve_job_def("refresh")
        assert job.executor_def.name == name


@pytest.mark.parametrize(
    ("resource", "field", "value"),
    [
        ("io_manager", "root", "/elsewhere"),
        ("io_manager", "engine", "spark"),
        ("home", "path", "/elsewhere"),
    ],
)
def test_a_launch_cannot_lead_a_run_out_of_its_home(tmp_path, resource, field, value):
    """Whoever can launch a run could overwrite another folder."""
    home = Home(tmp_path / "home")
    home.prepare()
    job = build_defs(home=home).resolve_job_def("refresh")
    config = {"resources": {resource: {"config": {field: value}}}}
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(dg.DagsterInvalidConfigError, match=field):
        job.execute_in_process(instance=instance, run_config=config)
