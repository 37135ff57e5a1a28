import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.evaluation.lists import top_lists
from recsys_assets.recommender.models import biases, item_mean
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.registry import top_n


def _table(columns: str, *rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=columns.split(), orient="row")


@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 8), st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_ranks_agree_with_sorting_the_unseen_items(n_users, n_lists, n_items, seed, few):
    """Hits and NDCG would be wrong; with tied scores they would change from run to run."""
    random = np.random.default_rng(seed)
    weights = random.integers(0, 3, (n_users, n_lists)).astype(float)
    scores = random.integers(0, 3, (n_lists, n_items)).astype(float)
    seen = random.random((n_users, n_items)) < 0.5
    rows, items = np.nonzero(~seen)
    total = weights @ scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "_SCORES_PER_BLOCK", 3 * n_items)
        patch.setattr(rankings, "_FEW", few)
        ordered = np.where(seen, -np.inf, total)
        ranks = rankings.ranks(lambda of: ordered[of], n_items, rows, items)
    for row, item, rank in zip(rows, items, ranks, strict=True):
        best_first = sorted(np.flatnonzero(~seen[row]), key=lambda other, row=row: (-total[row, other], other))
        assert rank == 1 + best_first.index(item)


def test_items_that_a_model_does_not_know_come_last():
    """What a model knows nothing of would be scored, and served, before what it only advises against."""
    vectors = np.array([[-2.0], [0.0], [-1.0], [1.0]], np.float32)
    ranker = rankings.of_vectors(np.ones((1, 1), np.float32), vectors)
    rated = lazy(_table("user item rating", (0, 3, 5.0)))
    pairs = lazy(_table("user item", *[(0, item) for item in range(3)]))
    assert rankings.rank_pairs(ranker, pairs, rated=rated)["rank"].to_list() == [2, None, 1]
    assert rankings.top_n(ranker, rated, np.array([0]))["item", "score"].rows() == [(2, -1.0), (0, -2.0), (1, None)]
    assert to_polars(top_lists(ranker, np.array([0]), rated=rated))["item"].to_list() == [2, 0]
    assert rankings.top_n(ranker, rated, np.array([], np.int32)).is_empty()


def test_popularity_counts_ratings_and_knows_no_unrated_item():
    """The baseline would rank by the wrong counts, or claim a place for an item it has never seen."""
    items = _table("item", *[(item,) for item in range(10)])
    counted = _table("item", *[(3,)] * 4, *[(2,)] * 3, (0,), (1,))
    rated = _table("user item rating", (0, 3, 5.0), (1, 2, 0.0), (2, 0, 1.0))
    pairs = _table("user item", (0, 0), (1, 1), (2, 9))
    popularity = top_n.popularity(lazy(items), lazy(counted))
    ranked = rankings.rank_pairs(popularity, lazy(pairs), rated=lazy(rated))
    # User 0 has seen 3: 2, then 0. User 1 has seen 2, though it rated it 0: 3, then 0 and 1 tied, the lower first.
    assert ranked.rows() == [(0, 0, 2), (1, 1, 3), (2, 9, None)]


def test_means_and_biases_rank_what_was_rated_highest_for_everybody():
    """The baselines of lists would rank by something else, or not know an item whose mean is that of all."""
    items = _table("item", *[(item,) for item in range(4)])
    rated = _table("user item rating", (0, 0, 5.0), (1, 0, 5.0), (0, 1, 3.0), (1, 1, 3.0), (0, 2, 4.0), (1, 2, 4.0))
    index = Index(3, 4, "i")
    pairs = lazy(_table("user item", *[(2, item) for item in range(4)]))
    fitted = {
        "_item_mean": item_mean.fit(lazy(rated), index=index, settings=item_mean.ItemMeanSettings()),
        "_user_item_bias": biases.fit(lazy(rated), index=index, settings=biases.UserItemBiasSettings()),
    }
    for name, model in fitted.items():
        ranker = getattr(top_n, name)(model, lazy(items), lazy(rated))
        assert rankings.rank_pairs(ranker, pairs, rated=lazy(rated))["rank"].to_list() == [1, 3, 2, None]
        assert ranker.otherwise
