"""Similar items: the table `similar_items`, from the served model and from attributes. Nothing is fitted here.

The served model's own item side says which items are alike: similarities of nearest neighbours, weights of EASE, or the
cosine of factors. Attributes fill the places that it leaves, above all for items that nobody has rated.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.evaluation.quality import Finding
from recsys_assets.recommender.features.attribute_vectors import attribute_vectors
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.models.ease import EASEModel
from recsys_assets.recommender.models.item_knn import ItemKNNModel
from recsys_assets.recommender.ranking.rankings import Limits, Ranker, top_n
from recsys_assets.recommender.serving.recommendations import ServingModel

# From items, shape (B,), to their similarity to all items that the model was fitted with, shape (B, K).
_Scores = Callable[[np.ndarray], np.ndarray]


class _Similarity(NamedTuple):
    """Similarities of items.

    Attributes:
        scores: returns the similarities of items to all items that the model was fitted with.
        known: items that have similarities, ascending.
        n_items: number of items that the model was fitted with.
    """

    scores: _Scores
    known: np.ndarray
    n_items: int


BY_RATINGS, BY_ATTRIBUTES = "ratings", "attributes"
# Up to so many distinct attribute values, products with dense vectors are faster than with sparse ones.
_FEW_VALUES = 512
_LISTS_AT_A_TIME = 8_192
_SCHEMA = {"item": pl.Int32, "rank": pl.Int32, "similar": pl.Int32, "score": pl.Float64, "by": pl.String}


def similar_items(
    model: ServingModel,
    catalogue: pl.DataFrame,
    items: np.ndarray,
    *,
    n: int,
    allowed: np.ndarray,
    limits: Limits | None = None,
) -> pl.DataFrame:
    """The most similar items of each item: item_id, rank (from 1), similar_item_id, title, score, by.

    Items come first by the model, as far as their similarity is above 0, then by attributes.

    Args:
        model: the served model.
        catalogue: a row per item with the columns of table `items`: the model's items in the order of their dense ids,
            then items that it does not know.
        items: places in the catalogue of the items that get a list, shape (I,).
        n: items per list; a list is shorter if fewer items are similar.
        allowed: which items may be in a list, shape (len(catalogue),).
        limits: limits per value within a list.
    """
    source, vectors = similarity_source(model), attribute_vectors(catalogue)
    alike = _similarity(model.models[source]) if source else None

    def found(of: np.ndarray, depth: int, within: Limits | None = None) -> pl.DataFrame:
        by_model = _by_ratings(alike, of, allowed, depth, within)
        return pl.concat([by_model, _by_attributes(vectors, of, allowed, depth, within, begun=by_model)])

    # Twice as many, because the first n by attributes may all be there by the model.
    merged = _merged(found(items, 2 * n), n, limits)
    if limits is not None:
        # The nearest items may all have one value. Where they fill no list, all items are candidates.
        whole = merged.filter(pl.col("rank") == n)["item"]
        short = np.setdiff1d(items, whole.to_numpy())
        merged = pl.concat([merged.filter(pl.col("item").is_in(whole.implode())), _merged(found(short, n, limits), n)])
    places = pl.DataFrame({"item": np.arange(len(catalogue), dtype=np.int32), "item_id": catalogue["item_id"]})
    facts = pl.DataFrame({"similar": places["item"], "similar_item_id": places["item_id"], "title": catalogue["title"]})
    named = merged.join(places, on="item").join(facts, on="similar").sort("item", "rank")
    return named.select("item_id", "rank", "similar_item_id", "title", "score", "by")


def _by_ratings(
    alike: _Similarity | None, items: np.ndarray, allowed: np.ndarray, depth: int, limits: Limits | None
) -> pl.DataFrame:
    """The most similar items by the model, for the items that it knows."""
    if alike is None:
        return pl.DataFrame(schema=_SCHEMA)
    known = items[np.isin(items, alike.known)]

    def scores(of: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        found = np.zeros((len(of), len(allowed)), np.float32)
        found[:, : alike.n_items] = alike.scores(of)
        return found

    return _best(scores, known, _own(known), allowed, depth, BY_RATINGS, limits)


def _by_attributes(
    vectors: sparse.csr_array,
    items: np.ndarray,
    allowed: np.ndarray,
    depth: int,
    limits: Limits | None,
    begun: pl.DataFrame,
) -> pl.DataFrame:
    """The most similar items by attributes; with limits, those that are within them together with `begun`."""
    others = vectors.T.tocsc() if vectors.shape[1] > _FEW_VALUES else vectors.T.toarray()

    def scores(of: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        found = vectors[of] @ others
        return found.toarray() if sparse.issparse(found) else np.asarray(found)

    if limits is not None:
        return _best(scores, items, _own(items), allowed, depth, BY_ATTRIBUTES, limits, begun)
    # Items with the same attributes have the same list, but for themselves. One of them is therefore compared with the
    # catalogue.
    rows = vectors[items]
    content = [
        rows.indices[start:end].tobytes() + rows.data[start:end].tobytes() for start, end in pairwise(rows.indptr)
    ]
    alike = pl.DataFrame({"item": items.astype(np.int32), "content": content}, schema_overrides={"content": pl.Binary})
    first = alike.with_columns(first=pl.col("item").first().over("content")).drop("content")
    best = _best(scores, first["first"].unique().sort().to_numpy(), _own(items[:0]), allowed, depth + 1, BY_ATTRIBUTES)
    own = first.join(best.rename({"item": "first"}), on="first").filter(pl.col("item") != pl.col("similar"))
    return own.select(*_SCHEMA).sort("item", "rank")


def _own(items: np.ndarray) -> pl.DataFrame:
    """The pairs of each item and itself."""
    return pl.DataFrame({"user": items, "item": items, "rating": np.ones(len(items))})


def _best(
    scores: Callable[[np.ndarray, sparse.csr_array], np.ndarray],
    of: np.ndarray,
    left_out: pl.DataFrame,
    allowed: np.ndarray,
    depth: int,
    by: str,
    limits: Limits | None = None,
    begun: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The `depth` items with the highest scores above 0 for each item `of`; pairs of `left_out` are left out."""
    ranker = Ranker(scores, np.ones(len(allowed), bool))
    if begun is not None:
        begun = begun.select(user="item", item="similar")
    best = top_n(
        ranker, lazy(left_out), of.astype(np.int32), n=depth, allowed=allowed, limits=limits, begun=begun
    ).filter(pl.col("score") > 0)
    return best.rename({"user": "item", "item": "similar"}).with_columns(by=pl.lit(by)).select(*_SCHEMA)


def _merged(found: pl.DataFrame, n: int, limits: Limits | None = None) -> pl.DataFrame:
    """The first n items of each list, every item once, within the limits."""
    # Polars needs half a gigabyte to find the repeats in all lists of 58,000 items at once.
    last = found.select(pl.col("item").max()).item() or 0
    starts = range(0, last + 1, _LISTS_AT_A_TIME)
    parts = (found.filter(pl.col("item").is_between(start, start + _LISTS_AT_A_TIME - 1)) for start in starts)
    return pl.concat([_shortened(part, n, limits) for part in parts])


def _shortened(found: pl.DataFrame, n: int, limits: Limits | None) -> pl.DataFrame:
    once = found.unique(["item", "similar"], keep="first", maintain_order=True)
    if limits is not None:
        lists = [
            rows[limits.kept(rows["similar"].to_numpy(), n)] for _, rows in once.group_by("item", maintain_order=True)
        ]
        once = pl.concat(lists) if lists else once
    ranked = once.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("item"))
    return ranked.filter(pl.col("rank") <= n)


def similarity_source(model: ServingModel) -> str:
    """Name of the asset of the fitted model that gives similarities; empty if only attributes give them."""
    return next((name for name, fitted in model.models.items() if _similarity(fitted)), "")


def _similarity(fitted: object) -> _Similarity | None:
    """The similarities that a fitted model holds; None if it holds none."""
    match fitted:
        case ItemKNNModel():
            known = np.flatnonzero(np.diff(fitted.similarities.indptr))
            return _Similarity(lambda of: fitted.similarities[of].toarray(), known, fitted.similarities.shape[0])
        case EASEModel():
            return _Similarity(partial(_of_ease, fitted), fitted.items, fitted.n_items)
        case ALSModel():
            lengths = np.linalg.norm(fitted.item_factors, axis=1, keepdims=True)
            unit = np.divide(fitted.item_factors, lengths, out=np.zeros_like(fitted.item_factors), where=lengths > 0)
            return _Similarity(lambda of: unit[of] @ unit.T, np.flatnonzero(lengths[:, 0]), len(unit))
    return None


def _of_ease(model: EASEModel, of: np.ndarray) -> np.ndarray:
    """How much liking each known item adds to the score of every item, shape (B, n_items)."""
    found = np.zeros((len(of), model.n_items), np.float32)
    found[:, model.items] = model.weights[np.searchsorted(model.items, of)]
    return found


def similar_findings(similar: pl.DataFrame, items: pl.DataFrame, *, n: int, allowed: pl.Series) -> list[Finding]:
    """No item is similar to itself or barred by the rules, and every list is ranked from 1 to at most n.

    Args:
        similar: table similar_items.
        items: table items.
        n: items per list.
        allowed: ids of the items that may be shown.
    """
    own = len(similar.filter(pl.col("item_id") == pl.col("similar_item_id")))
    barred = len(similar.filter(~pl.col("similar_item_id").is_in(allowed.implode())))
    unknown = len(similar.filter(~pl.col("item_id").is_in(items["item_id"].implode())))
    ends = similar.group_by("item_id").agg(
        last=pl.col("rank").max(), n=pl.len(), titles=pl.col("similar_item_id").n_unique()
    )
    wrong = len(ends.filter((pl.col("last") != pl.col("n")) | (pl.col("titles") != pl.col("n")) | (pl.col("n") > n)))
    return [
        Finding("no item is similar to itself", own, 0, 0, own == 0),
        Finding("shows what the rules allow", barred, 0, 0, barred == 0),
        Finding("known items", unknown, 0, 0, unknown == 0),
        Finding(f"ranked from 1 to at most {n}, every item once", wrong, 0, 0, wrong == 0),
    ]
