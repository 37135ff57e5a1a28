import bz2
import gzip
import html
import io
import json
import lzma
import sqlite3
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from recsys_assets.home.searching import ByteSearch, catalogue_words, is_distinctive
from recsys_assets.recommender.ingest.leaving_out import WITHHELD, withhold
from recsys_assets.recommender.ingest.user_words import names_one

NAME = "Zebulon"
LINE = f"3,{NAME},m,5\n".encode()
ZSTANDARD = pa.compress(LINE, codec="zstd", asbytes=True)


def zipped(content: bytes, name: str = "a.csv") -> bytes:
    """A zip with one file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def parquet(rows: pl.DataFrame) -> bytes:
    """A Parquet file, compressed."""
    packed = io.BytesIO()
    rows.write_parquet(packed, compression="zstd")
    return packed.getvalue()


def array(values: np.ndarray) -> bytes:
    """A file of NumPy."""
    packed = io.BytesIO()
    np.save(packed, values)
    return packed.getvalue()


FILES = {
    "text": LINE,
    "text in UTF-16": LINE.decode().encode("utf-16"),
    "gzip": gzip.compress(LINE),
    "bzip2": bz2.compress(LINE),
    "xz": lzma.compress(LINE),
    "Zstandard": ZSTANDARD,
    "zip": zipped(LINE),
    "zip in a zip": zipped(zipped(LINE), "a.zip"),
    "Zstandard in gzip in a zip": zipped(gzip.compress(ZSTANDARD), "a.gz"),
    "gzip in a zip": zipped(gzip.compress(LINE), "a.gz"),
    "name in a zip": zipped(b"1", f"{NAME}/a.csv"),
    "ids in Parquet": parquet(pl.DataFrame({"user_id": ["a"] * 5000 + [NAME]})),
    "text in Parquet": parquet(pl.DataFrame({"text": ["a"] * 5000 + [f"u,{NAME},x"]})),
    "lists in Parquet": parquet(pl.DataFrame({"told": [["a", f"as {NAME}"]]})),
    "Parquet in a zip": zipped(parquet(pl.DataFrame({"user_id": [NAME]})), "a.parquet"),
    "array of text": array(np.array([NAME.encode()])),
}


@pytest.mark.parametrize("kind", FILES)
def test_whatever_an_id_is_packed_in_it_is_found(kind, tmp_path):
    """A home is told to be free of somebody whose rows lie in it, compressed."""
    path = tmp_path / "file"
    path.write_bytes(FILES[kind])
    assert ByteSearch([NAME], [NAME]).file(path, named=Path("file")) == "names a forgotten user"
    assert ByteSearch(["Someone"], ["Someone"]).file(path, named=Path("file")) is None


def test_values_of_a_database_are_found_in_pieces_and_compressed(tmp_path):
    """The run history holds somebody in a text that is longer than a page, or compressed."""
    for place, value in enumerate(("x" * 9000 + f' "{NAME}" ' + "x" * 9000, zlib.compress(LINE * 100))):
        path = tmp_path / f"{place}.db"
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE events (id INTEGER, event)")
            database.execute("INSERT INTO events VALUES (1, ?)", (value,))
            database.commit()
        assert ByteSearch([NAME], [NAME]).file(path, named=Path(path.name)) == "names a forgotten user"
        assert ByteSearch(["Someone"], ["Someone"]).file(path, named=Path(path.name)) is None


@pytest.mark.parametrize(
    ("content", "is_named"),
    [
        ("anna,m,3", True),
        ("told anna.", True),
        ('{"user": "anna"}', True),
        ("anna-maria,m,3", False),
        ("anna@example.org", False),
        ("joanna", False),
        ("Anna", False),
    ],
)
def test_a_user_is_not_taken_for_another_one_of_a_longer_name(content, is_named, tmp_path):
    """A home is never clean, because somebody else is called much the same."""
    path = tmp_path / "file"
    path.write_text(content)
    assert bool(ByteSearch(["anna"], ["anna"]).file(path, named=Path("file"))) == is_named


def test_ids_are_found_as_files_write_them(tmp_path):
    """Somebody with an accent or a space in the id is overlooked in JSON, in a page or in the name of a folder."""
    name, path = "Zoë & co", tmp_path / "file"
    for written in (b'{"id": "Zo\\u00eb & co"}', "<b>Zoë &amp; co</b>".encode(), name.encode("latin-1")):
        path.write_bytes(written)
        assert ByteSearch([name], [name]).file(path, named=Path("file")), written
    path.write_bytes(b"1")
    assert ByteSearch([name], [name]).file(path, named=Path("batches") / "Zo%C3%AB%20%26%20co.csv" / "file")


@pytest.mark.parametrize(
    "name", ["12345678", "-12345678", "anna", "anna@example.org", "Zoë", "Zoe & co", "<anna>", "a.b"]
)
def test_whatever_is_found_in_rejected_rows_is_withheld_from_them(name):
    """A user can never be erased, because rows keep an id that the search finds; or an id stays that is not found."""
    around = ("", ",", " ", "-", ".", "(", "=", "<id>", "é", "_", "7", ".-", "-.", ".0", ".00,", ".05", "a-", ".a", "'")
    written = (name, json.dumps(name)[1:-1], html.escape(name))
    texts = list(dict.fromkeys(f"{a}{as_}{b}" for a in around for as_ in written for b in around))
    rows = pl.DataFrame({"text": texts}).lazy()
    withheld = withhold(rows, [name]).select(pl.col("text") == WITHHELD).collect()["text"].to_list()
    found = [ByteSearch([name], [name]).names_one(text.encode()) for text in texts]
    assert [text for text, one, other in zip(texts, withheld, found, strict=True) if one != other] == []
    assert withheld[texts.index(name)]


@pytest.mark.parametrize(
    "text", ["12345678.0,5,bad", "(12345678)|5", "user=12345678", "<id>12345678</id>", "x 12345678.00"]
)
def test_rejected_rows_name_nobody_who_is_forgotten(text, tmp_path):
    """The id of a forgotten user stays in `rejected_rows`, or `compact` names a table of its own for ever."""
    rows, path = pl.DataFrame({"text": [text]}), tmp_path / "rows.parquet"
    search = ByteSearch(["12345678"], ["12345678"])
    rows.write_parquet(path)
    assert search.file(path, named=Path("rows")) == "names a forgotten user"
    withhold(rows.lazy(), ["12345678"]).collect().write_parquet(path)
    assert search.file(path, named=Path("rows")) is None


def test_a_long_list_of_forgotten_users_is_withheld():
    """`withhold` would fail for 12,000 ids that are no plain words, and with it every reading of a batch."""
    ids = [f"user:{number:08}" for number in range(12_000)]
    rows = pl.DataFrame({"text": ["user:00011999,7,bad", "user:00012000,7,bad"]})
    assert rows.select(names_one(pl.col("text"), ids)).to_series().to_list() == [True, False]


def test_ids_that_a_table_holds_as_floats_are_found(tmp_path):
    """A forgotten user stays in an export of pandas, which writes 42 as 42.0."""
    path = tmp_path / "file"
    pl.DataFrame({"user_id": [1.0, 42.0]}).write_parquet(path)
    assert ByteSearch(["42"], []).file(path, named=Path("file")) == "names a forgotten user"


def test_an_id_that_is_cut_by_the_end_of_a_block_is_found(tmp_path, monkeypatch):
    """Somebody is overlooked in a long file."""
    monkeypatch.setattr("recsys_assets.home.searching._CHUNK", 16)
    path = tmp_path / "file"
    for before in range(40):
        path.write_bytes(b"," * before + LINE + b"," * 40)
        assert ByteSearch([NAME], [NAME]).file(path, named=Path("file")), before
        path.write_bytes(b"," * before + f"Ann-{NAME}-Maria".encode() + b"," * 40)
        assert ByteSearch([NAME], [NAME]).file(path, named=Path("file")) is None, before


def test_short_ids_are_looked_for_in_columns_of_ids_alone(tmp_path):
    """User 42 can never be erased, because some log says 42 seconds."""
    path = tmp_path / "file"
    assert [is_distinctive(each) for each in ("42", "1234567", "12345678", "abc", "abcd")] == [
        *(False, False, True, False, True)
    ]
    path.write_text("took 42 s")
    assert ByteSearch(["42"], []).file(path, named=Path("42")) is None
    pl.DataFrame({"user_id": [1, 42], "n": [42, 1]}).write_parquet(path)
    assert ByteSearch(["42"], []).file(path, named=Path("file")) == "names a forgotten user"
    pl.DataFrame({"user_id": [1, 2], "n": [42, 1]}).write_parquet(path)
    assert ByteSearch(["42"], []).file(path, named=Path("file")) is None


def test_words_of_the_catalogue_are_known():
    """User `drama` can never be erased, because there are dramas."""
    items = pl.LazyFrame(
        {"item_id": ["m7"], "title": ["Emma's War"], "genres": [["Drama", "Film-Noir"]], "year": [1996]}
    )
    users = pl.LazyFrame({"user_id": ["zoe"], "town": ["Ulm"]})
    words = catalogue_words([items, users])
    assert {"m7", "Emma", "War", "Drama", "Film-Noir", "Ulm"} <= words
    assert "zoe" not in words


@pytest.mark.parametrize(
    "content",
    [zipped(LINE)[:-30], b"Rar!\x1a\x07", b"PAR1 cut off", gzip.compress(LINE * 999)[:50], ZSTANDARD[:-5]],
    # Packed bytes hold the time, and every worker must give a case the same name.
    ids=["cut zip", "rar", "cut Parquet", "cut gzip", "cut Zstandard"],
)
def test_what_cannot_be_looked_into_is_said(content, tmp_path):
    """A home is told to be free of somebody who lies in a damaged archive."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert str(ByteSearch([NAME], [NAME]).file(path, named=Path("file"))).startswith("cannot be searched")
