"""Files as public data sets and common tools write them, each with a small made-up file of that shape."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recsys_assets.home.settings import DataSettings
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.sources import read_source


def _read(folder: Path, files: Mapping[str, str | bytes], **settings: Any) -> SourceTables:
    """The tables of a source of these files, read with settings of the section `[data]`."""
    for name, content in files.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = folder / "source" / next(iter(files)) if len(files) == 1 else folder / "source"
    return read_source(source, scratch=folder / "scratch", **DataSettings(**settings).reading)


def _rows(tables: SourceTables) -> list[tuple[str, str, float, int]]:
    """The ratings, with times in seconds since 1970."""
    rows = tables.ratings.collect().rows(named=True)
    return [(str(r["user_id"]), str(r["item_id"]), r["rating"], int(r["timestamp"].timestamp())) for r in rows]


def _pasted(message: str) -> dict[str, Any]:
    """The section `[data]` that the end of a message says to paste."""
    return tomllib.loads(message[message.index("\n  [data") :])["data"]


# Header and first record: user u, item m, rating 4, time 1300000000.
HEADERS = {
    "capitals": "User_ID,Item_ID,Rating,Timestamp\nu,m,4,1300000000\n",
    "LensKit": "user,item,rating,timestamp\nu,m,4,1300000000\n",
    "RecBole": "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\tm\t4\t1300000000\n",
    "RecTools": "user_id,item_id,rating,datetime\nu,m,4,1300000000\n",
    "HetRec": "userID\tmovieID\trating\ttimestamp\nu\tm\t4\t1300000000\n",
    "Yelp": '{"review_id":"r","user_id":"u","business_id":"m","stars":4.0,"useful":1,"date":"2011-03-13 07:06:40"}\n',
    "Amazon": '{"reviewerID":"u","asin":"m","reviewerName":"U. V.","overall":4.0,"unixReviewTime":1300000000,'
    '"reviewTime":"03 13, 2011"}\n',
    "Amazon 2023": '{"rating":4.0,"title":"","asin":"x","parent_asin":"m","user_id":"u","timestamp":1300000000000}\n',
    "fine foods": "Id,ProductId,UserId,ProfileName,Helpful,Score,Time,Summary\n1,m,u,U,1,4,1300000000,Good\n",
    "Book-Crossing": "User-ID;ISBN;Book-Rating;Time\nu;m;4;1300000000\n",
    "BeerAdvocate": "brewery_id,review_time,review_overall,review_aroma,review_profilename,beer_name,beer_beerid\n"
    "9,1300000000,4,2,u,Ale,m\n",
    "nouns": "Game,Player's mood,Customer,Score,Date\nm,good,u,4,1300000000\n",
}


@pytest.mark.parametrize("case", HEADERS)
def test_column_names_of_public_data_sets_are_known(case, tmp_path):
    """Somebody has to write settings for column names that half of all public data sets have."""
    assert _rows(_read(tmp_path, {"ratings": HEADERS[case]})) == [("u", "m", 4.0, 1300000000)]


def test_items_and_users_under_other_names_are_read(tmp_path):
    """The folder of a data set is refused for the names in its files of items and users, or shows no titles."""
    files = {
        "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating";"Date"\n"1";"9";"4";"2011-03-13"\n',
        "BX-Books.csv": '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication"\n"9";"Emma";"J. Austen";"1815"\n',
        "BX-Users.csv": '"User-ID";"Location";"Age"\n"1";"york";"40"\n',
    }
    tables = _read(tmp_path, files)
    assert tables.items.select("item_id", "title", "year").collect().rows() == [("9", "Emma", 1815)]
    assert tables.users.collect().rows() == [("1", "york", 40.0)]


def test_a_noun_beside_no_ratings_is_an_attribute(tmp_path):
    """A file of users is refused, because one of their attributes is called `game` or `product`."""
    files = {"r.csv": HEADERS["LensKit"], "users.csv": "user_id,game,rating\nu,chess,1900\n"}
    assert _read(tmp_path, files).users.collect().to_dicts() == [{"user_id": "u", "game": "chess", "rating": 1900.0}]


@pytest.mark.parametrize(
    ("header", "doubt"),
    [
        ("user,track_id,artist_id,rating,timestamp", "'track_id', 'artist_id' may all be the item_id"),
        ("user,item,stars,score,timestamp", "'stars', 'score' may all be the rating"),
        ("user,item,rating,date,time", "'date', 'time' may all be the timestamp"),
    ],
)
def test_a_column_is_never_guessed_out_of_two(header, doubt, tmp_path):
    """Artists are recommended for tracks, or an order is read from the wrong times, and nobody sees it."""
    with pytest.raises(SourceError) as refusal:
        _read(tmp_path, {"a.csv": f"{header}\n1,2,3,4,5\n"})
    assert doubt in str(refusal.value)
    first = "\n".join(str(refusal.value).splitlines()[-3:-1])
    assert len(_rows(_read(tmp_path, {"a.csv": f"{header}\n1,2,3,4,5\n"}, **_pasted(f"\n{first}")))) == 1


def test_the_refusal_of_unknown_names_ends_with_lines_to_paste(tmp_path):
    """Somebody reads that names can be mapped, but neither in which file nor how."""
    files = {"a.csv": "user,what,rating,timestamp\nu,m,4,1300000000\n"}
    with pytest.raises(SourceError, match=r"settings\.toml") as refusal:
        _read(tmp_path, files)
    assert _pasted(str(refusal.value)) == {"columns": {"item_id": "what"}}
    assert len(_rows(_read(tmp_path, files, **_pasted(str(refusal.value))))) == 1


NO_HEADER = {
    "Amazon": ("A1003,0132793142,4.0,1300000000\nA1031,B00E1004,5.0,1300000001\n", "A1003", "0132793142"),
    "numbers": ("7\t8\t4.0\t1300000000\n9\t8\t3.5\t1300000001\n", "7", "8"),
    "quotes": ('"u","m","4","1300000000"\n"v","m","3","1300000001"\n', "u", "m"),
    "text": ("u::m::4::1300000000\nv::m::3::1300000001\n", "u", "m"),
}


@pytest.mark.parametrize("case", NO_HEADER)
def test_a_file_without_a_header_is_read_with_the_line_that_its_refusal_names(case, tmp_path):
    """A file without a header cannot be read at all, or loses its first row."""
    content, user, item = NO_HEADER[case]
    with pytest.raises(SourceError, match="looks like a first record") as refusal:
        _read(tmp_path, {"a.txt": content})
    settings = _pasted(str(refusal.value))
    assert settings == {"header": ["user_id", "item_id", "rating", "timestamp"]}
    rows = _rows(_read(tmp_path, {"a.txt": content}, **settings))
    assert rows[0] == (user, item, 4.0, 1300000000)
    assert len(rows) == 2


def test_a_header_in_the_settings_leaves_files_with_a_header_alone(tmp_path):
    """With `header` for the ratings, titles beside them lose their own header."""
    files = {"r.csv": "9,A,u,4,1300000000\n", "movies.csv": "item_id,title,year,genres,x\nm,Emma,1815,Drama,1\n"}
    settings = {"header": ["", "item_id", "user_id", "rating", "timestamp"]}
    tables = _read(tmp_path, files, **settings)
    assert _rows(tables) == [("u", "A", 4.0, 1300000000)]
    assert tables.items.collect()["title"].to_list() == ["Emma"]
    with pytest.raises(SourceError, match="header names 2 columns, this file has 5"):
        _read(tmp_path, files, header=["user_id", "item_id"])
