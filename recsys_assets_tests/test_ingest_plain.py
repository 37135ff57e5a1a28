"""The fast way into CSV files against the careful one."""

import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys_assets.recommender.ingest import generic
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.sources import read_source

HEADER = "userId,movieId,rating,timestamp"
IDS = pl.col("user_id", "item_id")

_good = st.tuples(
    st.integers(0, 10**6).map(str),
    st.integers(0, 10**6).map(str),
    st.sampled_from(["0.5", "3", "5.0", ".5"]),
    st.integers(0, 10**9).map(str),
).map(",".join)
_odd_ids = ["", " ", "0", "00", "07", "+7", "-7", "7.0", "7 ", "\t7", "7\r", "1e3", "1_0", "x", "٣", '"7"', "1;2"]
_odd_numbers = ["NaN", "inf", "1e400", "0x1", "6", "99999999999", "100000000000", "978300760000"]
_long_ids = ["9" * 18, "9" * 19, "9" * 20, str(10**18)]
_odd_fields = st.sampled_from([*_odd_ids, *_odd_numbers, *_long_ids])
_odd = st.lists(_odd_fields | st.integers(0, 9).map(str), min_size=0, max_size=6).map(",".join)
# Mostly one odd thing among good rows: with more of them the first hides the others.
LINES = st.lists(_good, min_size=1, max_size=8).flatmap(
    lambda good: st.lists(_odd, max_size=1).flatmap(lambda odd: st.permutations([*good, *odd]))
)


def _read(path: Path, scratch: Path, scale: tuple[float, float] | None) -> tuple[pl.DataFrame, pl.DataFrame] | str:
    """Ratings and rejected rows, or why there are none."""
    try:
        tables = read_source(path, scratch=scratch, rating_scale=scale)
        return tables.ratings.collect(), tables.rejected.collect()
    except SourceError as error:
        return str(error)


@given(LINES, st.sampled_from(["\n", "\n\n", "\r\n"]), st.booleans(), st.sampled_from([None, (1.0, 5.0)]))
def test_the_fast_way_gives_what_the_careful_one_gives(lines, ending, is_ended, scale):
    """Which ratings come in, and which are rejected for what, would depend on what else is in the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes((ending.join([HEADER, *lines]) + ending * is_ended).encode())
        found = _read(path, Path(folder) / "fast", scale)
        with patch.object(generic, "plain_ratings", return_value=None):
            expected = _read(path, Path(folder) / "careful", scale)
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    assert_frame_equal(found[0].with_columns(IDS.cast(pl.String)), expected[0])
    assert_frame_equal(found[1], expected[1])


def test_ids_that_are_whole_numbers_stay_numbers(tmp_path):
    """Large files would be read the slow way, twice as long."""
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n7,0,3.5,978300760\n1,20,4,978300761\n")
    ratings = read_source(path, scratch=tmp_path / "scratch").ratings.collect()
    assert ratings.select(IDS, "rating", "row").rows() == [(7, 0, 3.5, 0), (1, 20, 4.0, 1)]


def test_files_with_and_without_text_ids_make_one_batch(tmp_path):
    """A batch of several files would be refused as soon as one of them has an id that is no number."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.csv").write_text(f"{HEADER}\n7,1,3.5,978300760\n")
    (source / "b.csv").write_text(f"{HEADER}\n07,m,3.5,978300760\n")
    ratings = read_source(source, scratch=tmp_path / "scratch").ratings.collect()
    assert ratings.select(IDS).rows() == [("7", "1"), ("07", "m")]


def test_what_polars_writes_after_it_has_failed_is_not_read(tmp_path, monkeypatch):
    """On a busy machine a batch with text ids would be refused now and then, with "InvalidFooter"."""
    sink, replace, late = pl.LazyFrame.sink_ipc, Path.replace, []

    def failing(frame: pl.LazyFrame, out: Any, **options: Any) -> Any:
        writer = os.dup(out.fileno())
        try:
            return sink(frame, out, **options)
        except pl.exceptions.PolarsError:
            late.append(writer)
            raise

    def replaced(path: Path, target: Path) -> Path:
        # The writer thread of Polars has a descriptor of its own, too.
        for writer in late:
            os.write(writer, b"\xff" * 322)
        return replace(path, target)

    monkeypatch.setattr(pl.LazyFrame, "sink_ipc", failing)
    monkeypatch.setattr(Path, "replace", replaced)
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\nana,m,3.5,978300760\n")
    ratings = read_source(path, scratch=tmp_path / "scratch").ratings.collect()
    assert ratings.select(IDS).rows() == [("ana", "m")] and late
    for writer in late:
        os.close(writer)
