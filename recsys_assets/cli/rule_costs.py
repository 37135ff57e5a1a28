"""What a limit per value costs in this home, by the stored models that were fitted on the training ratings."""

from typing import Any

from recsys_assets.cli.reader import Reader
from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.evaluation.rule_cost import RuleCost, rule_cost
from recsys_assets.recommender.ranking.rankings import Limits
from recsys_assets.recommender.registry import FITS
from recsys_assets.recommender.registry.fitting import entry, parameters_of
from recsys_assets.recommender.serving.recommendations import ServingModel
from recsys_assets.recommender.tuning.quick import Choice


def cost_of(reader: Reader, limits: Limits) -> tuple[RuleCost | None, bool]:
    """The cost of limits for the served model's entry of the task `top_n`; None without a liked test rating.

    Also whether the served model has the present settings, with which the models on the training ratings are fitted.

    Raises:
        IndexMismatchError: users or items have changed since the models were fitted; a refresh fixes that.
        AssetMissingError: nothing has been fitted yet.
    """
    chosen = entry("top_n", reader.model("serving_model", ServingModel).name)
    choice = reader.model("quick_choice", Choice) if reader.store.has(["quick_choice"]) else Choice()
    present = choice.applied(Settings.load(reader.home).model_dump())
    promotion = Promotions(reader.home.promotions).served(reader.store)
    is_served = promotion is None or promotion.configuration.ranking.settings == parameters_of(chosen, present)
    types: dict[str, Any] = {fit.asset: fit.model_type for fit in FITS}
    users, items = (lazy(reader.table(name)) for name in ("users", "items"))
    train, test = (lazy(reader.table(name)) for name in ("train_ratings", "test_ratings"))
    index = Index.of(users, items)
    given = {"users": users, "items": items, "train_ratings": train, "test_ratings": test}
    tables = [name for name in chosen.needs if name not in types and name not in given]
    given |= {name: lazy(reader.table(name)) for name in tables}
    # The stored weights of a blend may be older than the present settings, and give weight to a model that these leave
    # idle.
    needed = [name for name in chosen.needs if name in chosen.needed(present) or reader.store.has([name])]
    models: dict[str, Any] = {name: reader.model(name, types[name]) for name in needed if name in types}
    for name, model in models.items():
        index.require(model.index, name)
    return rule_cost(chosen.ranker(**given, **models), train, test, limits), is_served
