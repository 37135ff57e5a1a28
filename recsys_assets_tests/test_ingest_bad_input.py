import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys_assets.recommender.ingest.describe import describe_source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets.recommender.ingest.validation import check_rejected

HEADER = b"user_id,item_id,rating,timestamp\n"
GOOD = HEADER + b"u,m,3,978300760\n"
ML_1M = {
    "ratings.dat": b"1::1193::5::978300760\n",
    "users.dat": b"1::F::1::10::48067\n",
    "movies.dat": b"1193::Good Morning (1971)::Drama\n",
}
ML_100K = {
    "u.data": b"196\t242\t3\t881250949\n",
    "u.user": b"196|49|M|writer|55105\n",
    "u.item": b"242|Kolya (1996)|24-Jan-1997||http://x|0|1\n",
    "u.genre": b"unknown|0\nComedy|1\n",
}
ML_CSV = {
    "ratings.csv": b"userId,movieId,rating,timestamp\n1,2,3.5,964982703\n",
    "movies.csv": b"movieId,title,genres\n2,Heat (1995),Crime\n",
}


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def encrypted(content: bytes) -> bytes:
    """The zip with its members marked as encrypted."""
    changed = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = changed.find(mark)
        while place >= 0:
            changed[place + offset] |= 1
            place = changed.find(mark, place + 4)
    return bytes(changed)


def linking(content: bytes) -> bytes:
    """The zip with its first member marked as a symbolic link."""
    changed = bytearray(content)
    place = changed.find(b"PK\x01\x02")
    changed[place + 38 : place + 42] = struct.pack("<I", 0o120777 << 16)
    return bytes(changed)


def swelling(content: bytes) -> bytes:
    """The zip with its first member declared to unpack to 3 GiB."""
    changed = bytearray(content)
    place = changed.find(b"PK\x01\x02")
    changed[place + 24 : place + 28] = struct.pack("<I", 3 * 2**30)
    return bytes(changed)


def with_wrong_bytes(content: bytes) -> bytes:
    """The zip with its first member's data overwritten."""
    return content[:45] + b"\x55" * 12 + content[57:]


def parquet(**columns: Any) -> bytes:
    """A Parquet file of these columns."""
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


PARQUET = parquet(user_id=["u"] * 500, item_id=["m"] * 500, rating=[3.0] * 500, timestamp=[978300760] * 500)
MANY = b"".join(b"u%d,m,3,978300760\n" % user for user in range(5000))

# What is added, which rules it is read with, and what the message must say: file, place, rule, way out.
REFUSED: dict[str, tuple[Mapping[str, bytes], dict[str, Any], list[str]]] = {
    "users alone": ({"users.csv": b"user_id,age\na,30\n"}, {}, ["user_id, age", "beside their ratings", "one folder"]),
    "users and items": ({"u.csv": b"user_id,age\na,3\n", "i.csv": b"item_id,title\nm,M\n"}, {}, ["u.csv", "beside"]),
    "one unknown number": ({"a.csv": b"user_id,item_id,plays,timestamp\nu,m,3,978300760\n"}, {}, ['weight = "plays"']),
    "truncated zip": ({"a.zip": zipped(ML_1M)[:-30]}, {}, ["a.zip", "truncated", "get the archive again"]),
    "damaged zip": ({"a.zip": with_wrong_bytes(zipped(ML_1M))}, {}, ["a.zip", "ratings.dat", "damaged"]),
    "encrypted zip": ({"a.zip": encrypted(zipped(ML_1M))}, {}, ["ratings.dat", "encrypted", "unpack it"]),
    "nested zip": ({"a.zip": zipped({"in.zip": zipped(ML_1M)})}, {}, ["in.zip", "zip inside the zip", "inner one"]),
    "zip in a folder": ({"a.csv": GOOD, "b.dat": zipped(ML_1M)}, {}, ["b.dat", "zip", "cannot be read here"]),
    "link in a zip": ({"a.zip": linking(zipped({"a.csv": b"/etc/passwd"}))}, {}, ["link inside the zip (a.csv)"]),
    "zip with ..": ({"a.zip": zipped({"../../a.csv": GOOD})}, {}, ["'../../a.csv'", "leads out"]),
    "zip with absolute path": ({"a.zip": zipped({"/etc/a.csv": GOOD})}, {}, ["leads out"]),
    "zip with Windows path": ({"a.zip": zipped({"C:\\a.csv": GOOD})}, {}, ["leads out"]),
    "zip bomb": ({"a.zip": swelling(zipped(ML_1M))}, {"max_unpacked_bytes": 2**30}, ["more than 1 GiB", "raise"]),
    "gzip bomb": (
        {"a.csv.gz": gzip.compress(HEADER + MANY)},
        {"max_unpacked_bytes": 2**16},
        ["a.csv.gz", "unpacks to more than", "raise"],
    ),
    "truncated gzip": ({"a.csv.gz": gzip.compress(HEADER + MANY)[:-400]}, {}, ["a.csv.gz", "cut off"]),
    "empty zip": ({"a.zip": zipped({})}, {}, ["no files"]),
    "empty file": ({"a.csv": b""}, {}, ["a.csv", "empty", "expected one record per line"]),
    "blank lines only": ({"a.csv": b"\n \n\r\n"}, {}, ["a.csv", "empty"]),
    "header only": ({"a.csv": HEADER}, {}, ["a.csv", "header only", "line 2"]),
    "documents only": ({"README": b"hello", "LICENSE": b"hello"}, {}, ["only LICENSE, README"]),
    "no header": ({"a.csv": b"u,m,3,978300760\nu,n,3,978300760\n"}, {}, ["a.csv has the columns u, m", "user_id"]),
    "items without a header": ({"a.dat": b"1::Emma (1996)::Drama|Romance\n"}, {}, ['["item_id", "title", "genres"]']),
    "users without a header": ({"a.dat": b"1::F::1::10::48067\n"}, {}, ['"…", "…"]  # names of user_id', "weight"]),
    "uneven lines without a header": ({"a.dat": b"1::Emma\n2::A::b|c\n"}, {}, ["columns 1, Emma", "header = ["]),
    "one column": ({"a.csv": b"5\n6\n"}, {}, ["a.csv has the columns 5", 'header = ["…"]']),
    "foreign columns": ({"a.csv": b"who,what,stars,at\na,b,3,1\n"}, {}, ["who, what, stars, at", "[data.columns]"]),
    "mapping of no column": ({"a.csv": GOOD}, {"columns": {"user": "x"}}, ["[data.columns]", "'user'", "user_id"]),
    "delimiter that cannot be": ({"a.csv": GOOD}, {"delimiter": '"'}, ["delimiter", "other than quotes"]),
    "scale the wrong way": ({"a.csv": GOOD}, {"rating_scale": (5, 1)}, ["rating scale (5, 1)", "lowest"]),
    "column twice": ({"a.csv": b"user_id,item_id,rating,rating,timestamp\n1,2,3,3,4\n"}, {}, ["'rating'", "twice"]),
    "times under a name of their own": (
        {"a.csv": b"user_id,item_id,rating,seen\nu,m,3,2020-01-01\n"},
        {},
        ["a.csv", "'seen' may hold the times", 'timestamp = "seen"', 'ignore = ["timestamp"]'],
    ),
    "a file that means nothing": (
        {"a.csv": GOOD, "b.csv": b"foo,bar\n1,2\n"},
        {},
        ["b.csv", "foo, bar", "Take the file"],
    ),
    "CSV named Parquet": ({"a.parquet": GOOD}, {}, ["a.parquet", "expected Parquet", "found delimited text"]),
    "Parquet named CSV": ({"a.csv": PARQUET}, {}, ["a.csv", "found Parquet", "rename"]),
    "web page named CSV": ({"a.csv": b"<!DOCTYPE html><html>404"}, {}, ["a.csv", "web page", "export it again"]),
    "JSON array cut off": ({"a.json": b'[{"user_id": 1}, {"us'}, {}, ["a.json", "JSON array", "after 1 elements"]),
    "tar archive": ({"a.tar": b"r.csv" + b"\0" * 252 + b"ustar\0" + b"\0" * 250}, {}, ["a.tar", "tar -xf a.tar -C"]),
    "workbook": ({"a.xls": b"\xd0\xcf\x11\xe0" + b"\0" * 600}, {}, ["a.xls", "Excel", "expected CSV"]),
    "CSV named as MovieLens's": (
        ML_1M | {"ratings.dat": b"hello;there\n1;2\n"},
        {},
        ["ratings.dat, line 1", "'hello;there'", "1::1193::5::978300760"],
    ),
    "release in parts": (
        {name: ML_100K[name] for name in ("u.data", "u.item")},
        {},
        ["u.data is there", "u.genre", "not"],
    ),
    "genres that do not count up": (ML_100K | {"u.genre": b"unknown|0\nComedy|7\n"}, {}, ["u.genre", "numbered"]),
    "two releases": (ML_1M | {f"old/{n}": c for n, c in ML_1M.items()}, {}, ["several files of ratings", "one by one"]),
    "two CSV releases": (
        {f"{folder}/{name}": content for folder in "ab" for name, content in ML_CSV.items()},
        {},
        ["several releases (a, b)", "one by one"],
    ),
    "two formats": (ML_100K | {"mine.csv": GOOD}, {}, ["two formats (MovieLens and csv)", "mine.csv", "one by one"]),
    "two kinds of files": ({"a.csv": GOOD, "a.parquet": PARQUET}, {}, ["two formats (csv and parquet)"]),
    "Parquet cut off": ({"a.parquet": PARQUET[:-40]}, {}, ["a.parquet", "damaged Parquet", "again"]),
    "Parquet without a column": (
        {"a.parquet": parquet(user_id=[1], rating=[3], timestamp=[9])},
        {},
        ["a.parquet", "Expected", "item_id"],
    ),
    "Parquet without rows": (
        {"a.parquet": pl.DataFrame(schema=dict.fromkeys(["user_id", "item_id", "rating", "timestamp"], pl.Int64))},
        {},
        ["a.parquet", "no rows"],
    ),
    "Parquet with lists": (
        {"a.parquet": parquet(user_id=[[1]], item_id=[2], rating=[3], timestamp=[4])},
        {},
        ["a.parquet", "'user_id'", "List"],
    ),
    "Parquet with durations as times": (
        {"a.parquet": parquet(user_id=[1], item_id=[2], rating=[3], timestamp=[timedelta(days=1)])},
        {},
        ["a.parquet", "'timestamp'", "Duration"],
    ),
    "attributes in lists": (
        {"a.csv": GOOD, "users.parquet": parquet(user_id=["u"], likes=[["a", "b"]])},
        {},
        ["users.parquet", "'likes'", "List"],
    ),
    "not UTF-8": ({"a.csv": GOOD + "J\u00fcrgen,m,3,1\n".encode("latin-1")}, {}, ["a.csv, line 3", "UTF-8", "latin-1"]),
    "not the declared encoding": ({"a.csv": GOOD + "J\u00fcrgen,m,3,1\n".encode()}, {"encoding": "ascii"}, ["ascii"]),
    "no known encoding": ({"a.csv": GOOD}, {"encoding": "klingon"}, ["klingon", "utf-8"]),
    "binary zeros": ({"a.csv": GOOD + MANY * 10 + b"\0" * 900}, {}, ["a.csv, line 50003", "binary zeros"]),
    "binary zeros near the beginning": ({"a.csv": GOOD + b"u,\0,3,1\n"}, {}, ["a.csv", "NUL byte in line 3"]),
    "one endless line": ({"a.csv": b"x" * 100_000}, {}, ["a.csv, line 1", "longer than"]),
    "attributes that clash": (
        {"a.csv": GOOD, "users.csv": b"user_id,Home Town,home-town\nu,a,b\n"},
        {},
        ["users.csv", "'Home Town'", "rename"],
    ),
}


def _lay(folder: Path, files: Mapping[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content.write_parquet(path) if isinstance(content, pl.DataFrame) else path.write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


@pytest.mark.parametrize(
    "content",
    [
        b"1::" + b"a:" * 30_000 + b"\n",
        "".join(map(chr, range(0x3000, 0x8000))).encode() + b"\n",
        b"{" * 60_000,
        b'"' * 60_000,
    ],
    ids=["colons", "marks", "braces", "quotes"],
)
def test_odd_lines_do_not_hang_the_reader(content: bytes, tmp_path: Path) -> None:
    """If this fails, telling one malicious file's format takes minutes."""
    with pytest.raises(SourceError):
        describe_source(_lay(tmp_path / "s", {"a.txt": content * 2}), scratch=tmp_path / "scratch")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_way_out(case: str, tmp_path: Path) -> None:
    """If this fails, bad input ends in a traceback, in a message that does not help, or is changed on disk."""
    files, rules, words = REFUSED[case]
    path = _lay(tmp_path / "source", files)
    before = _contents(tmp_path / "source")
    with pytest.raises(SourceError) as refusal:
        describe_source(path, scratch=tmp_path / "scratch", **rules)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == [], message
    assert _contents(tmp_path / "source") == before
    assert not [file for file in (tmp_path / "scratch").glob("*") if file.name.startswith(".")]


NOW = datetime(2020, 1, 2, tzinfo=UTC)
_A_DAY_ON = int(NOW.timestamp()) + 86_400

REJECTED: dict[str, tuple[str, bytes, str]] = {
    "too few fields": ("csv", b"u,m,3", "wrong number of fields, expected 4"),
    "too many fields": ("csv", b"u,m,3,1,9", "wrong number of fields, expected 4"),
    "quoted: too many fields": ("csv", b'"u","m",3,1,9', "wrong number of fields, expected 4, or a stray quote"),
    "a quote never closed": ("csv", b'u,"m,3,1', "wrong number of fields, expected 4, or a stray quote"),
    "a stray quote": ("csv", b'u,5" disc,3,1', "wrong number of fields, expected 4, or a stray quote"),
    "text after a quote": ("csv", b'u,"m"n,3,1', "wrong number of fields, expected 4, or a stray quote"),
    "no user": ("csv", b",m,3,1", "missing user id"),
    "blank user": ("csv", b"  ,m,3,1", "missing user id"),
    "no item": ("csv", b"u,,3,1", "missing item id"),
    "escape in the user id": ("csv", b"u\x1b[2J,m,3,1", "control character in the user id"),
    "tab in the item id": ("csv", b"u,m\tn,3,1", "control character in the item id"),
    "noncharacter in the item id": ("csv", "u,m\uffff,3,1".encode(), "control character in the item id"),
    "no rating": ("csv", b"u,m,,1", "rating is not a number"),
    "rating in words": ("csv", b"u,m,good,1", "rating is not a number"),
    "NaN": ("csv", b"u,m,NaN,1", "rating is not a number"),
    "infinite": ("csv", b"u,m,inf,1", "rating is not a number"),
    "below the scale": ("csv", b"u,m,0,1", "rating outside 1 to 5"),
    "above the scale": ("csv", b"u,m,5.5,1", "rating outside 1 to 5"),
    "no time": ("csv", b"u,m,3,", "time is missing or not a number"),
    "time in words": ("csv", b"u,m,3,noon", "time is missing or not a number"),
    "time before 1970": ("csv", b"u,m,3,-1", "time before 1970"),
    "time in the future": ("csv", b"u,m,3,%d" % (_A_DAY_ON + 1), "time in the future"),
    "time beyond all calendars": ("csv", b"u,m,3,1e300", "time is missing or not a number"),
    "no such day": ("iso", b"u,m,3,2019-02-30", "time is missing or not ISO 8601"),
    "no JSON": ("jsonl", b'{"user_id":', "not a JSON object"),
    "JSON, but no object": ("jsonl", b"[1,2]", "not a JSON object"),
    "JSON null": ("jsonl", b'{"user_id":null,"item_id":1,"rating":3,"timestamp":1}', "missing user id"),
    "JSON: NUL in the user id": (
        "jsonl",
        b'{"user_id":"u\\u0000","item_id":1,"rating":3,"timestamp":1}',
        "control character in the user id",
    ),
    "JSON without a key": ("jsonl", b'{"user_id":1,"item_id":1,"timestamp":1}', "rating is not a number"),
    "1M: too few fields": ("dat", b"1::2::3", "wrong number of fields, expected 4"),
    "1M: half star": ("dat", b"1::2::0.5::978300760", "rating outside 1 to 5"),
    "1M: time with a fraction": ("dat", b"1::2::3::1.5", "time is missing or not a whole number of seconds"),
}
_FRAMES: dict[str, Callable[[bytes], tuple[dict[str, bytes], str, int]]] = {
    "csv": lambda bad: ({"a.csv": GOOD + bad + b"\nv,m,4,978300760\n"}, "a.csv", 3),
    "iso": lambda bad: ({"a.csv": HEADER + b"u,m,3,2019-01-01\n" + bad + b"\nv,m,4,2019-01-01\n"}, "a.csv", 3),
    "jsonl": lambda bad: (
        {"a.jsonl": b'{"user_id":1,"item_id":2,"rating":3,"timestamp":1}\n' * 2 + bad + b"\n"},
        "a.jsonl",
        3,
    ),
    "dat": lambda bad: (ML_1M | {"ratings.dat": ML_1M["ratings.dat"] * 2 + bad + b"\n"}, "ratings.dat", 3),
}


@pytest.mark.parametrize("case", REJECTED)
def test_a_bad_row_is_rejected_and_the_others_go_on(case: str, tmp_path: Path) -> None:
    """If this fails, a bad row reaches the models, takes good ones with it, or is reported at the wrong place."""
    frame, bad, reason = REJECTED[case]
    files, name, line = _FRAMES[frame](bad)
    path = _lay(tmp_path / "source", files)
    tables = read_source(path, scratch=tmp_path / "scratch", rating_scale=(1, 5), now=NOW)
    assert tables.rejected.collect(engine="streaming").rows() == [(name, line, reason, bad.decode())]
    assert tables.ratings.collect(engine="streaming").height == 2


def test_the_last_moment_allowed_is_a_day_ahead(tmp_path: Path) -> None:
    """If this fails, ratings from a clock that is a little fast, or from another time zone, are thrown away."""
    path = _lay(tmp_path / "s", {"a.csv": HEADER + b"u,m,3,%d\n" % _A_DAY_ON})
    assert read_source(path, scratch=tmp_path, now=NOW).ratings.collect().height == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (ML_1M | {"users.dat": b"1::F::1::10::48067\n2::M::old::1::1\n3::M::1\n"}, [2, 3]),
        (ML_1M | {"movies.dat": b"1193::A (1971)::Drama\n7::B\n"}, [2]),
        ({"a.csv": GOOD, "users.csv": b"user_id,age\nu,1\n,2\n"}, [3]),
        ({"a.csv": GOOD, "movies.csv": b"item_id,title,year\nm,A,1999.0\n,B,\nn,C,soon\no,D,1999.5\n"}, [3, 4, 5]),
    ],
    ids=["1m-users", "1m-items", "users", "items"],
)
def test_bad_users_and_items_are_rejected_too(files: Mapping[str, bytes], expected: list[int], tmp_path: Path) -> None:
    """If this fails, a damaged users or items file is taken silently."""
    tables = read_source(_lay(tmp_path / "s", files), scratch=tmp_path / "scratch")
    assert tables.rejected.collect()["line"].to_list() == expected
    assert tables.users.collect()["user_id"].to_list() in ([], ["1"], ["u"])
    assert tables.items.collect()["item_id"].to_list() in ([], ["1193"], ["m"])


def test_controls_are_taken_out_of_texts_and_counted(tmp_path: Path) -> None:
    """A title with an escape sequence in it would rewrite the terminal of whoever looks at it."""
    files = {
        "a.jsonl": b'{"user_id":"u","item_id":"m","rating":3,"timestamp":1}\n',
        "users.jsonl": b'{"user_id":"u","job":"cle\\u0007rk"}\n{"user_id":"v\\u001b","job":"\\u0001"}\n',
        "items.jsonl": '{"item_id":"m","title":"\\u001b]0;x\\u0007Up\\u000b\uffff (2009)","genres":["A\\nB","C"]}\n'
        '{"item_id":"n","title":"\u202eexe.gnp","genres":["\\u0000"]}\n'.encode(),
    }
    tables = read_source(_lay(tmp_path / "s", files), scratch=tmp_path / "scratch", now=NOW)
    assert tables.users.collect().rows() == [("u", "cle rk")]
    assert tables.items.collect().rows() == [("m", "]0;x Up", 2009, ["A B", "C"]), ("n", "\u202eexe.gnp", None, [])]
    assert tables.cleaned.sum().collect().item() == 4
    assert tables.rejected.collect()["reason"].to_list() == ["control character in the user id"]


def test_what_is_not_a_number_is_a_gap(tmp_path: Path) -> None:
    """If this fails, all ratings of unknown users are those of one, called NaN, or an unknown age costs the user."""
    gap = [1.0, float("nan")]
    files = {
        "r.parquet": parquet(user_id=gap, item_id=gap[::-1], rating=[3, 4], timestamp=[978300760] * 2),
        "users.parquet": parquet(user_id=gap, age=[float("nan"), 40.0]),
        "items.parquet": parquet(item_id=gap, title=["A", "B"], year=[float("nan"), 1999.0]),
    }
    tables = read_source(_lay(tmp_path / "s", files), scratch=tmp_path / "scratch")
    assert tables.rejected.select("file", "line", "reason").collect().rows() == [
        ("r.parquet", 1, "missing item id"),
        ("r.parquet", 2, "missing user id"),
        ("users.parquet", 2, "missing user id"),
        ("items.parquet", 2, "missing item id"),
    ]
    (user,), (item,) = tables.users.collect().to_dicts(), tables.items.collect().to_dicts()
    assert (user["user_id"], user["age"], item["item_id"], item["year"]) == ("1", None, "1", None)


def test_lines_swallowed_by_a_quote_are_all_counted(tmp_path: Path) -> None:
    """If this fails, one stray quote makes half a catalogue vanish as a single bad row."""
    files = {"a.csv": GOOD, "movies.csv": b'item_id,title\nm1,A\nm2,"B\nm3,C\nm4,D",E\nm5,F\n'}
    rejected = read_source(_lay(tmp_path / "s", files), scratch=tmp_path / "scratch").rejected.collect()
    assert rejected["line"].to_list() == [3, 5]
    assert rejected["text"].to_list() == ['m2,"B', 'm4,D",E']


def _rejected(count: int) -> pl.DataFrame:
    return pl.DataFrame({"file": "a.csv", "line": range(1, count + 1), "reason": "rule", "text": "x"})


def test_more_bad_rows_than_allowed_fail_the_batch() -> None:
    """If this fails, a batch that is mostly rubbish becomes a model, or its owner does not see why it failed."""
    with pytest.raises(SourceError) as refusal:
        check_rejected(_rejected(30), 1000, max_share=0.01, listed_in="rejected/b.csv")
    message = str(refusal.value)
    assert "30 of 1,000" in message and "rejected/b.csv" in message
    assert "line 20: rule" in message and "line 21" not in message


@pytest.mark.parametrize(("bad", "total"), [(0, 0), (0, 10), (10, 1000)])
def test_as_many_bad_rows_as_allowed_pass(bad: int, total: int) -> None:
    """If this fails, a single bad row in a large file stops everything."""
    check_rejected(_rejected(bad), total, max_share=0.01)
