"""The id map: the dense id (int32) of each user and item, and the fingerprint of all dense ids.

Models keep factors by dense id, so each model remembers the fingerprint of its id map and is refused with another one.
`home/id_map.py` keeps the fingerprints of stored tables.
"""

import hashlib
from dataclasses import dataclass

import narwhals as nw
import polars as pl

from recsys_assets.errors import RecsysError
from recsys_assets.recommender.data.frames import to_polars


class IndexMismatchError(RecsysError):
    """A stored table or model meets an id map other than the one that it was made with."""


@dataclass(frozen=True)
class Index:
    """Size and fingerprint of the id map. The tables `users` and `items` hold the map itself.

    Attributes:
        n_users: number of users.
        n_items: number of items.
        fingerprint: hash of all source ids of users and items, in the order of their dense ids.
    """

    n_users: int
    n_items: int
    fingerprint: str

    @classmethod
    def of(cls, users: nw.LazyFrame, items: nw.LazyFrame) -> "Index":
        """Summarise the id map in the tables `users` (user, user_id) and `items` (item, item_id).

        Examples:
            >>> from recsys_assets.recommender.data.frames import lazy
            >>> users = lazy(pl.DataFrame({"user": [0, 1], "user_id": ["ann", "bob"]}))
            >>> items = lazy(pl.DataFrame({"item": [0, 1, 2], "item_id": ["10", "20", "30"]}))
            >>> index = Index.of(users, items)
            >>> index.n_users, index.n_items
            (2, 3)
        """
        user_ids = to_polars(users.select("user", "user_id").sort("user"))["user_id"]
        item_ids = to_polars(items.select("item", "item_id").sort("item"))["item_id"]
        return cls(len(user_ids), len(item_ids), _digest(user_ids, item_ids))

    def require(self, fitted_with: str, model: str) -> None:
        """Raise unless a model was fitted with this id map.

        Args:
            fitted_with: fingerprint that the model stores.
            model: name of the model's asset, for the message.

        Raises:
            IndexMismatchError: the fingerprints differ; the message names the asset to materialize again.
        """
        if fitted_with != self.fingerprint:
            raise IndexMismatchError(
                f"{model} was fitted with another id map of users and items "
                f"({fitted_with}, now {self.fingerprint}). Materialize {model} and what depends on it again: "
                f"dg launch --assets '{model}+'"
            )


def renumber(rows: pl.LazyFrame, column: str, before: pl.LazyFrame, after: pl.LazyFrame) -> pl.LazyFrame:
    """Translate the dense ids of one id map into the dense ids of another.

    Rows of users or items that the other id map does not have are dropped.

    Args:
        rows: a table with the column.
        column: `user` or `item`.
        before: the column and `<column>_id` of the id map that the rows use.
        after: the column and `<column>_id` of the id map to translate to.
    """
    original = f"{column}_id"
    numbers = before.select(column, original).join(after.select(original, new=column), on=original)
    found = rows.join(numbers.select(column, "new"), on=column, maintain_order="left")
    return found.with_columns(pl.col("new").alias(column)).drop("new")


def _digest(*columns: pl.Series) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for ids in columns:
        # The length prefix keeps ("ab", "c") and ("a", "bc") apart.
        for encoded in (value.encode() for value in ids):
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()
