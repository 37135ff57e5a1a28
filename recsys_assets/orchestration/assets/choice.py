"""The quick choice: the asset that chooses the ranking model and its settings in a refresh of all models.

The method is in `recommender.tuning.quick`. The models, `selected` and `promoted_configuration` use the result.
"""

import dagster as dg
import narwhals as nw

from recsys_assets.orchestration.assets.common import SettingsParam, pipeline_asset
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.registry.provenance import libraries
from recsys_assets.recommender.tuning.quick import MODEL, Choice
from recsys_assets.recommender.tuning.quick import quick_choice as chosen_on
from recsys_assets.recommender.tuning.study import trials_table
from recsys_assets.recommender.tuning.tuning import chosen

_SHOWN = ("search", "candidate", "value", "improvement", "low", "high", "is_chosen", "seconds", "refusal")


@pipeline_asset(group="models", kinds={"json"}, settings=("evaluation", "study"), fits_models=True)
def quick_choice(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    user_features: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    settings: SettingsParam,
    home: HomeResource,
) -> Choice:
    """The ranking model and the settings of ranking models, chosen on validation splits of the training ratings.

    The validation splits are three cuts in time. Large data are represented by a sample of the users. The automatic
    settings stay unless a candidate's NDCG at 10 is better by a 95 % interval, paired over users, that allows for the
    number of candidates. The built-in model stays unless another one is better: a model that uses the user's own
    ratings by half a standard error, any other by such an interval. Models that predict ratings are not tried. If
    `evaluation.selected_ranking_model` names a model, nothing is chosen. A setting that is not `auto` keeps its value.
    """
    tables = {"users": users, "items": items, "user_features": user_features, "train_ratings": train_ratings}
    found = chosen_on(
        tables,
        settings.model_dump(),
        trials=home.folders.study / "trials",
        code=libraries(),
        seed=settings.study.seed,
        log=context.log.info,
    )
    choice = Choice(chosen(found))
    rows = [dg.TableRecord(row) for row in trials_table(found).select(_SHOWN).iter_rows(named=True)]
    model = choice.applied(settings.model_dump())[MODEL.split(".")[0]][MODEL.split(".")[1]]
    context.add_output_metadata(
        {"model": model, **choice.settings, **({"trials": dg.MetadataValue.table(rows)} if rows else {})}
    )
    return choice


ASSETS = [quick_choice]
