"""Files as public data sets and common tools write them, each with a small made-up file of that shape."""

import bz2
import json
import lzma
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pyarrow as pa
import pytest

from recsys_assets.home.layout import Home
from recsys_assets.recommender.ingest import generic
from recsys_assets.recommender.ingest.describe import describe_source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets.recommender.ingest.validation import check_rejected
from recsys_assets_tests.conftest import invoke


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


# Lines without a header, and the titles, years and genres of the items.
ITEMS_WITHOUT_HEADER = {
    "MovieLens 1M": ("1::Emma (1996)::Drama|Romance\n2::Heat (1995)::Crime\n", [["Drama", "Romance"], ["Crime"]]),
    "MovieLens 100K": ("1|Emma (1996)|01-Jan-1996||0|1\n2|Heat (1995)|01-Jan-1995||1|0\n", [None, None]),
    "year": ("1,Emma,1996,Drama|Romance\n2,Heat,1995,Crime\n", [["Drama", "Romance"], ["Crime"]]),
}


@pytest.mark.parametrize("case", ITEMS_WITHOUT_HEADER)
def test_items_without_a_header_are_read_with_the_line_that_their_refusal_names(case, tmp_path):
    """Titles would be read as ratings, by a line that the pipeline itself offers."""
    content, genres = ITEMS_WITHOUT_HEADER[case]
    with pytest.raises(SourceError, match="looks like a first record") as refusal:
        _read(tmp_path, {"a.txt": content})
    items = _read(tmp_path, {"a.txt": content}, **_pasted(str(refusal.value))).items.collect().sort("item_id")
    assert [title.split(" (")[0] for title in items["title"]] == ["Emma", "Heat"]
    assert items["year"].to_list() == [1996, 1995]
    assert items["genres"].to_list() == genres


def test_a_header_in_the_settings_leaves_files_with_a_header_alone(tmp_path):
    """With `header` for the ratings, titles beside them lose their own header."""
    files = {"r.csv": "9,A,u,4,1300000000\n", "movies.csv": "item_id,title,year,genres,x\nm,Emma,1815,Drama,1\n"}
    settings = {"header": ["", "item_id", "user_id", "rating", "timestamp"]}
    tables = _read(tmp_path, files, **settings)
    assert _rows(tables) == [("u", "A", 4.0, 1300000000)]
    assert tables.items.collect()["title"].to_list() == ["Emma"]
    with pytest.raises(SourceError, match="header names 2 columns, this file has 5"):
        _read(tmp_path, files, header=["user_id", "item_id"])


HEADER = "user_id;item_id;rating;timestamp\n"
# The times of two ratings, as they are written, and the second one as it is meant.
TIMES = {
    "BigQuery": ("2019-12-31 10:00:00 UTC", "2019-04-05 10:00:00.5 UTC", "2019-04-05 10:00"),
    "PostgreSQL": ("2019-12-31 10:00:00+00", "2019-04-05 10:00:00+02", "2019-04-05 08:00"),
    "slashes": ("2019/12/31", "2019/4/5", "2019-04-05 00:00"),
    "slashes and hours": ("2019/12/31 1:05", "2019/04/05 9:30 PM", "2019-04-05 21:30"),
    "day first": ("31/12/2019", "05/04/2019", "2019-04-05 00:00"),
    "day first, dots": ("31.12.2019 09:00", "5.4.2019 10:00", "2019-04-05 10:00"),
    "month first": ("12/31/2019", "04/05/2019", "2019-04-05 00:00"),
    "month first, 12 hours": ("12/31/2019 9:00 AM", "4/5/2019 12:10 AM", "2019-04-05 00:10"),
    "Amazon reviewTime": ("12 31, 2019", "04 5, 2019", "2019-04-05 00:00"),
    "Steam": ("Dec 31, 2019", "April 5, 2019", "2019-04-05 00:00"),
    "day and name": ("31 Dec 2019", "5 April 2019 10:00", "2019-04-05 10:00"),
    "Goodreads": ("Tue Dec 31 10:00:00 -0700 2019", "Fri Apr 05 10:00:00 -0700 2019", "2019-04-05 17:00"),
    "mail": ("Tue, 31 Dec 2019 10:00:00 GMT", "Fri, 05 Apr 2019 10:00:00 GMT", "2019-04-05 10:00"),
    "digits": ("20191231", "20190405", "2019-04-05 00:00"),
}


@pytest.mark.parametrize("case", TIMES)
def test_times_that_can_mean_one_thing_only_are_read(case, tmp_path):
    """A file is refused for the way in which its times are written, or they are read as other days."""
    first, second, meant = TIMES[case]
    tables = _read(tmp_path, {"a.csv": f"{HEADER}u;m;4;{first}\nv;m;3;{second}\n"})
    times = tables.ratings.collect()["timestamp"]
    assert times[0].date() == datetime(2019, 12, 31, tzinfo=UTC).date()
    assert f"{times[1]:%Y-%m-%d %H:%M}" == meant
    assert tables.rejected.collect().is_empty()


def test_days_in_numbers_of_parquet_are_no_seconds(tmp_path):
    """All ratings would be of one month, August 1970."""
    file = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [2], "rating": [3], "timestamp": [20191231]}).write_parquet(file)
    times = read_source(file, scratch=tmp_path / "scratch").ratings.collect()["timestamp"]
    assert times[0] == datetime(2019, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("times", "read"),
    [
        (["05/04/2019", "06/07/2019"], "2019-04-05 00:00"),
        (["05.04.2019 10:30", "06.07.2019 10:30"], "2019-04-05 10:30"),
        (["05-04-2019 1:00:00 PM", "06-07-2019 1:00:00 PM"], "2019-04-05 13:00"),
    ],
)
def test_days_and_months_are_never_guessed(times, read, tmp_path):
    """Half of the times would be months off, and nobody sees it."""
    files = {"a.csv": HEADER + "".join(f"u;{row};4;{time}\n" for row, time in enumerate(times))}
    with pytest.raises(SourceError, match="may be day first or month first") as refusal:
        _read(tmp_path, files).ratings.collect()
    chosen = _pasted("\n".join(str(refusal.value).splitlines()[:-1]))
    assert f"{_read(tmp_path, files, **chosen).ratings.collect()['timestamp'][0]:%Y-%m-%d %H:%M}" == read


def test_days_and_months_are_decided_by_all_files(tmp_path):
    """A folder with one file per month is refused for the days of one of them, or read in two ways."""
    files = {"a.csv": f"{HEADER}u;m;4;05/04/2019\n", "b.csv": f"{HEADER}u;n;4;31/12/2019\n"}
    times = _read(tmp_path, files).ratings.collect()["timestamp"]
    assert times[0] == datetime(2019, 4, 5, tzinfo=UTC)


def test_a_refusal_for_times_or_commas_names_the_setting(tmp_path):
    """Somebody reads which rows are bad, and looks in vain for a way to read them."""
    files = {"a.csv": 'user_id,item_id,rating,timestamp\nu,m,"4,555",the day before\nu,n,3,yesterday\n'}
    found = _read(tmp_path, files).rejected.collect()
    with pytest.raises(SourceError, match=r"time_format = .*decimal = \",\" below \[data\]"):
        check_rejected(found, 2)


def test_decimal_commas_are_read(tmp_path):
    """Every row of an export from a German or French spreadsheet is bad."""
    content = f"{HEADER}u;m;4,5;2019-12-31\nv;m;3;2019-12-31\n"
    assert [row[2] for row in _rows(_read(tmp_path, {"a.csv": content}))] == [4.5, 3.0]
    quoted = 'user_id,item_id,rating,timestamp\nu,m,"4,5",2019-12-31\n'
    assert [row[2] for row in _rows(_read(tmp_path / "q", {"a.csv": quoted}, decimal=","))] == [4.5]


MARKS = {"0": (0, [6, 7, 8, 9, 10]), "-1": (-1, [1, 2, 8]), "99": (99, [-9, -3, 3, 8])}


@pytest.mark.parametrize("case", MARKS)
def test_marks_for_not_rated_are_pointed_at_and_left_out(case, tmp_path):
    """Books that nobody rated count as the worst ones, or their rows as bad ones."""
    mark, ratings = MARKS[case]
    rows = "".join(f"u;{item};{rating};2019-12-31\n" for item, rating in enumerate([mark, mark, *ratings]))
    tables = _read(tmp_path, {"a.csv": HEADER + rows})
    source = tmp_path / "source" / "a.csv"
    (hint,) = [hint for hint in describe_source(source, scratch=tmp_path / "s").hints if "not_rated" in hint]
    assert f"`not_rated = [{mark}]`" in hint
    assert tables.ratings.collect().height == len(ratings) + 2
    left = _read(tmp_path, {"a.csv": HEADER + rows}, not_rated=[mark], rating_scale=[-10, 10])
    assert left.ratings.collect()["rating"].to_list() == ratings
    assert (left.rejected.collect().height, left.not_rated.collect().item()) == (0, 2)


@pytest.mark.parametrize("ratings", [[1, 2, 3, 4, 5], [-1, 0, 1], [0, 1, 2, 3, 4, 5], [1, 4, 5, 5], [1, 1, 99]])
def test_the_end_of_a_scale_is_no_mark(ratings, tmp_path):
    """Somebody leaves out all dislikes, because `add --check` calls them marks."""
    rows = "".join(f"u;{item};{rating};2019-12-31\n" for item, rating in enumerate(ratings * 3))
    _read(tmp_path, {"a.csv": HEADER + rows})
    hints = describe_source(tmp_path / "source" / "a.csv", scratch=tmp_path / "s").hints
    assert not [hint for hint in hints if "not_rated" in hint]


def test_what_spark_leaves_in_a_folder_is_passed_over(tmp_path):
    """The output of Spark or Dask has to be cleaned up by hand before it can be added."""
    files = {
        "out/part-0.csv": HEADER + "u;m;4;2019-12-31\n",
        "out/_SUCCESS": "",
        "out/.part-0.csv.crc": b"crc\0",
        "out/_temporary/0/part-1.csv": "x",
    }
    assert len(_rows(_read(tmp_path, files))) == 1


def test_whole_decimals_are_whole_numbers(tmp_path):
    """A user of one export is two users as soon as an id is missing in the next one."""
    files = {"a.csv": HEADER + "1;10;4;2019-12-31\n", "b.csv": HEADER + "1.0;10.0;4;2019-12-31\n1.5;x.0;4;2019-12-31\n"}
    assert [row[:2] for row in _rows(_read(tmp_path, files))] == [("1", "10"), ("1", "10"), ("1.5", "x.0")]


def test_columns_in_folder_names_are_read(tmp_path):
    """Tables that Spark partitioned by user have no user id, and are refused."""
    row = "item_id;rating;timestamp\nm;4;1300000000\n"
    rows = _rows(_read(tmp_path, {"user_id=7/a.csv": row, "user_id=a%20b/year=2011/a.csv": row}))
    assert rows == [("7", "m", 4.0, 1300000000), ("a b", "m", 4.0, 1300000000)]
    folder = tmp_path / "parquet" / "user_id=7"
    folder.mkdir(parents=True)
    pl.DataFrame({"item_id": [1], "rating": [3], "timestamp": [1300000000]}).write_parquet(folder / "part-0.parquet")
    found = read_source(folder.parent, scratch=tmp_path / "scratch").ratings.collect()
    assert found.select("user_id", "item_id").rows() == [("7", "1")]


def test_reviews_with_line_breaks_and_quotes_are_read(tmp_path):
    """Files of reviews are refused for the texts in them, or lose the ratings beside the longest ones."""
    rows = (
        'u,m,4,1300000000,"two\n""good"" lines\n\n"\nv,m,3,1300000001,short\nw,m,2,1300000002,"says \\"no\\", thanks"\n'
    )
    tables = _read(tmp_path, {"a.csv": f"user_id,item_id,rating,timestamp,text\n{rows}"})
    assert [row[0] for row in _rows(tables)] == ["u", "v", "w"]
    assert tables.rejected.collect().is_empty()


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_text_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path, mark):
    """A text from a word processor gets its row rejected, and enough of them the whole batch."""
    items = f'movieId,title,genres\n7,"One{mark}, two",A{mark}B|C\n8,"two\nlines",C\n'
    files = {"ratings.csv": "userId,movieId,rating,timestamp\n1,7,4,1300000000\n", "movies.csv": items}
    tables = _read(tmp_path, files)
    assert tables.rejected.collect().is_empty()
    assert [title[:3] for title in tables.items.collect()["title"]] == ["One", "two"]


def test_a_quote_that_is_never_closed_costs_its_own_row_only(tmp_path):
    """One stray quote takes all ratings down to the next quote with it, or refuses the whole file."""
    rows = 'u,m,4,1300000000,"open\nv,m,3,1300000001,"two\nlines"\nw,m,2,1300000002,5" disc\nx,m,2,1300000003,\n'
    files = {
        "a.csv": f"user_id,item_id,rating,timestamp,text\n{rows}",
        "items.csv": 'item_id,title\nm,"Em\\"ma"\nn,"B\no,"two\nlines"\np,C\n' + "q,D\n" * 2000,
    }
    tables = _read(tmp_path, files)
    assert [row[0] for row in _rows(tables)] == ["v", "x"]
    assert tables.items.collect()["title"].to_list() == ['Em"ma', "two lines", "C", "D"]
    assert tables.rejected.collect().select("file", "line").rows() == [("a.csv", 2), ("a.csv", 5), ("items.csv", 3)]


TWEETINGS = {"ratings.dat": "1::0114508::8::1381006850\n2::0114508::10::1381006851\n"}


def test_movietweetings_are_not_taken_for_movielens(tmp_path):
    """Ratings from 6 to 10 are bad rows, or a file of users is refused for not being MovieLens's."""
    files = TWEETINGS | {"users.dat": "1::139564917\n", "movies.dat": "0114508::Species (1995)::Horror|Sci-Fi\n"}
    tables = _read(tmp_path, files)
    assert [row[2] for row in _rows(tables)] == [8.0, 10.0]
    assert tables.items.select("title", "year").collect().rows() == [("Species", 1995)]
    assert (tables.format, tables.rating_scale) == ("dat", (8.0, 10.0))


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("u.data", "196\t242\t3\t881250949\n", "ml-100k"),
        ("ratings.dat", "1::1193::5::978300760\n", "dat"),
        ("ratings.dat", TWEETINGS["ratings.dat"], "dat"),
    ],
)
def test_ratings_of_a_release_alone_are_read_without_titles(name, content, form, tmp_path):
    """Somebody has to look for files that recommendations do not need."""
    tables = _read(tmp_path, {name: content})
    assert tables.format == form
    assert tables.ratings.collect().height == content.count("\n")
    assert tables.items.collect().is_empty()


PACKERS = {
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_are_read(suffix, tmp_path):
    """Somebody has to unpack the files of a data set, which are packed with bzip2, xz or Zstandard."""
    content = HEADERS["LensKit"].encode()
    assert len(_rows(_read(tmp_path, {f"a.csv.{suffix}": PACKERS[suffix](content)}))) == 1
    with pytest.raises(SourceError, match="damaged or cut off"):
        _read(tmp_path / "cut", {f"a.csv.{suffix}": PACKERS[suffix](content * 9)[:-9]}).ratings.collect()


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read(indent, tmp_path):
    """The JSON that most tools export is refused."""
    rows = [
        {"user_id": f"u{n}", "item_id": 7, "rating": 3.5, "timestamp": 1300000000, "text": "[{" * 9}
        for n in range(3000)
    ]
    for written in (json.dumps(rows, indent=indent), f"\ufeff\n {json.dumps(rows[:2], indent=indent)}"):
        read = _rows(_read(tmp_path / str(len(written)), {"a.json": written}))
        assert read[-1] == (rows[len(read) - 1]["user_id"], "7", 3.5, 1300000000)
        assert len(read) in (2, 3000)


def test_the_netflix_prize_is_read(tmp_path):
    """The best known data set of ratings is refused with names of columns that are none."""
    files = {
        "combined_data_1.txt": "1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n885013,4,2005-10-19\nx\n",
        "mv_3.txt": "3:\n7,1,2005-09-06\n",
    }
    tables = _read(tmp_path, files)
    assert [row[:3] for row in _rows(tables)] == [
        ("1488844", "1", 3.0),
        ("822109", "1", 5.0),
        ("885013", "2", 4.0),
        ("7", "3", 1.0),
    ]
    assert tables.rejected.collect().select("line", "text").rows() == [(6, "x")]


def test_many_small_files_are_read_like_one(tmp_path):
    """A folder with one file per day takes minutes, or rows are lost where files are joined."""
    files = {f"d{day:02}.csv": f"user_id,item_id,rating,timestamp\n{day},7,4,13000000{day:02}" for day in range(40)}
    with patch.object(generic, "_ratings", side_effect=AssertionError("read one by one")):
        rows = _rows(_read(tmp_path, files))
    assert rows == [(str(day), "7", 4.0, 1300000000 + day) for day in range(40)]
    tables = _read(tmp_path, files | {"d50.csv": "user_id,item_id,rating,timestamp\nu,7,good,1\n"})
    assert (len(_rows(tables)), tables.rejected.collect()["file"].to_list()) == (40, ["d50.csv"])


@pytest.mark.parametrize("words", [["-KKYz"], ["--", "-KKYz", "--rm", "h"]])
def test_an_id_that_begins_with_a_dash_is_told_how_to_be_given(words, tmp_path):
    """One in 64 users of Yelp cannot be asked for or forgotten."""
    Home(tmp_path).prepare()
    told = invoke("forget", "--home", tmp_path, *words)
    assert told.exit_code == 2
    assert "after -- and all options" in " ".join(told.output.replace("│", " ").split()), told.output
