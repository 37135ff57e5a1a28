"""Attribute vectors of items, which compare two items whether or not anybody has rated them.

Attributes for models that predict ratings are in `models.side_information`.
"""

import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.features.matrices import membership

# Columns of the table `items` that name an item.
_NAMES = ("item", "item_id", "title", "year")
_YEARS = 10


def attribute_vectors(items: pl.DataFrame) -> sparse.csr_array:
    """Return attributes as rows of length 1, shape (n_items, n_values), float32; empty if nothing is known of an item.

    Attributes are the genres, the decade and the values of all further columns of texts. A value that only one item has
    says nothing about others. A rare value weighs more than a frequent one: by log(n_items / items with the value).
    Numbers other than the year are left out, because it is unknown which differences are large.

    Args:
        items: one row per item, with the columns of table `items`.
    """
    parts = [membership(lists) for lists in _lists(items)]
    values = sparse.csr_array(sparse.hstack(parts)) if parts else sparse.csr_array((len(items), 0))
    counts = values.sum(axis=0)
    shared = np.flatnonzero(counts > 1)
    weights = np.log(max(len(items), 1) / np.maximum(counts[shared], 1))
    weighted = values[:, shared] @ sparse.diags_array(weights)
    lengths = np.sqrt((weighted**2).sum(axis=1))
    scale = np.divide(1, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ weighted, dtype=np.float32)


def _lists(items: pl.DataFrame) -> list[pl.Series]:
    """The values of each attribute as lists of texts; null where nothing is known."""
    texts = [name for name, dtype in items.schema.items() if dtype == pl.String and name not in _NAMES]
    lists = [name for name, dtype in items.schema.items() if dtype == pl.List(pl.String)]
    found = [items[name] for name in lists]
    found += [items.select(_listed(pl.col(name)))[name] for name in texts]
    if "year" in items.columns:
        found.append(items.select(_listed((pl.col("year") // _YEARS).cast(pl.String)))["year"])
    return found


def _listed(value: pl.Expr) -> pl.Expr:
    return pl.when(value.is_not_null()).then(pl.concat_list(value))
