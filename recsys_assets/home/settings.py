"""All settings of a home: composes the sections, loads the sources of a home, and writes the template.

Default, meaning and allowed values of a setting stand in the section beside the model or package that uses it. Later
sources take precedence over earlier ones: built-in defaults, `tuned.toml` of the home (written by the study),
`settings.toml`, environment variables (RECSYS_ALS__RANK=20), run config of a launch (`resources: settings: config: als:
rank: 20`).
"""

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import tomlkit
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from recsys_assets.errors import RecsysError
from recsys_assets.home.java import check_java
from recsys_assets.home.layout import Home
from recsys_assets.home.old_names import EARLIER_SECTIONS
from recsys_assets.home.running import AutomationSettings, HistorySettings, InstanceSettings, RunSettings, SparkSettings
from recsys_assets.home.setting_faults import told
from recsys_assets.recommender.data.scale import ScaleSettings
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.splitting import SplittingSettings
from recsys_assets.recommender.evaluation.quality import CheckSettings
from recsys_assets.recommender.evaluation.settings import EvaluationSettings
from recsys_assets.recommender.features.clusters import ClusterSettings
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.models.als import ALSSettings, ImplicitALSSettings, NextImplicitALSSettings
from recsys_assets.recommender.models.attribute_effects import AttributeEffectsSettings
from recsys_assets.recommender.models.bayesian_factors import BayesianFactorsSettings, ProfileFactorsSettings
from recsys_assets.recommender.models.biases import UserItemBiasSettings
from recsys_assets.recommender.models.blend import BlendSettings
from recsys_assets.recommender.models.cluster_mean import ClusterMeanSettings
from recsys_assets.recommender.models.cold_start import ColdStartSettings
from recsys_assets.recommender.models.demographic_popularity import DemographicPopularitySettings
from recsys_assets.recommender.models.ease import EASESettings, NextEASESettings
from recsys_assets.recommender.models.item_knn import ItemKNNSettings
from recsys_assets.recommender.models.item_mean import ItemMeanSettings
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursSettings, RatingNeighboursSettings
from recsys_assets.recommender.models.recent_popularity import RecentPopularitySettings
from recsys_assets.recommender.models.response_stack import ResponseStackSettings
from recsys_assets.recommender.models.segments import SegmentResidualSettings, SegmentSettings
from recsys_assets.recommender.models.sessions import SessionSettings
from recsys_assets.recommender.models.stack import StackHoldoutSettings, StackSettings
from recsys_assets.recommender.models.transitions import TransitionSettings
from recsys_assets.recommender.serving.settings import ServingSettings
from recsys_assets.recommender.tuning.settings import StudySettings

_WAY_OUT = "`recsys-assets init` writes a file with every setting and what it allows."


class SettingsError(RecsysError):
    """A setting cannot be used. The message names its source and the allowed values."""


class _Environment(EnvSettingsSource):
    """The RECSYS_ environment variables as a source of settings."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A list or table from JSON. Other text is returned as it is, so that validation names the variable later."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class Settings(BaseSettings):
    """All settings of a home."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    # Settings files; the first one takes precedence. Empty here: `load` sets the files of one home.
    files: ClassVar[tuple[Path, ...]] = ()

    engine: Literal["auto", "polars", "spark"] = Field(
        "auto",
        description="Engine of the tables: polars (one process), spark (the session of [spark]), or auto (each step by "
        "the size of its largest table, see scale.spark_from_rows).",
    )
    data: DataSettings = DataSettings()
    splitting: SplittingSettings = SplittingSettings()
    clusters: ClusterSettings = ClusterSettings()
    cold_start: ColdStartSettings = ColdStartSettings()
    item_mean: ItemMeanSettings = ItemMeanSettings()
    als: ALSSettings = ALSSettings()
    user_item_bias: UserItemBiasSettings = UserItemBiasSettings()
    cluster_mean: ClusterMeanSettings = ClusterMeanSettings()
    bayesian_factors: BayesianFactorsSettings = BayesianFactorsSettings()
    profile_factors: ProfileFactorsSettings = ProfileFactorsSettings()
    attribute_effects: AttributeEffectsSettings = AttributeEffectsSettings()
    rating_neighbours: RatingNeighboursSettings = RatingNeighboursSettings()
    stack_holdout: StackHoldoutSettings = StackHoldoutSettings()
    stack: StackSettings = StackSettings()
    implicit_als: ImplicitALSSettings = ImplicitALSSettings()
    ease: EASESettings = EASESettings()
    demographic_popularity: DemographicPopularitySettings = DemographicPopularitySettings()
    recent_popularity: RecentPopularitySettings = RecentPopularitySettings()
    item_knn: ItemKNNSettings = ItemKNNSettings()
    blend: BlendSettings = BlendSettings()
    segments: SegmentSettings = SegmentSettings()
    item_neighbours: ItemNeighboursSettings = ItemNeighboursSettings()
    segment_residuals: SegmentResidualSettings = SegmentResidualSettings()
    response_stack: ResponseStackSettings = ResponseStackSettings()
    next_implicit_als: NextImplicitALSSettings = NextImplicitALSSettings()
    next_ease: NextEASESettings = NextEASESettings()
    transitions: TransitionSettings = TransitionSettings()
    sessions: SessionSettings = SessionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    study: StudySettings = StudySettings()
    serving: ServingSettings = ServingSettings()
    scale: ScaleSettings = ScaleSettings()
    spark: SparkSettings = SparkSettings()
    run: RunSettings = RunSettings()
    checks: CheckSettings = CheckSettings()
    automation: AutomationSettings = AutomationSettings()
    instance: InstanceSettings = InstanceSettings()
    history: HistorySettings = HistorySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources in order of precedence: arguments, environment, `settings.toml`, `tuned.toml`."""
        del env_settings, dotenv_settings, file_secret_settings
        # Each file is a separate source: within one source, a section of one file would replace the whole section
        # of another.
        files = (InitSettingsSource(settings_cls, read_toml(path)) for path in cls.files)
        return init_settings, _Environment(settings_cls), *files

    @classmethod
    def load(cls, home: Home) -> "Settings":
        """The settings of a home.

        Raises:
            SettingsError: a file cannot be read, or a name or value is unknown or not allowed.
        """

        class SettingsOfHome(cls):  # type: ignore[valid-type, misc]
            files = (home.settings_file, home.tuned_file)

        _check_sections_of_variables()
        try:
            return cls.model_validate(SettingsOfHome().model_dump())
        except ValidationError as error:
            files = {path: read_toml(path) for path in SettingsOfHome.files}
            faults = told(error.errors(), cls, files)
            studied = f"{home.tuned_file} is written by `recsys-assets study`; you may delete it. "
            raise SettingsError(f"{faults} {studied if str(home.tuned_file) in faults else ''}{_WAY_OUT}") from None


def require_java(home: Home) -> None:
    """Check the Java of this machine if every run starts a Spark session in it.

    With the engine `auto`, the first step of a large table checks it.

    Raises:
        JavaError: Java is missing or too old; the message says what to install.
        SettingsError: the home's settings cannot be used.
    """
    settings = Settings.load(home)
    if settings.engine == "spark" and not settings.spark.remote:
        check_java()


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a settings file; empty if the file does not exist.

    Raises:
        SettingsError: the file is not UTF-8 or not TOML; the message names the line.
    """
    if not path.exists():
        return {}
    try:
        # Some editors write a byte order mark, which TOML does not allow.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}. Fix it, or delete it to go back to the built-in settings.") from None


def _check_sections_of_variables() -> None:
    """Refuse environment variables of an unknown section, because they would have no effect.

    A variable without a section, such as RECSYS_HOME, need not be a setting and is not refused.

    Raises:
        SettingsError: a variable names an unknown section.
    """
    sections = [name for name, field in Settings.model_fields.items() if isinstance(field.default, Section)]
    for variable in os.environ:
        found = re.match("RECSYS_(.*?)__", variable, re.IGNORECASE)
        if found and (section := found[1].lower()) not in sections:
            meant = EARLIER_SECTIONS.get(section) or next(iter(get_close_matches(section, sections, n=1)), "")
            hint = f"; did you mean {meant}?" if meant else "."
            raise SettingsError(f"{variable} in the environment: there is no section {section!r}{hint} {_WAY_OUT}")


def template() -> str:
    """A settings.toml with every setting: its meaning and, commented out, its default."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of this home. Remove a # to change a default."))
    document.add(tomlkit.comment("Environment variables take precedence: RECSYS_ALS__RANK=20."))
    own = [
        "\n" + _commented(name, field.default, field.description)
        for name, field in Settings.model_fields.items()
        if not isinstance(field.default, Section)
    ]
    sections = [
        _section(name, field.default)
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, Section)
    ]
    return "".join([document.as_string(), *own, *sections])


def _section(name: str, section: Section) -> str:
    """A table of settings.toml. Inner tables come after its own settings, as TOML requires."""
    values = {key: (getattr(section, key), field) for key, field in type(section).model_fields.items()}
    own = [
        _commented(key, value, field.description)
        for key, (value, field) in values.items()
        if not isinstance(value, Section)
    ]
    inner = [_section(f"{name}.{key}", value) for key, (value, _) in values.items() if isinstance(value, Section)]
    return "".join([f"\n# {type(section).__doc__}\n[{name}]\n", *own, *inner])


def _commented(key: str, default: object, meaning: str | None) -> str:
    value = tomlkit.item(default).as_string() if not isinstance(default, dict) else "{}"
    return f"# {meaning}\n# {key} = {value}\n"
