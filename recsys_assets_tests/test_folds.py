"""MovieLens 100K's published folds, from a source to tables of dense ids."""

import polars as pl
import pytest

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.folds import published_folds
from recsys_assets_tests.movielens import archive

USERS = lazy(pl.DataFrame({"user": [0, 1], "user_id": ["7", "3"]}, schema_overrides={"user": pl.Int32}))
ITEMS = lazy(pl.DataFrame({"item": [0, 1], "item_id": ["50", "9"]}, schema_overrides={"item": pl.Int32}))


def _source(folder, **files: str) -> Source:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return Source(folder, folder.parent / "scratch")


def test_folds_are_read_by_dense_ids(tmp_path):
    """Scores on u1 would be of other rows than those behind the published numbers."""
    source = _source(tmp_path / "data", u1_base="7\t50\t5\t1\n3\t50\t4\t2\n3\t77\t4\t2\n", u1_test="3\t9\t1\t3\n")
    folds = published_folds(source, USERS, ITEMS)
    assert folds.rows() == [("u1", 0, 0, "train"), ("u1", 1, 0, "train"), ("u1", 1, 1, "test")]
    ratings = lazy(pl.DataFrame({"user": [0, 1, 1], "item": [0, 0, 1], "rating": [5.0, 4.0, 1.0]}))
    sides = {s: to_polars(splitting.published_fold(ratings, lazy(folds), s, fold="u1")) for s in ("train", "test")}
    assert sides["test"].rows() == [(1, 1, 1.0)]
    assert sorted(sides["train"]["rating"]) == [4.0, 5.0]


def test_a_source_without_folds_has_none(tmp_path):
    """Data of one's own, or half a fold, would stop the study."""
    assert published_folds(_source(tmp_path / "data", u1_base="7\t50\t5\t1\n", u_data="x"), USERS, ITEMS) is None


def test_a_damaged_fold_is_named(tmp_path):
    """A cut-off file would give a score on some of its rows, or an error that does not say where."""
    source = _source(tmp_path / "data", u1_base="7\t50\t5\t1\n", u1_test="3\t9\t1\t3\n3\n")
    with pytest.raises(SourceError, match=r"u1\.test, line 2"):
        published_folds(source, USERS, ITEMS)


def test_movielens_100k_has_five_folds(tmp_path):
    """The published folds would not be found where they lie."""
    path = archive("ml-100k")
    ids = [str(number) for number in range(1, 1683)]
    everything = lazy(pl.DataFrame({"user_id": ids, "item_id": ids}).with_row_index("user").with_row_index("item"))
    folds = published_folds(Source(path, tmp_path), everything, everything)
    sizes = folds.group_by("fold", "partition").len().sort("fold", "partition")
    assert sizes["len"].to_list() == [20_000, 80_000] * 5
    tested = folds.filter(partition="test")
    assert not tested.select("user", "item").is_duplicated().any()
