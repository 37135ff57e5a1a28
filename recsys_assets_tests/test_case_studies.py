import numpy as np
import polars as pl
import pytest

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import conform, lazy, row_count, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets.recommender.models import cold_start
from recsys_assets_tests.movielens import archive


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Users, items and ratings of MovieLens 1M, as the assets would hold them."""
    source = read_source(archive("ml-1m"), scratch=tmp_path_factory.mktemp("scratch"))
    raw = {name: [lazy(getattr(source, name))] for name in ("ratings", "users", "items")}
    users = lazy(to_polars(merge.index_users(raw["users"], raw["ratings"])))
    items = lazy(to_polars(merge.index_items(raw["items"], raw["ratings"])))
    ratings = conform(merge.merge_ratings(raw["ratings"], users, items), TABLES["ratings"])
    return users, items, lazy(to_polars(ratings))


def test_case_study_a_counts(catalogue):
    """Nobody could believe a comparison with case study A whose training set is another one."""
    _, _, ratings = catalogue
    train, test = (splitting.cut_in_time(ratings, side) for side in ("train", "test"))
    assert (row_count(train), row_count(test)) == (800_000, 200_209)
    assert cold_start.ratings_per_user(train) == (5_399, pytest.approx(148.17558807186515, abs=1e-12), 86.0)
    seen = to_polars(train.select("user").unique())
    unseen = to_polars(test).join(seen, on="user", how="anti")
    assert round(len(unseen) / 200_209, 4) == 0.4779
    assert len(to_polars(test.select("user").unique())) == 1_783


def test_case_study_a_adjusted_training_set(catalogue):
    """The fill would have another size than the published one, and its effect another cause."""
    users, _, ratings = catalogue
    train = splitting.cut_in_time(ratings, "train")
    assigned = clusters.assign(lazy(clusters.user_features(users)), settings=clusters.ClusterSettings(k=5, n_init=1))
    items = to_polars(train.select("item").unique())
    predicted = pl.DataFrame({"cluster": np.arange(5, dtype=np.int32)}).join(items, how="cross")
    predicted = predicted.with_columns(rating=pl.lit(3.0, pl.Float32))
    adjusted = to_polars(
        cold_start.fill_cold_users(
            train, users, lazy(assigned), lazy(predicted), settings=cold_start.ColdStartSettings()
        )
    )
    assert len(adjusted) == 855_126
    fills = adjusted.filter("is_fill")
    assert fills["user"].n_unique() == 641
    assert len(fills) == 641 * 86


def test_case_study_b_partition(catalogue):
    """Case study B's 70/30 would be another split, or users would be lost between histories and responses."""
    users, _, ratings = catalogue
    partition = splitting.partition_users(users, seed=1234)
    parts = {
        (kind, side): row_count(getattr(splitting, kind)(ratings, partition, side))
        for kind in ("histories", "responses")
        for side in ("train", "test")
    }
    assert sum(parts.values()) == 1_000_209
    assert parts["responses", "train"] + parts["responses", "test"] == 6_040
    assert parts["responses", "train"] / 6_040 == pytest.approx(0.7, abs=0.015)
