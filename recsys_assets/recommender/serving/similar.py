"""Similar items: the table `similar_items`, from the served model and from attributes. Nothing is fitted here.

The served model's own item side says which items are alike: similarities of nearest neighbours, weights of EASE, or the
cosine of factors. Attributes fill the places that it leaves, above all for items that nobody has rated.
"""

from collections.abc import Callable

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
_Similarity = Callable[[np.ndarray], np.ndarray]
BY_RATINGS, BY_ATTRIBUTES = "ratings", "attributes"
_COLUMNS = ("item", "rank", "similar", "score", "by")


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
    vectors = attribute_vectors(catalogue)
    alike = {
        BY_RATINGS: _by_model(model, len(catalogue)),
        BY_ATTRIBUTES: lambda of: (vectors[of] @ vectors.T).toarray(),
    }
    found = []
    for by, scores in alike.items():
        ranker = _ranker(scores, len(catalogue))
        own = lazy(pl.DataFrame({"user": items, "item": items, "rating": np.ones(len(items))}))
        # Twice as many, because the first n by attributes may all be there by the model.
        best = top_n(ranker, own, items, n=2 * n, allowed=allowed).filter(pl.col("score") > 0)
        found.append(best.rename({"user": "item", "item": "similar"}).with_columns(by=pl.lit(by)))
    lists = _merged(pl.concat(found).select(_COLUMNS), n, limits)
    places = pl.DataFrame({"item": np.arange(len(catalogue), dtype=np.int32), "item_id": catalogue["item_id"]})
    facts = pl.DataFrame({"similar": places["item"], "similar_item_id": places["item_id"], "title": catalogue["title"]})
    named = lists.join(places, on="item").join(facts, on="similar").sort("item", "rank")
    return named.select("item_id", "rank", "similar_item_id", "title", "score", "by")


def _ranker(alike: _Similarity, n_items: int) -> Ranker:
    """A ranker with items in place of users; ratings do not matter."""

    def scores(of: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return alike(of)

    return Ranker(scores, np.ones(n_items, bool))


def _merged(found: pl.DataFrame, n: int, limits: Limits | None) -> pl.DataFrame:
    """The first n items of each list, every item once, within the limits."""
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


def _by_model(model: ServingModel, n_items: int) -> _Similarity:
    source = similarity_source(model)
    alike = _similarity(model.models[source]) if source else None

    def scores(of: np.ndarray) -> np.ndarray:
        found = np.zeros((len(of), n_items), np.float32)
        if alike is not None:
            known = np.flatnonzero(of < _n_items(model.models[source]))
            within = alike(of[known])
            found[known, : within.shape[1]] = within
        return found

    return scores


def _similarity(fitted: object) -> _Similarity | None:
    """The similarity that a fitted model holds; None if it holds none."""
    match fitted:
        case ItemKNNModel():
            return lambda of: fitted.similarities[of].toarray()
        case EASEModel():
            return lambda of: _of_ease(fitted, of)
        case ALSModel():
            lengths = np.linalg.norm(fitted.item_factors, axis=1, keepdims=True)
            unit = np.divide(fitted.item_factors, lengths, out=np.zeros_like(fitted.item_factors), where=lengths > 0)
            return lambda of: unit[of] @ unit.T
    return None


def _of_ease(model: EASEModel, of: np.ndarray) -> np.ndarray:
    """How much liking each item adds to the score of every item, shape (B, n_items)."""
    place = np.searchsorted(model.items, of).clip(0, max(len(model.items) - 1, 0))
    known = np.flatnonzero(model.items[place] == of) if len(model.items) else np.array([], int)
    found = np.zeros((len(of), model.n_items), np.float32)
    found[np.ix_(known, model.items)] = model.weights[place[known]]
    return found


def _n_items(fitted: object) -> int:
    match fitted:
        case ItemKNNModel():
            return int(fitted.similarities.shape[0])
        case EASEModel():
            return fitted.n_items
        case ALSModel():
            return len(fitted.item_factors)
    return 0


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
