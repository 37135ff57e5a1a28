"""The quick choice: which ranking model is served and with which settings.

How it is made is `recommender.tuning.quick`; what follows it are the models, `selected` and the promoted configuration.
"""

import dagster as dg
import narwhals as nw
from dagster_pyspark import LazyPySparkResource

from recsys_assets.orchestration.assets.common import SettingsParam, pipeline_asset
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.registry.provenance import libraries
from recsys_assets.recommender.tuning.quick import MODEL, Choice
from recsys_assets.recommender.tuning.quick import quick_choice as chosen_on
from recsys_assets.recommender.tuning.study import trials_table
from recsys_assets.recommender.tuning.tuning import chosen

_SHOWN = ("search", "candidate", "value", "improvement", "low", "high", "is_chosen", "seconds", "refusal")


@pipeline_asset(group="ranking", kinds={"json"}, settings=("evaluation", "study"), fits_models=True)
def quick_choice(
    context: dg.AssetExecutionContext,
    users: nw.LazyFrame,
    movies: nw.LazyFrame,
    user_features: nw.LazyFrame,
    train_ratings: nw.LazyFrame,
    settings: SettingsParam,
    home: HomeResource,
    spark: LazyPySparkResource,
) -> Choice:
    """The ranking model that is served, and the settings of ranking models, chosen on slices of the training ratings.

    Two cuts in time within the training ratings, or within those of a sample of the users. The built-in model and the
    automatic settings stay unless others are surely better there. Where `evaluation.selected_ranking_model` names a
    model, nothing is chosen; a setting that is not `auto` stays what it is.
    """
    tables = {"users": users, "movies": movies, "user_features": user_features, "train_ratings": train_ratings}
    found = chosen_on(
        tables,
        settings.model_dump(),
        trials=home.folders.study / "trials",
        code=libraries(),
        spark=lambda: spark.spark_session,
        scratch=home.scratch,
        seed=settings.study.seed,
        log=context.log.info,
    )
    choice = Choice(chosen(found))
    rows = [dg.TableRecord(row) for row in trials_table(found).select(_SHOWN).iter_rows(named=True)]
    model = choice.applied(settings.model_dump())[MODEL.split(".")[0]][MODEL.split(".")[1]]
    context.add_output_metadata(
        {"model": model, **choice.knobs, **({"trials": dg.MetadataValue.table(rows)} if rows else {})}
    )
    return choice


ASSETS = [quick_choice]
