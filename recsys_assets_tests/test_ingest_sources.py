import gzip
import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import conform, lazy
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.describe import describe_source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.leaving_out import sample_users
from recsys_assets.recommender.ingest.sources import SourceTables, read_source
from recsys_assets.recommender.report.attributes import attributes_by_group

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NOON = datetime(2020, 1, 2, 12, tzinfo=UTC)
EPOCH = int(NOON.timestamp())

ML_100K = {
    "u.data": b"196\t242\t3\t881250949\n186\t302\t4\t891717742\n",
    "u.user": b"186|39|F|executive|00000\n196|49|M|writer|55105\n",
    "u.item": (
        "242|Mis\u00e9rables, Les (1995)|01-Jan-1995||http://x|0|1|1\n"
        "267|unknown||||1|0|0\n"
        "302|Land Before Time III (1995) (V)|01-Jan-1995||http://x|0|0|0\n"
    ).encode("latin-1"),
    "u.genre": b"unknown|0\nAction|1\nSci-Fi|2\n\n",
    "u1.base": b"196\t242\t3\t881250949\n",
    "u.info": b"2 users\n",
    "README": b"text",
}
ML_1M = {
    "ratings.dat": b"1::1193::5::978300760\n2::661::3::978302109\n",
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": "661::Caf\u00e9 (1996)::Children's|Musical\n1193::Good Morning (1971)::Drama\n".encode("latin-1"),
}
ML_CSV = {
    "ratings.csv": b"userId,movieId,rating,timestamp\n1,2,3.5,964982703\n",
    "movies.csv": (
        b"movieId,title,genres\n"
        b'2,"American President, The (1995)",Comedy|Drama\n'
        b'3,"a ""quoted"" one",(no genres listed)\n'
        b"4,Fawlty Towers (1975-1979),Comedy\n"
    ),
    "tags.csv": b'userId,movieId,tag,timestamp\n1,2,"fun, and more",964982703\n',
    "links.csv": b"movieId,imdbId,tmdbId\n2,0112346,9087\n",
    "genome-scores.csv": b"movieId,tagId,relevance\n2,1,0.03\n",
    "genome-tags.csv": b"tagId,tag\n1,007\n",
}
HEADER = b"user_id,item_id,rating,timestamp\n"


def lay(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files in a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files in a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def parquet(**columns: Any) -> bytes:
    """A Parquet file of these columns."""
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


def read(tmp_path: Path, files: Mapping[str, bytes], **rules: Any) -> SourceTables:
    """The tables of a folder with these files, or of the only file."""
    folder = lay(tmp_path / "source", files)
    path = folder / next(iter(files)) if len(files) == 1 else folder
    return read_source(path, scratch=tmp_path / "scratch", **rules)


def rows(frame: pl.LazyFrame) -> list[tuple[Any, ...]]:
    """The rows in memory."""
    return frame.collect(engine="streaming").rows()


def test_ml_100k_comes_in_whole(tmp_path: Path) -> None:
    """If this fails, titles, years, genres or demographics of the original layout are read wrongly."""
    tables = read(tmp_path, ML_100K)
    assert (tables.format, tables.rating_scale) == ("ml-100k", (1, 5))
    assert rows(tables.ratings)[0] == ("196", "242", 3.0, datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC), 0)
    assert tables.users.collect().to_dicts()[0] == {
        "user_id": "186",
        "age": 39.0,
        "gender": "F",
        "occupation": "executive",
        "zip_code": "00000",
    }
    assert rows(tables.items) == [
        ("242", "Mis\u00e9rables, Les", 1995, ["Action", "Sci-Fi"]),
        ("267", "unknown", None, []),
        ("302", "Land Before Time III (V)", 1995, []),
    ]
    assert rows(tables.rejected) == []


def test_ml_1m_comes_in_whole(tmp_path: Path) -> None:
    """If this fails, occupation codes or Latin-1 titles of MovieLens 1M are read wrongly."""
    tables = read(tmp_path, ML_1M)
    assert (tables.format, tables.rating_scale) == ("ml-1m", (1, 5))
    assert tables.users.collect().to_dicts()[1] == {
        "user_id": "2",
        "gender": "M",
        "age": 56.0,
        "occupation": "self-employed",
        "zip_code": "70072",
    }
    assert rows(tables.items)[0] == ("661", "Caf\u00e9", 1996, ["Children's", "Musical"])


def test_ml_10m_is_told_from_1m(tmp_path: Path) -> None:
    """If this fails, half stars of MovieLens 10M are rejected as outside the scale."""
    files = {
        "ratings.dat": b"1::122::5::838985046\n1::185::4.5::838983525\n",
        "movies.dat": b"122::Boomerang (1992)::Comedy\n",
        "tags.dat": b"15::4973::excellent!::1215184630\n",
    }
    tables = read(tmp_path, files)
    assert (tables.format, tables.rating_scale) == ("ml-10m", (0.5, 5))
    assert [row[2] for row in rows(tables.ratings)] == [5.0, 4.5]
    assert rows(tables.users) == []


@pytest.mark.parametrize("name", ["item_id", "movie_id", "movieId", "itemId", "Movie ID"])
def test_the_usual_names_of_an_item_need_no_mapping(name: str, tmp_path: Path) -> None:
    """A file that version 0.6 read, with movie_id, would be refused, and other people's exports need settings."""
    files = {
        "r.csv": f"user_id,{name},rating,timestamp\nu,a,3,978300760\n".encode(),
        "i.csv": f"{name},title\na,A\n".encode(),
    }
    tables = read(tmp_path, files)
    assert rows(tables.ratings.select("user_id", "item_id")) == [("u", "a")]
    assert rows(tables.items.select("item_id", "title")) == [("a", "A")]


def test_the_standard_name_of_an_item_comes_before_the_others(tmp_path: Path) -> None:
    """Ratings would be of another column than the documentation says."""
    tables = read(tmp_path, {"r.csv": b"movie_id,item,user_id,item_id,rating,timestamp\nm,i,u,a,3,978300760\n"})
    assert rows(tables.ratings.select("item_id")) == [("a",)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_csv_releases_come_in_with_any_line_ending(ending: bytes, tmp_path: Path) -> None:
    """If this fails, quoted titles, missing genres or Windows line endings of the CSV releases are read wrongly."""
    tables = read(tmp_path, {name: content.replace(b"\n", ending) for name, content in ML_CSV.items()})
    assert (tables.format, tables.rating_scale) == ("ml-csv", (0.5, 5))
    assert [(str(user), str(item), rating) for user, item, rating, *_ in rows(tables.ratings)] == [("1", "2", 3.5)]
    assert rows(tables.items) == [
        ("2", "American President, The", 1995, ["Comedy", "Drama"]),
        ("3", 'a "quoted" one', None, []),
        ("4", "Fawlty Towers", 1975, ["Comedy"]),
    ]
    assert rows(tables.users) == []
    assert rows(tables.rejected) == []


@pytest.mark.parametrize("files", [ML_100K, ML_1M, ML_CSV], ids=["100k", "1m", "csv"])
def test_zip_and_folder_give_the_same_under_any_name(files: Mapping[str, bytes], tmp_path: Path) -> None:
    """If this fails, a release is only recognised under the name its publisher gave the archive."""
    inside = {f"some/where/{name}": content for name, content in files.items()}
    zipped = read_source(pack(tmp_path / "data.bin", inside), scratch=tmp_path / "a")
    folder = read(tmp_path, inside)
    assert zipped.format == folder.format
    for name in ("ratings", "users", "items"):
        assert rows(getattr(zipped, name)) == rows(getattr(folder, name))


def test_items_do_not_unpack_ratings(tmp_path: Path) -> None:
    """If this fails, looking at the catalogue of a large archive unpacks gigabytes of ratings."""
    ratings = b"".join(b"%d::661::3::978302109\n" % user for user in range(20_000))
    path = pack(tmp_path / "a.zip", ML_1M | {"ratings.dat": ratings})
    tables = read_source(path, scratch=tmp_path / "scratch")
    assert len(rows(tables.items)) == 2
    assert max(file.stat().st_size for file in (tmp_path / "scratch").iterdir()) < 1000
    assert len(rows(tables.ratings)) == 20_000


def test_members_are_unpacked_once(tmp_path: Path) -> None:
    """If this fails, every stage unpacks a large archive again."""
    path = pack(tmp_path / "a.zip", ML_1M)
    for _ in range(2):
        rows(read_source(path, scratch=tmp_path / "scratch").ratings)
        written = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "scratch").iterdir()}
    rows(read_source(path, scratch=tmp_path / "scratch").ratings)
    assert written == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "scratch").iterdir()}


def test_a_replaced_archive_is_unpacked_anew(tmp_path: Path) -> None:
    """If this fails, a corrected archive under the old name gives the old ratings."""
    path = pack(tmp_path / "a.zip", ML_1M)
    assert len(rows(read_source(path, scratch=tmp_path / "scratch").ratings)) == 2
    pack(path, ML_1M | {"ratings.dat": b"1::1193::5::978300760\n"})
    assert len(rows(read_source(path, scratch=tmp_path / "scratch").ratings)) == 1


@pytest.mark.parametrize(
    "files",
    [ML_100K, ML_1M, ML_CSV, {"a.csv": HEADER + b"u,m,3,978300760\n"}],
    ids=["100k", "1m", "ml-csv", "csv"],
)
def test_tables_keep_their_declarations(files: Mapping[str, bytes], tmp_path: Path) -> None:
    """If this fails, an asset's table has other columns or types than the ones declared for it."""
    tables = read(tmp_path, files)
    for name in ("ratings", "users", "items"):
        frame = getattr(tables, name)
        declared = TABLES[f"raw_{name}"]
        conformed = conform(lazy(frame), declared).to_native().collect()
        assert conformed.schema == frame.collect().schema
        assert list(declared.columns) == conformed.columns[: len(declared.columns)]
    assert conform(lazy(tables.rejected), TABLES["rejected_rows"]).to_native().collect().schema == {
        "file": pl.String,
        "line": pl.Int64,
        "reason": pl.String,
        "text": pl.String,
    }


FOREIGN = {"user_id": "customer", "item_id": "sku", "rating": "stars", "timestamp": "when"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^", "::", " "])
def test_any_delimiter_and_foreign_names(delimiter: str, tmp_path: Path) -> None:
    """If this fails, a CSV of one's own needs rewriting before it can be read."""
    text = f"when,stars,extra,customer,sku\n{EPOCH},4.5,x,c-1,s-1\n{EPOCH},2,y,c-2,s-2\n"
    tables = read(tmp_path, {"export.txt": text.replace(",", delimiter).encode()}, columns=FOREIGN)
    assert tables.format == "csv"
    assert rows(tables.ratings) == [("c-1", "s-1", 4.5, NOON, 0), ("c-2", "s-2", 2.0, NOON, 1)]
    assert tables.rating_scale == (2.0, 4.5)


def test_quotes_hold_delimiters_and_quotes(tmp_path: Path) -> None:
    """If this fails, an export with every field quoted gives wrong ids."""
    text = b'"user_id","item_id","rating","timestamp"\n"u,1","m""1","4","978300760"\n\n u2 , m2 ,5,978300760\n'
    tables = read(tmp_path, {"a.csv": text})
    assert [row[:3] for row in rows(tables.ratings)] == [("u,1", 'm"1', 4.0), ("u2", "m2", 5.0)]
    assert rows(tables.rejected) == []


@pytest.mark.parametrize(
    "written",
    [
        str(EPOCH),
        f"{EPOCH}.0",
        f"{EPOCH}000",
        f"{EPOCH}000000",
        f"{EPOCH / 1e9}e9",
        "2020-01-02T12:00:00Z",
        "2020-01-02 12:00",
        "2020-01-02T13:30:00+01:30",
        "2020-01-02T10:00:00.000-0200",
    ],
)
def test_times_are_understood_in_every_writing(written: str, tmp_path: Path) -> None:
    """If this fails, a whole batch lands in the wrong year or is rejected for its time format."""
    tables = read(tmp_path, {"a.csv": HEADER + f"u,m,3,{written}\n".encode()})
    assert rows(tables.rejected) == []
    assert rows(tables.ratings)[0][3] == NOON


@pytest.mark.parametrize(
    "times",
    [
        [NOON],
        [NOON.replace(tzinfo=None)],
        [EPOCH],
        [EPOCH * 1000],
        [float(EPOCH)],
        ["2020-01-02T12:00:00Z"],
        pl.Series([NOON]).dt.cast_time_unit("ns"),
        pl.Series([NOON]).dt.convert_time_zone("Asia/Tokyo"),
    ],
    ids=["utc", "naive", "s", "ms", "float", "iso", "ns", "tokyo"],
)
def test_parquet_of_any_types(times: Any, tmp_path: Path) -> None:
    """If this fails, ids become 1.0, or times shift by a unit or a time zone."""
    content = parquet(user_id=[7.0], item_id=[8], rating=[4], timestamp=times)
    tables = read(tmp_path, {"a.parquet": content})
    assert (tables.format, rows(tables.ratings)) == ("parquet", [("7", "8", 4.0, NOON, 0)])


def test_parquet_of_categories_and_lists(tmp_path: Path) -> None:
    """If this fails, categories come in as their codes, or booleans and lists of a typed file stop the batch."""
    ids = pl.Series(["7", "3"], dtype=pl.Categorical)
    files = {
        "r.parquet": parquet(
            user_id=ids, item_id=ids, rating=ids, timestamp=pl.Series([str(EPOCH)] * 2).cast(ids.dtype)
        ),
        "u.parquet": parquet(user_id=["7"], member=[True], since=[NOON.date()], level=[2], code=["12"]),
        "m.parquet": parquet(item_id=[7], title=["Heat"], year=[1995.0], genres=[["Crime"]]),
    }
    tables = read(tmp_path, files)
    assert rows(tables.ratings) == [("7", "7", 7.0, NOON, 0), ("3", "3", 3.0, NOON, 1)]
    assert tables.users.collect().to_dicts() == [
        {"user_id": "7", "member": "true", "since": "2020-01-02", "level": 2.0, "code": "12"}
    ]
    assert rows(tables.items) == [("7", "Heat", 1995, ["Crime"])]


def test_json_lines_with_users_and_items_beside(tmp_path: Path) -> None:
    """If this fails, attributes lose their types, leading zeros or late columns, or genres their list."""
    files = {
        "ratings.jsonl": b'{"user_id":1,"item_id":"m","rating":4,"timestamp":978300760}\n',
        "users.csv": b"user_id,Age,Zip Code,Home Town,code\n1,30,02138,Bonn,007\n2,,12345,,12\n1,31,02138,Bonn,8\n",
        "items.jsonl": b'{"item_id":"m","title":"Heat (1995)","genres":["Crime"]}\n{"item_id":2,"title":"X"}\n',
    }
    tables = read(tmp_path, files)
    assert tables.format == "jsonl"
    assert tables.users.collect().to_dicts() == [
        {"user_id": "2", "age": None, "zip_code": "12345", "home_town": None, "code": "12"},
        {"user_id": "1", "age": 31.0, "zip_code": "02138", "home_town": "Bonn", "code": "8"},
    ]
    assert rows(tables.items) == [("m", "Heat", 1995, ["Crime"]), ("2", "X", None, None)]


def test_several_files_make_one_batch(tmp_path: Path) -> None:
    """If this fails, a batch in parts loses ratings or repeats positions."""
    files = {f"part-{part}.csv": HEADER + b"u%d,m,3,978300760\nu,m,x,1\n" % part for part in range(3)}
    tables = read(tmp_path, files)
    assert [(row[0], row[4]) for row in rows(tables.ratings)] == [("u0", 0), ("u1", 2), ("u2", 4)]
    assert [row[:2] for row in rows(tables.rejected)] == [(f"part-{part}.csv", 3) for part in range(3)]


def test_row_numbers_under_empty_names_are_no_attributes(tmp_path: Path) -> None:
    """If this fails, the row numbers that pandas writes are clustered as a fact about users, or refused."""
    files = {"r.csv": b",,user_id,item_id,rating,timestamp\n0,0,u,m,3,978300760\n", "u.csv": b",user_id,age\n0,u,7\n"}
    tables = read(tmp_path, files)
    assert len(rows(tables.ratings)) == 1
    assert tables.users.collect().to_dicts() == [{"user_id": "u", "age": 7.0}]


def test_a_column_is_text_if_it_is_text_in_any_file(tmp_path: Path) -> None:
    """If this fails, the second users file of a batch brings nulls, or its types break the batch."""
    files = {
        "r.csv": HEADER + b"u,m,3,978300760\n",
        "a.csv": b"user_id,level\nu1,1\n",
        "b.csv": b"user_id,level,age\nu2,high,33\n",
    }
    users = read(tmp_path, files).users.collect().sort("user_id")
    assert users.to_dicts() == [
        {"user_id": "u1", "level": "1", "age": None},
        {"user_id": "u2", "level": "high", "age": 33.0},
    ]


def test_a_number_is_the_text_that_another_file_writes_for_it(tmp_path: Path) -> None:
    """If this fails, users of the same level are of two kinds, 25 and 25.0."""
    files = {
        "r.csv": HEADER + b"u,m,3,978300760\n",
        "a.parquet": parquet(user_id=["u1", "u2"], level=[25.0, None]),
        "b.csv": b"user_id,level\nu3,25\nu4,gold\n",
    }
    assert sorted(rows(read(tmp_path, files).users)) == [("u1", "25"), ("u2", None), ("u3", "25"), ("u4", "gold")]


OWN_NAMES = ["Segment", "Cluster", "Batch", "User", "User ID", "Item", "Item ID", "Kept"]
_CALLED = ["segment_", "cluster_", "batch_", "user_", "user_id_", "item_", "item_id_", "kept"]


@pytest.mark.parametrize("values", [[1, 2], ["gold", "iron"]], ids=["numbers", "texts"])
@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_attributes_may_be_called_as_our_own_columns(form: str, values: list[Any], tmp_path: Path) -> None:
    """If this fails, a column `segment` of a CRM export breaks the run, or is shown in the place of our segments."""
    described = pl.DataFrame({"userId": ["u", "v"], **dict.fromkeys(OWN_NAMES, values)})
    write = {"csv": described.write_csv, "parquet": described.write_parquet, "jsonl": described.write_ndjson}[form]
    content = io.BytesIO()
    write(content)
    ratings = HEADER + b"u,m,3,978300760\nv,m,4,978300760\n"
    tables = read(tmp_path, {"r.csv": ratings, f"users.{form}": content.getvalue()})
    assert tables.users.collect_schema().names() == ["user_id", *_CALLED]
    again = read(tmp_path / "again", {"r.csv": ratings, "users.parquet": parquet(**tables.users.collect().to_dict())})
    assert again.users.collect().equals(tables.users.collect())
    users = sample_users(merge.index_users([lazy(tables.users)], [lazy(tables.ratings)]), share=1 - 1e-9, seed=0)
    for group in ("cluster", "segment"):
        groups = lazy(pl.DataFrame({"user": [0, 1], group: [0, 0]}, schema_overrides={"user": pl.Int32}))
        compared = attributes_by_group(users, groups, group)
        assert compared[group].unique().to_list() == [0]
        named = compared["row"].str.strip_prefix("mean ").str.split(": ").list.first()
        assert set(named) == set(_CALLED)


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_one_column_may_be_id_and_title(form: str, tmp_path: Path) -> None:
    """If this fails, films that are known by their title only end in Polars' own error."""
    files = {
        "csv": b"Film,year\nHeat,1995\n",
        "parquet": parquet(Film=["Heat"], year=[1995]),
        "jsonl": b'{"Film":"Heat","year":1995}\n',
    }
    source = {"r.csv": HEADER + b"u,Heat,3,978300760\n", f"films.{form}": files[form]}
    tables = read(tmp_path, source, columns={"item_id": "Film", "title": "Film"})
    assert rows(tables.items) == [("Heat", "Heat", 1995, None)]


def test_a_known_id_may_be_named_as_the_title(tmp_path: Path) -> None:
    """Whoever names the ids as titles would be told that the items have no id."""
    source = {"r.csv": HEADER + b"u,Heat,3,978300760\n", "items.csv": b"item_id,year\nHeat,1995\n"}
    tables = read(tmp_path, source, columns={"title": "item_id"})
    assert rows(tables.items) == [("Heat", "Heat", 1995, None)]


@pytest.mark.parametrize("blank", ["", "  ", "\t"], ids=["empty", "spaces", "tab"])
@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_blank_lines_are_left_out_wherever_they_stand(blank: str, quote: str, tmp_path: Path) -> None:
    """If this fails, a blank line before the header makes a row of the header, or one at the end is a bad row."""
    files = {
        "r.csv": f"{blank}\n{quote}user_id{quote},item_id,rating,timestamp\nu,m,3,978300760\n{blank}\n",
        "u.csv": f"{blank}\n{quote}user_id{quote},age\nu,7\n{blank}\n",
    }
    tables = read(tmp_path, {name: text.encode() for name, text in files.items()})
    assert (rows(tables.users), len(rows(tables.ratings)), rows(tables.rejected)) == ([("u", 7.0)], 1, [])


def test_years_may_have_decimals(tmp_path: Path) -> None:
    """If this fails, a catalogue that pandas wrote loses its items because another one has no year."""
    files = {"r.csv": HEADER + b"u,a,3,978300760\n", "movies.csv": b"item_id,title,year\na,A,1999.0\nb,B,\n"}
    tables = read(tmp_path, files)
    assert [row[:3] for row in rows(tables.items)] == [("a", "A", 1999), ("b", "B", None)]
    assert rows(tables.rejected) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_are_recognised(encoding: str, tmp_path: Path) -> None:
    """If this fails, an export from a spreadsheet is refused or its first column is lost."""
    text = HEADER.decode() + "J\u00fcrgen,m,3,978300760\n"
    assert rows(read(tmp_path, {"a.csv": text.encode(encoding)}).ratings)[0][0] == "J\u00fcrgen"


def test_other_encodings_can_be_declared(tmp_path: Path) -> None:
    """If this fails, ids with accents from an older system cannot come in."""
    text = HEADER.decode() + "J\u00fcrgen,m,3,978300760\n"
    tables = read(tmp_path, {"a.csv": text.encode("latin-1")}, encoding="latin-1")
    assert rows(tables.ratings)[0][0] == "J\u00fcrgen"


def test_texts_of_items_may_span_lines(tmp_path: Path) -> None:
    """If this fails, a catalogue with descriptions of several lines is rejected."""
    files = {
        "a.csv": HEADER + b"u,m,3,978300760\n",
        "movies.csv": b'item_id,title,plot\nm,"One\nTwo","first\nsecond"\nn,Three,\n',
    }
    tables = read(tmp_path, files)
    assert [row[:2] for row in rows(tables.items)] == [("m", "One Two"), ("n", "Three")]
    assert rows(tables.rejected) == []


def test_gzip_is_read_through(tmp_path: Path) -> None:
    """If this fails, a compressed export must be unpacked by hand."""
    content = gzip.compress(HEADER + b"u,m,3,978300760\n")
    assert len(rows(read(tmp_path, {"a.csv.gz": content}).ratings)) == 1


def test_a_declared_scale_is_kept_to(tmp_path: Path) -> None:
    """If this fails, a rating outside the declared scale reaches the models."""
    tables = read(tmp_path, {"a.csv": HEADER + b"u,m,3,978300760\nu,n,11,978300760\n"}, rating_scale=(1, 10))
    assert tables.rating_scale == (1, 10)
    assert rows(tables.rejected) == [("a.csv", 3, "rating outside 1 to 10", "u,n,11,978300760")]


def test_a_description_says_what_would_happen(tmp_path: Path) -> None:
    """If this fails, `add --check` shows wrong numbers."""
    path = lay(tmp_path / "s", {"a.csv": HEADER + b"u,m,3,978300760\nv,m,4,978300761\nw,m,x,1\n"}) / "a.csv"
    found = describe_source(path, scratch=tmp_path / "scratch", rows=1)
    assert (found.format, found.ratings, found.users, found.items, found.rejected) == ("csv", 2, 0, 0, 1)
    assert found.rating_scale == (3.0, 4.0)
    assert found.first == datetime.fromtimestamp(978300760, UTC)
    assert found.last == datetime.fromtimestamp(978300761, UTC)
    assert found.head["user_id"].to_list() == ["u"]
    assert found.problems["line"].to_list() == [4]


_FIELD = st.text(st.characters(codec="utf-8", exclude_characters='\0\r\n,"\ufeff'), min_size=1, max_size=8).map(
    str.strip
)
_RATING_ROWS = st.lists(
    st.tuples(_FIELD, _FIELD, st.sampled_from(["1", "2.5", "5", "x", ""]), st.sampled_from(["0", str(EPOCH), "-1"])),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60)
@given(lines=_RATING_ROWS)
def test_every_row_is_either_good_or_rejected(
    lines: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """If this fails, rows vanish, or one is both taken and rejected."""
    folder = tmp_path_factory.mktemp("law")
    text = HEADER.decode() + "\n".join(",".join(line) for line in lines) + "\n"
    tables = read(folder, {"a.csv": text.encode()})
    good, bad = rows(tables.ratings), rows(tables.rejected)
    positions = sorted([row[4] + 2 for row in good] + [row[1] for row in bad])
    assert positions == list(range(2, len(lines) + 2))
    assert all(lines[line - 2] == tuple(text.split(",")) for _, line, _, text in bad)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("ml-100k", (100_000, 943, 1_682)), ("ml-1m", (1_000_209, 6_040, 3_883))],
)
def test_real_releases_have_their_published_counts(name: str, counts: tuple[int, ...], tmp_path: Path) -> None:
    """If this fails, rows of a real release are lost or rejected."""
    archive = DATA / f"{name}.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    found = describe_source(archive, scratch=tmp_path)
    assert (found.format, found.rejected) == (name, 0)
    assert (found.ratings, found.users, found.items) == counts


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    """If this fails, a mistyped path ends in a traceback."""
    with pytest.raises(SourceError, match="no such file"):
        read_source(tmp_path / "nowhere", scratch=tmp_path)
