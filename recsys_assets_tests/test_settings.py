import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from pydantic import BaseModel

from recsys_assets.home import java
from recsys_assets.home.layout import Home
from recsys_assets.home.running import SparkSettings
from recsys_assets.home.settings import Settings, SettingsError, template
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.resources import session_of, settings_resource, spark_resource
from recsys_assets.recommender.registry import DERIVED, FITS


@pytest.fixture
def home(tmp_path) -> Home:
    """A home whose settings file is still to be written."""
    return Home(tmp_path)


def test_the_file_beats_defaults_and_the_environment_beats_the_file(home, monkeypatch):
    """A deployment could not override what the file of the home says, or a file would be ignored."""
    home.settings_file.write_text('engine = "spark"\n[als]\nrank = 20\nmax_iter = 7\n[splitting]\ncut = 0.7\n')
    monkeypatch.setenv("RECSYS_ALS__RANK", "33")
    settings = Settings.load(home)
    assert (settings.engine, settings.als.rank, settings.als.max_iter) == ("spark", 33, 7)
    assert settings.als.reg_param == Settings().als.reg_param
    assert settings.splitting.parsed_cut == 0.7


def test_what_a_study_chose_beats_defaults_and_nothing_else(home, monkeypatch):
    """A study would change nothing, or override what the user has set on purpose."""
    home.tuned_file.write_text("[als]\nrank = 50\nmax_iter = 15\nreg_param = 0.05\n[clusters]\nk = 9\n")
    studied = Settings.load(home)
    assert (studied.als.rank, studied.als.max_iter, studied.als.reg_param, studied.clusters.k) == (50, 15, 0.05, 9)
    assert studied.als.n_blocks == Settings().als.n_blocks
    home.settings_file.write_text("[als]\nmax_iter = 7\n")
    monkeypatch.setenv("RECSYS_ALS__REG_PARAM", "0.5")
    both = Settings.load(home)
    assert (both.als.rank, both.als.max_iter, both.als.reg_param, both.clusters.k) == (50, 7, 0.5, 9)
    seen: list[Settings] = []

    @dg.asset
    def looked(settings: dg.ResourceParam[Settings]) -> None:
        seen.append(settings)

    run_config = {"resources": {"settings": {"config": {"als": {"rank": 3}}}}}
    dg.materialize([looked], resources={"settings": settings_resource(both)}, run_config=run_config)
    assert (seen[0].als.rank, seen[0].als.max_iter, seen[0].clusters.k) == (3, 7, 9)


@pytest.mark.parametrize("text", ["[als]\nrnk = 20\n", "[als\n"])
def test_a_broken_file_of_a_study_is_named(home, text):
    """Somebody would look for the fault in the settings they wrote themselves."""
    home.settings_file.write_text("[als]\nrank = 20\n")
    home.tuned_file.write_text(text)
    with pytest.raises(SettingsError) as error:
        Settings.load(home)
    assert str(home.tuned_file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[als]\nrnk = 20\n", "there is no setting als.rnk (found 20); did you mean als.rank?"),
        ("[alss]\nrank = 20\n", "there is no setting alss; did you mean als?"),
        ("[als]\nk_max = 20\n", "there is no setting als.k_max (found 20); did you mean clusters.k_max?"),
        ("[data.sample]\nshares = 0.5\n", "did you mean data.sample.share?"),
        ("[als]\nrank = 0\n", "als.rank: Input should be greater than or equal to 1"),
        ('engine = "duckdb"\n', "engine: Input should be 'auto', 'polars' or 'spark'"),
        ("[als\n", "line 1"),
        *(
            (f'[splitting]\ncut = "{cut}"\n', f"'{cut}' is none of: a number of ratings")
            for cut in ("soon", "0", "1.0", "800_000", "-3", "nan", "²")
        ),
        ('[ease]\nreg = "automatic"\n', "ease.reg: Value error, 'automatic' is neither a number nor 'auto'"),
        ("[ease]\nreg = 0\n", "ease.reg: Value error, has to be above 0"),
        ('[blend]\nprior_ratings = "auto * -1"\n', "blend.prior_ratings: Value error, has to be at least 0"),
        ("[segments]\nbatch_size = 0.5\n", "segments.batch_size: Value error, has to be at least 1"),
        ('[cold_start]\nfill_size = "many"\n', "'many' is neither a number of ratings"),
        ('[cold_start]\nfill_size = "0"\n', "cold_start.fill_size"),
        ("[data]\nrating_scale = [5, 1]\n", "data.rating_scale"),
        ("[data.sample]\nshare = 0\n", "data.sample.share"),
        ('[study]\nsearches = ["als", "alss"]\n', "no search 'alss'; there are: als, clusters, "),
        *(
            (
                f'[evaluation]\n{setting} = "{name}"\n',
                f"{setting}: Value error, no model '{name}' in the task {task}; there are: ",
            )
            for setting, name, task in (
                ("selected_rating_model", "blend", "time_cut"),
                ("selected_ranking_model", "blendd", "top_n"),
                ("selected_response_model", "stack", "latest_rating"),
                ("selected_next_item_model", "popularityy", "next_item"),
            )
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(home, text, message):
    """A typing error would pass for a setting, or end in a stack of errors somewhere in a run."""
    home.settings_file.write_text(text)
    with pytest.raises(SettingsError) as error:
        Settings.load(home)
    assert message in str(error.value)
    assert str(home.settings_file) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("RECSYS_DATA__RATING_SCALE", "1,5", "lists and tables are JSON, such as '[1, 5]'"),
        ("RECSYS_STUDY__SEARCHES", "als", "JSON, such as '[1, 5]'"),
        ("recsys_study__searches", '["alss"]', "no search 'alss'"),
        ("RECSYS_DATA__COLUMNS", "user_id=who", "JSON, such as '[1, 5]'"),
        ("RECSYS_DATA__SAMPLE", "0.5", "JSON, such as '[1, 5]'"),
        ("RECSYS_DATA", "x", "JSON, such as '[1, 5]'"),
        ("RECSYS_ALS__RNK", "20", "there is no setting als.rnk (found '20'); did you mean als.rank?"),
        ("RECSYS_CHECK__MAX_ROW_DROP", "1", "there is no section 'check'; did you mean checks?"),
        ("recsys_xyz__rank", "1", "there is no section 'xyz'. "),
        ("RECSYS_ENGINE__RANK", "1", "there is no section 'engine'. "),
    ],
)
def test_a_wrong_variable_is_named(home, monkeypatch, name, text, message):
    """A variable would do nothing, or end every command in a traceback that does not say which one it was."""
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as error:
        Settings.load(home)
    assert name in str(error.value) and message in str(error.value)


def test_variables_hold_lists_and_tables_as_json(home, monkeypatch):
    """What a file can say could not be said in a container, or the project's other variables would be refused."""
    monkeypatch.setenv("RECSYS_DATA__RATING_SCALE", "[1, 5]")
    monkeypatch.setenv("RECSYS_DATA__COLUMNS", '{"user_id": "who"}')
    monkeypatch.setenv("RECSYS_STUDY__SEARCHES", '["als"]')
    monkeypatch.setenv("RECSYS_HOME", str(home.path))
    monkeypatch.setenv("RECSYS_FUZZ_EXAMPLES", "5")
    settings = Settings.load(home)
    assert (settings.data.rating_scale, settings.data.columns) == ([1, 5], {"user_id": "who"})
    assert settings.study.searches == ["als"]


@pytest.mark.parametrize("file", ["settings_file", "tuned_file"])
def test_a_file_in_another_encoding_is_named_with_the_line(home, file):
    """Column names with an umlaut, saved by an old editor, would end every command in a traceback."""
    path = getattr(home, file)
    text = '[data]\n[data.columns]\ntitle = "Stück"\n'
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError) as error:
        Settings.load(home)
    assert f"{path}, line 3: not UTF-8" in str(error.value)
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        assert Settings.load(home).data.columns == {"title": "Stück"}


def test_the_template_shows_every_setting_and_changes_none(home):
    """`init` would hide settings from its readers, or switch something by being written."""
    home.settings_file.write_text(template())
    assert Settings.load(home) == Settings()
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in template().splitlines()
    )
    for name in _names(Settings):
        assert f"\n{name} = " in uncommented


def _names(section: type[BaseModel]) -> list[str]:
    """The settings of a section and of the sections in it."""
    inner = {name: getattr(field.annotation, "model_fields", None) for name, field in section.model_fields.items()}
    own = [name for name, fields in inner.items() if fields is None]
    nested = [_names(section.model_fields[name].annotation) for name, fields in inner.items() if fields is not None]
    return [*own, *(name for names in nested for name in names)]


def test_every_model_is_fitted_with_the_section_that_the_settings_have():
    """A new model could not be configured, or would be fitted with the defaults and bounds of another one."""
    sections = {step.settings: step.section for steps in (FITS, DERIVED) for step in steps if step.settings}
    settings = Settings()
    assert {name: type(getattr(settings, name, None)) for name in sections} == sections
    for name, section in sections.items():
        for setting, values in section.tried.items():
            assert all(section(**{setting: value}) for value in values), f"{name}.{setting}"


def test_a_launch_can_override_one_setting_and_keeps_the_others():
    """Changing the rank in the launchpad would silently put the rest of the section back to built-in defaults."""
    seen: list[Settings] = []

    @dg.asset
    def looked(settings: dg.ResourceParam[Settings]) -> None:
        seen.append(settings)

    configured = Settings.model_validate({"als": {"max_iter": 3, "reg_param": 0.5}})
    dg.materialize(
        [looked],
        resources={"settings": settings_resource(configured)},
        run_config={"resources": {"settings": {"config": {"als": {"max_iter": 4}}}}},
    )
    assert (seen[0].als.max_iter, seen[0].als.reg_param) == (4, 0.5)
    assert seen[0].splitting == configured.splitting


@pytest.mark.parametrize(
    ("job", "sections"),
    [
        ("recommend", ["checks", "scale", "serving"]),
        ("refresh_served", ["checks", "evaluation", "scale", "serving", "splitting"]),
        ("study", ["checks", "evaluation", "splitting", "study"]),
        ("backtest", ["checks", "evaluation", "scale"]),
    ],
)
def test_the_launchpad_of_a_job_shows_the_sections_that_the_job_reads(home, job, sections):
    """Whoever launches a run would scroll past the settings of two dozen models, or set what the run does not read."""
    settings = Settings.model_validate({"serving": {"n": 7}, "evaluation": {"n_resamples": 900}})
    made = build_defs(home=home, settings=settings).resolve_job_def(job)
    shown = made.partitioned_config.get_run_config_for_partition_key("0") if made.partitions_def else made.run_config
    values = shown["resources"]["settings"]["config"]
    assert list(values) == sections
    assert values.get("serving", {"n": 7})["n"] == 7
    assert values.get("evaluation", {"n_resamples": 900})["n_resamples"] == 900


@pytest.mark.parametrize("job", ["ingest", "everything"])
def test_a_run_that_reads_batches_keeps_no_settings(home, job):
    """A batch that failed would be read again with the settings that made it fail, although they have been mended."""
    made = build_defs(home=home, settings=Settings()).resolve_job_def(job)
    assert made.partitioned_config is None or made.get_run_config_for_partition_key("b") == {}


def test_a_launch_from_the_asset_graph_shows_what_concerns_every_run(home):
    """Whoever materializes an asset would scroll past the settings of two dozen models."""
    graph = build_defs(home=home, settings=Settings()).resolve_implicit_global_asset_job_def()
    shown = graph.run_config_schema.config_type.fields["resources"].default_value["settings"]["config"]
    assert sorted(shown) == ["checks", "evaluation", "scale", "serving", "splitting"]


def test_a_launch_can_override_how_data_are_read():
    """Optional, nested and free-form settings would be lost on their way through the launchpad."""
    seen: list[Settings] = []

    @dg.asset
    def looked(settings: dg.ResourceParam[Settings]) -> None:
        seen.append(settings)

    configured = Settings.model_validate({"data": {"columns": {"user_id": "who"}, "sample": {"seed": 3}}})
    data = {"rating_scale": [1, 10], "delimiter": ";", "sample": {"share": 0.5}}
    for config in ({}, {"data": data}, {"data": {"columns": {"rating": "stars"}}}):
        dg.materialize(
            [looked],
            resources={"settings": settings_resource(configured)},
            run_config={"resources": {"settings": {"config": config}}},
        )
    assert seen[0] == configured
    assert seen[1].data.reading["rating_scale"] == (1, 10) and seen[1].data.delimiter == ";"
    assert (seen[1].data.sample.share, seen[1].data.sample.seed) == (0.5, 3)
    assert seen[1].data.columns == {"user_id": "who"}
    assert seen[2].data.columns == {"rating": "stars"}


def _fake_java(folder: Path, text: str) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin" / "java"
    program.write_text(f"#!/bin/sh\necho '{text}' >&2\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ('openjdk version "1.8.0_392"', "Java 8"),
        ('openjdk version "11.0.2"', "Java 11"),
        ("what?", "prints no version"),
    ],
)
def test_an_old_java_is_found_before_anything_starts(tmp_path, monkeypatch, printed, found):
    """Spark would fail minutes later, with a message about class file versions."""
    _fake_java(tmp_path, printed)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(java.JavaError, match=found) as error:
        java.check_java()
    assert "openjdk-17" in str(error.value)


def test_a_missing_java_is_found_by_make_without_any_package(tmp_path):
    """`make test` would install for minutes and only then say that Java is missing."""
    command = [sys.executable, "-S", "-m", java.__name__]
    result = subprocess.run(
        command,
        env={"JAVA_HOME": str(tmp_path)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("No Java found")


def test_a_missing_java_is_told_where_the_first_large_table_is_read(monkeypatch, tmp_path):
    """With the engine `auto`, a home that has grown large would end in a traceback of Spark."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(java.JavaError, match="Install it"):
        session_of(spark_resource(SparkSettings(), tmp_path))


def test_a_new_enough_java_passes(tmp_path, monkeypatch):
    """Nobody with the next Java could run the pipeline."""
    _fake_java(tmp_path, 'openjdk version "25" 2025-09-16')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.check_java() == 25


@pytest.mark.parametrize(("master", "is_patient"), [("local[2]", True), ("spark://cluster:7077", False)])
def test_a_local_spark_outlives_the_sleep_of_a_laptop(master, is_patient, tmp_path):
    """After two minutes of sleep Spark would have given its only executor up, and the run would hang or fail."""
    config = spark_resource(SparkSettings(master=master), tmp_path).spark_config
    assert ("spark.network.timeout" in config) == is_patient
    given = SparkSettings(master=master, config={"spark.network.timeout": "1s"})
    assert spark_resource(given, tmp_path).spark_config["spark.network.timeout"] == "1s"
