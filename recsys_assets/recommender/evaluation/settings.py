"""The section `evaluation` of the settings: the models shown as `selected`, the bootstrap and ties."""

from collections.abc import Mapping

from pydantic import Field, ValidationInfo, field_validator

from recsys_assets.recommender.data.automatic import AUTO
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.registry import Task
from recsys_assets.recommender.registry.fitting import entry

# The setting that names the selected model of each task.
SELECTED: Mapping[Task, str] = {
    "time_cut": "evaluation.selected_rating_model",
    "top_n": "evaluation.selected_ranking_model",
    "latest_rating": "evaluation.selected_response_model",
    "next_item": "evaluation.selected_next_item_model",
}


class EvaluationSettings(Section):
    """Scores: the models shown as `selected`, bootstrap and ties."""

    selected_rating_model: str = Field("stack", description="The model shown as 'selected' for ratings.")
    selected_ranking_model: str = Field(
        "auto",
        description="The model shown as 'selected' for top N, which also makes the recommendations. auto: chosen on "
        "validation splits of the training ratings (docs/decisions/quick-choice.md). A name turns this "
        "choice off.",
    )
    selected_response_model: str = Field(
        "response_stack", description="The model shown as 'selected' for the latest rating (case study B)."
    )
    selected_next_item_model: str = Field(
        "sessions", description="The model shown as 'selected' for the next item (case study B)."
    )
    n_resamples: int = Field(1_000, ge=100, description="Bootstrap resamples of users behind each interval.")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap and of the order of ties.")

    @field_validator(
        "selected_rating_model", "selected_ranking_model", "selected_response_model", "selected_next_item_model"
    )
    @classmethod
    def _model_is_known(cls, model: str, info: ValidationInfo) -> str:
        task = next(task for task, setting in SELECTED.items() if setting == f"evaluation.{info.field_name}")
        return AUTO if (task, model) == ("top_n", AUTO) else entry(task, model).name
