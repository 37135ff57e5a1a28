"""Serving: the model in use and the lists that users see.

The methods are in `recommender.serving` and `recommender.ranking`. The decision about the model is in `promotion`.
"""

from dataclasses import replace

import dagster as dg
import narwhals as nw
import polars as pl

from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.versions import TableWithState
from recsys_assets.orchestration.assets.common import MODEL_KINDS, TABLE_KINDS, SettingsParam, pipeline_asset
from recsys_assets.orchestration.resources import HomeResource
from recsys_assets.recommender.data.blocks import by_user
from recsys_assets.recommender.data.frames import empty, lazy, row_count, to_polars
from recsys_assets.recommender.data.index import Index, IndexMismatchError
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.data.wording import article_first
from recsys_assets.recommender.promotion.gate import Configuration
from recsys_assets.recommender.registry.fitting import ModelFitter
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.serving import similar
from recsys_assets.recommender.serving.audience import Audience
from recsys_assets.recommender.serving.new_items import NewItems
from recsys_assets.recommender.serving.recommendations import Lists, MadeWith, ServingModel

# How much of the lists the UI shows: enough to see whether they make sense.
_SHOWN_USERS, _SHOWN_ITEMS = 3, 5


@pipeline_asset(group="serving", kinds=MODEL_KINDS | {"python"}, settings=("scale",), fits_models=True)
def serving_model(
    context: dg.AssetExecutionContext,
    promoted_configuration: Configuration,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    user_features: nw.LazyFrame,
    user_clusters: nw.LazyFrame,
    ratings: nw.LazyFrame,
    settings: SettingsParam,
) -> ServingModel:
    """The promoted top-N model with its promoted settings, fitted on **all** ratings, not on the training rows alone.

    If there are more than `scale.fit_ratings` ratings, the model is fitted on the ratings of a sample of the users.

    This model is never scored on the test rows. It is stored together with the id maps, features and clusters of its
    users, so that `recommend` can use it until the next model is stored, even if new batches have been ingested.
    """
    ranking = promoted_configuration.ranking
    tables = {"users": users, "items": items, "user_features": user_features, "train_ratings": ratings}
    parameters = {**ranking.all_settings, "scale": settings.scale.model_dump()}
    fitter = ModelFitter(tables, parameters)
    audience = Audience.of({**tables, "user_clusters": user_clusters})
    fitted = serving.fit(ranking.model, fitter)
    model = replace(fitted, audience=audience, configuration=promoted_configuration.name)
    context.add_output_metadata(
        {"model": model.name, "settings": dg.MetadataValue.json(dict(ranking.settings)), "index": model.index}
    )
    return model


@pipeline_asset(group="serving", kinds=TABLE_KINDS, settings=("serving",))
def recommendations(
    context: dg.AssetExecutionContext,
    serving_model: ServingModel,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    ratings: nw.LazyFrame,
    settings: SettingsParam,
    home: HomeResource,
) -> TableWithState:
    """A list for every user: the N best items that the user has not rated; `serving.n` is N.

    Rules say which items a list may show: `serving.where` (a condition on the columns of `items`),
    `serving.exclude_rated`, `serving.exclude_rated_days`, `serving.max_per_value` and the blocked items. A changed rule
    needs no fit, only this asset again. The last `serving.explore` places of each list hold new items,
    which nobody has rated yet, chosen by their attributes. Such an item has a null score.

    The column `because` names the user's own ratings behind an item. A user without a rating gets the items that users
    with the same attributes like, or users of the same cluster if the model is implicit ALS. `because` is then empty.
    """
    Index.of(users, items).require(serving_model.index, "serving_model")
    if serving_model.audience is None:
        raise IndexMismatchError(
            "serving_model was made by a version of this package before 0.5. Make it again: "
            "dg launch --assets 'serving_model+'"
        )
    rules = rules_for_lists(home.folders, settings.serving)
    catalogue = to_polars(items).sort("item")
    allowed = rules.allowed(catalogue).to_numpy()
    explore = settings.serving.explore
    make = Lists(
        serving_model.ranker(ratings, serving_model.audience.tables),
        catalogue.select("item", "item_id", "title"),
        n=settings.serving.n,
        allowed=allowed,
        excludes_all=rules.excludes_all_rated,
        limits=rules.limits(catalogue),
        new=NewItems.of(catalogue, ratings) if explore else None,
        explore=explore,
    )
    rated = ratings.select("user", "item", "rating", is_excluded=rules.is_excluded(ratings))
    everybody = users.select("user", "user_id")
    lists = by_user(
        make,
        rated,
        everybody,
        schema=empty(TABLES["recommendations"]).schema,
        users_per_block=make.users_per_block,
    )
    with_ratings = ratings.select("user").unique()
    few = _few(everybody, with_ratings)
    context.add_output_metadata(
        {
            "model": serving_model.name,
            "users without a rating": row_count(users) - row_count(with_ratings),
            "shown to them": f"what is {make.ranker.otherwise}",
            "items that may be shown": f"{allowed.sum():,} of {len(allowed):,}",
            "rules": dg.MetadataValue.json(rules.told(ratings)),
            "a sample of the lists": _sample(make(few, rated.filter(nw.col("user").is_in(few["user"].to_list())))),
        }
    )
    return TableWithState(lists, MadeWith(serving_model.configuration, rules.blocked))


def _few(users: nw.LazyFrame, with_ratings: nw.LazyFrame) -> pl.DataFrame:
    """A few users with a rating, and one without."""
    of_each = (users.join(with_ratings, on="user", how=how) for how in ("semi", "anti"))
    first = [to_polars(of.sort("user").head(n)) for of, n in zip(of_each, (_SHOWN_USERS, 1), strict=True)]
    return pl.concat(first).sort("user")


def _sample(lists: pl.DataFrame) -> dg.TableMetadataValue:
    """The first items of some lists."""
    rows = lists.filter(pl.col("rank") <= _SHOWN_ITEMS)
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "user": row["user_id"],
                    "place": row["rank"],
                    "item": article_first(row["title"] or row["item_id"]),
                    "because of": " · ".join(map(article_first, row["because"])) or "–",
                }
            )
            for row in rows.sort("user_id", "rank").iter_rows(named=True)
        ],
        # A sample without rows, of a home without users, tells Dagster no columns.
        schema=dg.TableSchema([dg.TableColumn(name) for name in ("user", "place", "item", "because of")]),
    )


@pipeline_asset(group="serving", kinds=TABLE_KINDS, settings=("serving",))
def similar_items(
    context: dg.AssetExecutionContext,
    serving_model: ServingModel,
    users: nw.LazyFrame,
    items: nw.LazyFrame,
    settings: SettingsParam,
    home: HomeResource,
) -> TableWithState:
    """The N items most similar to each item, by the served model and by attributes; `serving.n` is N.

    The column `by` names the source. `ratings`: similarities of neighbours, weights of EASE or cosines of factors
    above 0, depending on the served model. `attributes`: the cosine of genres, decade and texts. Items by attributes
    fill the places that the model leaves, and all places of a new item, which nobody has rated. Rules of `[serving]`
    and blocked items apply as in `recommendations`.
    """
    Index.of(users, items).require(serving_model.index, "serving_model")
    rules = rules_for_lists(home.folders, settings.serving)
    catalogue = to_polars(items).sort("item")
    found = similar.similar_items(
        serving_model,
        catalogue,
        catalogue["item"].to_numpy(),
        n=settings.serving.n,
        allowed=rules.allowed(catalogue).to_numpy(),
        limits=rules.limits(catalogue),
    )
    by = similar.similarity_source(serving_model) or "attributes alone"
    context.add_output_metadata({"by": by, "items with a list": found["item_id"].n_unique()})
    return TableWithState(lazy(found), MadeWith(serving_model.configuration, rules.blocked))


ASSETS = [serving_model, recommendations, similar_items]
