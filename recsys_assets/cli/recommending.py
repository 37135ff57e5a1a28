"""Recommendations for one user by the served model, even if new batches were ingested after its fit; lists for all.

The command is in `results`. Lists for all users are the asset `recommendations`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.run import launch, locked, require_rules
from recsys_assets.cli.terminal import follow_up
from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index, renumber
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.ranking.rules import mask_of
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.serving.audience import Audience
from recsys_assets.recommender.serving.new_items import NewItems
from recsys_assets.recommender.serving.recommendations import ServingModel

# No user has this id, because ids of sources are not empty.
_NOBODY = ""


@dataclass(frozen=True)
class Recommended:
    """A list for one user.

    Attributes:
        rows: item_id, title, year, genres, score, because and new (nobody has rated it) of each item; the best first.
        otherwise: text for the reason of an item without a rating behind it.
        notes: lines for the reader of the list.
    """

    rows: Sequence[Mapping[str, Any]]
    otherwise: str
    notes: Sequence[str]


def recommended(reader: Reader, user_id: str | None, n: int) -> Recommended:
    """The best items that a user has not rated.

    Args:
        reader: reader of the home.
        user_id: id of the user; None for a new user without ratings and attributes.
        n: number of items.

    Raises:
        CommandError: no user has this id.
        RuleError: a rule for lists cannot be applied, or leaves no item.
    """
    here = reader.user(user_id) if user_id is not None else None
    model = reader.model("serving_model", ServingModel)
    users, items = reader.table("users"), reader.table("items")
    index = Index.of(lazy(users), lazy(items))
    audience = audience_of(reader, model, index)
    number = audience.number(user_id) if user_id is not None else None
    is_new = number is None
    if number is None:
        number = len(audience.users)
        audience = audience.with_newcomer(user_id or _NOBODY, _features(users, here))
    settings = Settings.load(reader.home).serving
    rules = rules_for_lists(reader.home, settings)
    # Days are counted back from the latest rating of the home, which the audience may not have.
    of_home = lazy(reader.table("ratings"))
    marked: pl.LazyFrame = of_home.with_columns(is_excluded=rules.is_excluded(of_home)).to_native()
    ranker = model.ranker(lazy(audience.ratings(marked, users, items)), audience.tables)
    present = items.collect()
    allowed = present.filter(rules.allowed(present))
    # With the items that came after the fit, because a list may hold new ones.
    catalogue = audience.catalogue(present)
    of_all = renumber(marked, "item", items, catalogue.lazy())
    own = of_all.filter(pl.col("user").is_in([here["user"]] if here else []))
    # New items have the same share of a shorter list.
    places = settings.explore * min(n, settings.n) // settings.n
    make = serving.Lists(
        ranker.among(len(catalogue)),
        catalogue.select("item", "item_id", "title"),
        n=n,
        # Items that were removed after the fit are not allowed either.
        allowed=mask_of(allowed["item_id"], catalogue["item_id"]),
        excludes_all=rules.excludes_all_rated,
        limits=rules.limits(catalogue),
        new=NewItems.of(catalogue, lazy(of_all)) if places else None,
        explore=places,
    )
    user = pl.DataFrame({"user": [number], "user_id": [user_id or _NOBODY]}, schema_overrides={"user": pl.Int32})
    shown = make(user, lazy(own.with_columns(user=pl.lit(number, pl.Int32)).collect())).drop("title")
    facts = present.select("item_id", "title", "year", "genres")
    rows = shown.rename({"is_new": "new"}).join(facts, on="item_id").sort("rank").to_dicts()
    # Reasons of new items say nothing about the model.
    without = "–" if any(row["because"] and not row["new"] for row in rows) else ranker.otherwise
    notes = from_before(reader, model, index, user_id if is_new else None)
    if not rows:
        excluded = own.filter("is_excluded").join(catalogue.lazy(), on="item").select("item_id").collect()
        left = allowed.join(excluded, on="item_id", how="anti")
        notes = [_why_empty(user_id, len(left), len(allowed), len(present)), *notes]
    return Recommended(rows, without, notes)


def recommend_to_everybody(reader: Reader, out: Console) -> None:
    """Make the table `recommendations` again, with the present rules.

    Raises:
        RuleError: a rule for lists cannot be applied, or leaves no item; the table stays as it was.
        RunFailedError: the run failed; the message says why.
    """
    require_rules(reader.home)
    model = reader.model("serving_model", ServingModel)
    index = Index.of(lazy(reader.table("users")), lazy(reader.table("items")))
    with locked(reader.home):
        from recsys_assets.orchestration.planning import lists_anew

        launch(reader.home, out, [lists_anew(fits=model.index != index.fingerprint)])
    lists = reader.table("recommendations")
    users, shown = lists.select(pl.col("user_id", "item_id").n_unique()).collect().row(0)
    out.print(
        f"{users:,} users have lists, of {shown:,} items: {follow_up('export recommendations FILE', reader.home)}"
    )


def audience_of(reader: Reader, model: ServingModel, index: Index) -> Audience:
    """The audience of a model. Models of versions before 0.5 have none and get the present one.

    Raises:
        IndexMismatchError: such a model was fitted with another id map than the present one.
    """
    if model.audience is not None:
        return model.audience
    index.require(model.index, "serving_model")
    return Audience.of(
        {name: lazy(reader.table(name)) for name in ("users", "items", "user_features", "user_clusters")}
    )


def _features(users: pl.LazyFrame, user: Mapping[str, object] | None) -> pl.DataFrame:
    """The row of a user in `user_features`, computed from the present users; no row for an unknown user."""
    features = clusters.user_features(lazy(users))
    return features.filter(user=user["user"]) if user else features.clear()


def _why_empty(user_id: str | None, n_left: int, n_allowed: int, n_items: int) -> str:
    if n_left:
        who = "a new user" if user_id is None else f"user {user_id}"
        return f"All items that may still be shown to {who} ({n_left:,}) came after the model was fitted."
    which = f"all {n_items:,} items of the catalogue"
    if n_allowed < n_items:
        which = f"all {n_allowed:,} items that may be shown, of {n_items:,} in the catalogue"
    return f"User {user_id} has rated {which}: nothing is left to recommend."


def from_before(reader: Reader, model: ServingModel, index: Index, newcomer: str | None) -> list[str]:
    """A note that the list comes from models older than the present users and items; empty if they are not.

    Args:
        reader: reader of the home.
        model: the served model.
        index: the present id map.
        newcomer: id of a user whom the model does not know; None if it knows the user.
    """
    if model.index == index.fingerprint:
        return []
    fitted = f"{reader.written('serving_model'):%Y-%m-%d %H:%M} UTC"
    anew = f"The next refresh fits new ones: {follow_up('run', reader.home)}"
    if newcomer is None:
        return [f"The models of {fitted} are older than the present users and items. {anew}"]
    return [
        f"The models of {fitted} do not know user {newcomer}. The list follows from the user's attributes and ratings "
        f"of items that the models know. {anew}"
    ]
