"""Places for new items in the list of one user, by the present catalogue; `recommending` makes the list itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recsys_assets.cli.reader import ITEM_NAME, Reader
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.ranking.reasons import reasons
from recsys_assets.recommender.ranking.rules import Rules
from recsys_assets.recommender.serving.new_items import NewItems

# The dense id of a user without a row in `users`, and so without a rating.
_NOBODY = np.iinfo(np.int32).max


def with_new_items(
    reader: Reader,
    rows: Sequence[Mapping[str, Any]],
    user: Mapping[str, object] | None,
    rules: Rules,
    *,
    n: int,
    places: int,
) -> list[dict[str, Any]]:
    """A user's list whose last places hold items that nobody has rated, including items newer than the model.

    Args:
        reader: reader of the home.
        rows: the list; see `Recommended.rows`.
        user: row of table users; None for a user without a row.
        rules: the rules for lists.
        n: length of the list.
        places: largest number of places for new items.
    """
    catalogue, ratings = reader.table("items").collect().sort("item"), reader.table("ratings")
    number = _NOBODY if user is None else user["user"]
    rated = lazy(ratings.filter(pl.col("user") == number))
    schema = {"item_id": pl.String, "score": pl.Float64}
    listed = pl.DataFrame([(row["item_id"], row["score"]) for row in rows], schema=schema, orient="row")
    best = listed.join(catalogue.select("item_id", "item"), on="item_id", maintain_order="left").select(
        user=pl.lit(number, pl.Int32), rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32), item="item", score="score"
    )
    new = NewItems.of(catalogue, lazy(ratings))
    merged = new.placed(
        best,
        rated,
        np.array([number], np.int32),
        n=n,
        places=places,
        allowed=rules.allowed(catalogue).to_numpy(),
        limits=rules.limits(catalogue),
    )
    names = dict(catalogue.select("item", ITEM_NAME).iter_rows())
    because: dict[int, list[str]] = {}
    for row in reasons(merged.filter("is_new"), rated, new.ranker).sort("item", "place").iter_rows(named=True):
        because.setdefault(row["item"], []).append(names[row["because"]])
    known = {row["item_id"]: row for row in rows}
    facts = merged.join(catalogue.select("item", "item_id", "title", "year", "genres"), on="item").sort("rank")
    shown = []
    for row in facts.iter_rows(named=True):
        own = known.get(row["item_id"]) if not row["is_new"] else None
        told = {name: row[name] for name in ("item_id", "title", "year", "genres")}
        shown.append(
            {**own, "rank": row["rank"]}
            if own
            else {
                **({"user_id": user["user_id"]} if user else {}),
                "rank": row["rank"],
                "score": None,
                "because": because.get(row["item"], []),
                "new": True,
                **told,
            }
        )
    return shown
