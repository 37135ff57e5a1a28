"""New items in lists: a bounded number of places for items that nobody has rated, chosen by attributes.

No model can score such an item. Its attributes can be compared with those of the items that a user liked.
"""

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.features.attribute_vectors import attribute_vectors
from recsys_assets.recommender.models.item_knn import liked
from recsys_assets.recommender.ranking.rankings import Limits, Ranker, pairs, top_n

# Reason, in words, for a new item that no rating of the user speaks for.
OTHERWISE = "new, and like what many like"


@dataclass(frozen=True)
class NewItems:
    """Items that nobody has rated, and how they are ranked for a user.

    Attributes:
        ranker: scores new items by the cosine of their attributes and the sum of the attributes of a user's liked
            items; for a user without likes, of everybody's likes. It knows no other item.
        is_new: shape (n_items,), whether nobody has rated the item and something is known of it.
    """

    ranker: Ranker
    is_new: np.ndarray

    @classmethod
    def of(cls, catalogue: pl.DataFrame, ratings: nw.LazyFrame) -> "NewItems":
        """The new items of a catalogue.

        Args:
            catalogue: table items, sorted by item.
            ratings: table ratings, of all users.
        """
        vectors = attribute_vectors(catalogue)
        limit = relevant_from(ratings)
        is_liked = nw.col("rating").cast(nw.Float64()) >= limit
        counted = to_polars(ratings.group_by("item").agg(likes=is_liked.cast(nw.Int64()).sum()))
        likes, is_rated = np.zeros(len(catalogue), np.float32), np.zeros(len(catalogue), bool)
        likes[counted["item"].to_numpy()], is_rated[counted["item"].to_numpy()] = counted["likes"].to_numpy(), True
        is_new = ~is_rated & (np.diff(vectors.indptr) > 0)
        of_all = likes @ vectors
        places = np.flatnonzero(is_new)
        of_new = sparse.csr_array(vectors[places].T)

        def scores(_: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
            profiles = (liked(rows, limit) @ vectors).toarray()
            profiles[~profiles.any(axis=1)] = of_all
            lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
            found = np.zeros(rows.shape, np.float32)
            found[:, places] = (profiles / np.maximum(lengths, 1e-9)) @ of_new
            return found

        def contributions(own: sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
            cell, recommendation = pairs(own, rows)
            alike = vectors[own.indices[cell]].multiply(vectors[items[recommendation]]).sum(axis=1)
            return np.asarray(alike).ravel() * (own.data >= limit)[cell]

        return cls(Ranker(scores, is_new, contributions, OTHERWISE), is_new)

    def placed(
        self,
        best: pl.DataFrame,
        ratings: nw.LazyFrame,
        users: np.ndarray,
        *,
        n: int,
        places: int,
        allowed: np.ndarray,
        limits: Limits | None = None,
    ) -> pl.DataFrame:
        """Lists whose last places hold new items: user, rank, item, score, is_new. The score of a new item is null.

        No list gets shorter. New items that are nothing like what a user likes take no place.

        Args:
            best: lists of at most n items, as `rankings.top_n` returns them.
            ratings: user, item, rating; of these users.
            users: dense ids, shape (U,).
            n: length of a list.
            places: how many places of a list new items may take.
            allowed: which items may be shown, shape (n_items,).
            limits: limits per value within a list.
        """
        open_to, places = self.is_new & allowed, min(places, n)
        if not places or not open_to.any():
            return best.with_columns(is_new=pl.lit(value=False))
        old = best.with_columns(is_new=pl.lit(value=False))

        def nearest(of: np.ndarray, depth: int, among: np.ndarray, **within: Any) -> pl.DataFrame:
            found = top_n(self.ranker, ratings, of, n=depth, allowed=among, **within).filter(pl.col("score") > 0)
            return found.with_columns(is_new=pl.lit(value=True), score=pl.lit(None, pl.Float64)).select(old.columns)

        if limits is None:
            new = nearest(users, places, open_to)
            n_new = new.group_by("user").len("n_new")
            others = old.join(new, on=["user", "item"], how="anti", maintain_order="left")
            kept = others.join(n_new, on="user", how="left", maintain_order="left").with_columns(
                place=pl.int_range(1, pl.len() + 1).over("user")
            )
            fits = pl.col("place") <= n - pl.col("n_new").fill_null(0)
            merged = pl.concat([kept.filter(fits).select(old.columns), new])
        else:
            # A list with too few rated items already holds new items. They are ranked again with the others.
            held = old.filter(pl.Series(self.is_new)[old["item"]])
            is_held = np.isin(np.arange(len(open_to)), held["item"])
            moved = nearest(held["user"].unique().to_numpy(), int(is_held.sum()), is_held)
            others = old.join(moved, on=["user", "item"], how="anti", maintain_order="left")
            first = others.filter(pl.int_range(pl.len()).over("user") < n - places)
            merged = _within(old, first, nearest(users, places, open_to, limits=limits, begun=first), n, limits)
        return (
            merged.sort("user", "is_new", "rank", maintain_order=True)
            .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user"))
            .select(old.columns)
        )


def _within(old: pl.DataFrame, first: pl.DataFrame, new: pl.DataFrame, n: int, limits: Limits) -> pl.DataFrame:
    """The rows of all lists within the limits: the first old items, then new ones, then further old ones."""
    of_old, of_first, of_new = (
        {user: rows["item"].to_list() for (user,), rows in table.group_by("user", maintain_order=True)}
        for table in (old, first, new)
    )
    listed: list[tuple[int, int, bool]] = []
    for user in of_old | of_new:
        best, chosen = of_old.get(user, []), of_new.get(user, [])
        while True:
            in_turn = [*dict.fromkeys([*of_first.get(user, []), *chosen, *best])]
            kept = limits.kept(np.array(in_turn), n)
            if not chosen or len(kept) >= len(best):
                break
            # A new item of many values would take the places of several old ones.
            chosen.pop()
        listed += [(user, in_turn[place], in_turn[place] in chosen) for place in kept]
    rows = pl.DataFrame(listed, schema={"user": pl.Int32, "item": pl.Int32, "is_new": pl.Boolean}, orient="row")
    return pl.concat([old, new]).join(rows, on=["user", "item", "is_new"], how="semi")
