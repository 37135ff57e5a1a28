"""Columns of files of items beyond title, year and genres: which come in, and in which type."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.sources import read_source

RATINGS = "user_id,item_id,rating,timestamp\nu,1,3,978300760\n"
ITEMS = """item_id,title,In Stock,price,available,released,ean,note,batch
1,A,1,9.50,True,2020-01-31,0012,"a, b",x
2,B,0,,FALSE,,0013,,y
"""


def items(folder: Path, **files: str | pl.DataFrame) -> pl.DataFrame:
    """The items of a source with these files, by the name of the file."""
    source = folder / "source"
    source.mkdir()
    for name, content in files.items():
        if isinstance(content, str):
            (source / f"{name}.csv").write_text(content)
        else:
            content.write_parquet(source / f"{name}.parquet")
    return read_source(source, scratch=folder / "scratch").items.collect()


def test_every_column_comes_in_with_its_type(tmp_path):
    """A rule could not name price or stock, or would compare numbers as texts: '9' would be more than '10'."""
    found = items(tmp_path, ratings=RATINGS, items=ITEMS)
    assert found.drop("title", "year", "genres").to_dicts() == [
        {
            "item_id": "1",
            "in_stock": 1.0,
            "price": 9.5,
            "available": True,
            "released": date(2020, 1, 31),
            "ean": "0012",
            "note": "a, b",
            "batch_": "x",
        },
        {
            "item_id": "2",
            "in_stock": 0.0,
            "price": None,
            "available": False,
            "released": None,
            "ean": "0013",
            "note": None,
            "batch_": "y",
        },
    ]


def test_typed_columns_keep_their_type_and_structures_stay_out(tmp_path):
    """What `compact` has written would come back as texts, or an embedding beside the titles would refuse the file."""
    typed = pl.DataFrame(
        {
            "item_id": [1, 2],
            "title": ["A", "B"],
            "available": [True, None],
            "released": [date(2020, 1, 31), None],
            "seen": [datetime(2020, 1, 1, 12), None],
            "stock": pl.Series([3, None], dtype=pl.Int16),
            "vector": [[0.1, 0.2], [0.3, 0.4]],
            "empty": pl.Series([None, None], dtype=pl.String),
        }
    )
    ratings = pl.DataFrame({"user_id": [1], "item_id": [1], "rating": [3], "timestamp": [978300760]})
    found = items(tmp_path, ratings=ratings, items=typed).drop("title", "year", "genres")
    assert dict(found.schema) == {
        "item_id": pl.String,
        "available": pl.Boolean,
        "released": pl.Date,
        "seen": pl.Datetime("us", "UTC"),
        "stock": pl.Float64,
    }
    assert found.row(0) == ("1", True, date(2020, 1, 31), datetime(2020, 1, 1, 12, tzinfo=UTC), 3.0)


def test_a_file_of_items_may_come_alone(tmp_path):
    """Who learns each morning what is sold out would have to send the ratings again."""
    found = items(tmp_path, stock="item_id,available\n1,false\n2,true\n")
    assert found.select("item_id", "title", "available").rows() == [("1", None, False), ("2", None, True)]


@pytest.mark.parametrize(
    "content",
    ["item_id,client\n1,a\n1,b\n", "item_id,title,rating,timestamp\n1,A,3,978300760\n"],
)
def test_what_people_did_is_not_taken_for_a_file_of_items(tmp_path, content):
    """Ratings with a misspelt column of users would vanish as attributes of items."""
    with pytest.raises(SourceError, match=r"Expected ratings with the columns user_id"):
        items(tmp_path, records=content)


def test_a_newer_batch_changes_only_what_it_gives():
    """A file of stocks alone would take titles, years and genres away."""
    older = {"item_id": ["1", "2"], "title": ["A", "B"], "genres": [["X"], None], "available": [True, True]}
    newer = {"item_id": ["1", "3"], "title": [None, "C"], "genres": [None, ["Y"]], "available": [False, None]}
    batches = [lazy(pl.DataFrame(batch, schema_overrides={"title": pl.String})) for batch in (older, newer)]
    rated = lazy(pl.DataFrame({"item_id": ["4"]}))
    found = to_polars(merge.index_items(batches, [rated, rated])).sort("item").drop("item")
    assert found.rows() == [
        ("1", "A", ["X"], False),
        ("2", "B", None, True),
        ("4", None, None, None),
        ("3", "C", ["Y"], None),
    ]
