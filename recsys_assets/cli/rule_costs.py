"""What the rules for lists cost in this home, by the stored models that were fitted on the training ratings."""

from typing import Any

from recsys_assets.cli.reader import Reader
from recsys_assets.home.promotions import Promotions
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.ranking.rankings import Limits
from recsys_assets.recommender.registry import FITS
from recsys_assets.recommender.registry.fitting import entry
from recsys_assets.recommender.serving.recommendations import ServingModel
from recsys_assets.recommender.serving.rule_cost import RuleCosts, rule_costs


def costs_of(reader: Reader, *, n: int, limits: Limits | None, explore: int) -> tuple[RuleCosts | None, bool]:
    """The cost of the rules for the served model's entry of the task `top_n`; None without a liked test rating.

    Also whether the models on the training ratings are known to have the settings of the served model.

    Args:
        reader: reader of the home.
        n: length of the lists.
        limits: the limits per value.
        explore: how many places of a list new items may take.

    Raises:
        IndexMismatchError: users or items have changed since the models were fitted; a refresh fixes that.
        AssetMissingError: nothing has been fitted yet.
    """
    served = reader.model("serving_model", ServingModel)
    chosen = entry("top_n", served.name)
    types: dict[str, Any] = {fit.asset: fit.model_type for fit in FITS}
    users, items = (lazy(reader.table(name)) for name in ("users", "items"))
    train, test = (lazy(reader.table(name)) for name in ("train_ratings", "test_ratings"))
    index = Index.of(users, items)
    given = {"users": users, "items": items, "train_ratings": train, "test_ratings": test}
    tables = [name for name in chosen.needs if name not in types and name not in given]
    given |= {name: lazy(reader.table(name)) for name in tables}
    # The stored weights of a blend may give weight to a model that the served weights leave idle.
    used = [name for name in chosen.needs if name in types and (name in served.models or reader.store.has([name]))]
    models: dict[str, Any] = {name: reader.model(name, types[name]) for name in used}
    for name, model in models.items():
        index.require(model.index, name)
    ranker, catalogue = chosen.ranker(**given, **models), to_polars(items).sort("item")
    costs = rule_costs(ranker, catalogue, train, test, n=n, limits=limits, explore=explore)
    return costs, _have_served_settings(reader, served)


def _have_served_settings(reader: Reader, served: ServingModel) -> bool:
    """Whether the run that fitted each model on the training ratings decided about the served settings.

    Present settings say nothing about stored models: they may have changed since the fit.
    """
    record = Promotions(reader.home.promotions)
    in_use = record.served(reader.store)
    if in_use is None:
        return False
    same = [each.run_id[:8] for each in record.all() if each.configuration.ranking == in_use.configuration.ranking]
    return all(reader.store.current([name]).name.partition("-")[2] in same for name in served.models)
