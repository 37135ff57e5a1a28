"""The generator of `benchmarks/`: what its data looks like, and that a seed fixes every byte."""

import hashlib

import numpy as np
import polars as pl
import pytest

from benchmarks.generate import FIRST_SECOND, LAST_SECOND, N_SEGMENTS, Size, World, generate
from recsys_assets.recommender.ingest.sources import read_source

SIZE = Size.of(20_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All formats of 20,000 ratings."""
    made = tmp_path_factory.mktemp("generated")
    generate(made, SIZE, seed=3, formats=("csv", "parquet", "zip"))
    return made


@pytest.fixture(scope="module")
def ratings(folder):
    """The Parquet file as a frame."""
    return pl.read_parquet(folder / "parquet" / "ratings.parquet")


def _hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(folder, tmp_path):
    """Two people compare figures of the same size and seed, and have measured different data."""
    generate(tmp_path / "again", SIZE, seed=3, formats=("csv", "parquet", "zip"))
    assert _hashes(tmp_path / "again") == _hashes(folder)
    generate(tmp_path / "other", SIZE, seed=4, formats=("csv",))
    assert _hashes(tmp_path / "other")["csv/ratings.csv"] != _hashes(folder)["csv/ratings.csv"]


def test_data_of_another_seed_is_not_taken_for_what_was_asked_for(folder):
    """Somebody asks for seed 5 in a folder of seed 3, and is measured on seed 3."""
    with pytest.raises(ValueError, match="name another folder"):
        generate(folder, SIZE, seed=5)


def test_ratings_have_the_shape_that_the_page_states(ratings):
    """A benchmark on generated data says nothing about MovieLens, because its tails, stars or times are others."""
    per_user, per_item = ratings["userId"].value_counts()["count"], ratings["movieId"].value_counts()["count"]
    assert len(ratings) == SIZE.ratings == ratings.select("userId", "movieId").unique().height
    assert len(per_user) == SIZE.users == 204
    assert per_user.min() == 1
    assert 20 <= per_user.median() <= 60
    assert per_user.max() > 300
    assert per_item.max() > 20 * per_item.median()
    assert set(ratings["rating"]) == set(np.arange(1, 11) / 2)
    assert 3.3 < ratings["rating"].mean() < 3.7
    assert ratings["timestamp"].is_between(FIRST_SECOND, LAST_SECOND).all()
    gap = ratings.sort("userId", "timestamp").select(pl.col("timestamp").diff().over("userId")).to_series().drop_nulls()
    assert (gap < 120).mean() > 0.9
    assert gap.max() > 30 * 86_400


def test_users_rate_their_own_segments_more_and_higher(ratings):
    """Models are compared on data in which there is nothing to learn."""
    world = World.planted(SIZE, seed=3)
    user = ratings["userId"].to_numpy() - 1
    segment = world.item_segment[np.searchsorted(world.item_ids, ratings["movieId"].to_numpy())]
    is_own = segment == world.user_segments[user, 0]
    assert is_own.mean() > 2.5 / N_SEGMENTS
    stars = ratings["rating"].to_numpy()
    assert stars[is_own].mean() > stars[~is_own].mean() + 0.1


@pytest.mark.parametrize("source", ["csv", "parquet", "zip/generated.zip"])
def test_ingest_reads_every_format_alike(folder, ratings, source, tmp_path):
    """The generated files are refused, or the formats of one seed are measured with different rows."""
    read = read_source(folder / source, scratch=tmp_path)
    rows = read.ratings.collect()
    items = read.items.collect()
    assert len(rows) == SIZE.ratings
    assert rows["rating"].sum() == ratings["rating"].sum()
    assert len(items) == SIZE.items
    assert items["title"].null_count() == items["genres"].null_count() == 0
