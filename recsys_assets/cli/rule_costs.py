"""What a limit per value costs in this home, by the stored models that were fitted on the training ratings."""

from typing import Any

from recsys_assets.cli.reader import Reader
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.evaluation.rule_cost import RuleCost, rule_cost
from recsys_assets.recommender.ranking.rankings import Limits
from recsys_assets.recommender.registry import FITS
from recsys_assets.recommender.registry.fitting import entry
from recsys_assets.recommender.serving.recommendations import ServingModel


def cost_of(reader: Reader, limits: Limits) -> RuleCost | None:
    """The cost of limits for the served model's entry of the task `top_n`; None without a liked test rating.

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
    # The stored models of these names learnt from the training ratings alone; those inside of `served` from all.
    models: dict[str, Any] = {name: reader.model(name, types[name]) for name in served.models}
    for name, model in models.items():
        index.require(model.index, name)
    return rule_cost(chosen.ranker(**given, **models), train, test, limits)
