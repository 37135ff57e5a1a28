"""Mutated inputs over every reader. RECSYS_FUZZ_EXAMPLES sets how many (a few by default)."""

import gzip
import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.sources import read_source

EXAMPLES = int(os.environ.get("RECSYS_FUZZ_EXAMPLES", "25"))


def _parquet() -> bytes:
    rows = {
        "user_id": ["a", "b", "a"],
        "item_id": [1, 2, 3],
        "rating": [1.0, 4.5, 3.0],
        "timestamp": [1, 2, 978300760],
    }
    out = io.BytesIO()
    pl.DataFrame(rows).write_parquet(out)
    return out.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


ML_100K = {
    "u.data": b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n",
    "u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n",
    "u.item": "1|Mis\u00e9rables, Les (1995)|01-Jan-1995||http://x|0|1\n2|unknown||||1|0\n".encode("latin-1"),
    "u.genre": b"unknown|0\nAction|1\n\n",
}
ML_1M = {
    "ratings.dat": b"1::1193::5::978300760\n1::661::3::978302109\n",
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": b"1::Toy Story (1995)::Animation|Comedy\n661::James and the Giant Peach (1996)::Musical\n",
}
ML_CSV = {
    "ratings.csv": b"userId,movieId,rating,timestamp\r\n1,2,3.5,964982703\r\n2,2,0.5,964982703\r\n",
    "movies.csv": b'movieId,title,genres\r\n2,"President, The (1995)",Comedy\r\n3,"a ""b""",(no genres listed)\r\n',
    "tags.csv": b"userId,movieId,tag,timestamp\r\n1,2,fun,964982703\r\n",
}
CSV = b"user_id;item_id;rating;timestamp\nu1;m1;4.5;2020-01-02T03:04:05Z\nu2;m2;3;2021-01-02\n"
QUOTED = b'"user_id","item_id","rating","timestamp"\n"u1","m,1","4.5","978300760"\n"u2","m""2","3","978300760000"\n'
JSON_LINES = (
    b'{"user_id":1,"item_id":"a","rating":4,"timestamp":978300760}\n'
    b'{"user_id":"x","item_id":"b","rating":5,"timestamp":1}\n'
)
USERS = b"user_id,age,zip code\nu1,30,02138\nu2,,12345\n"
ITEMS = b'{"item_id":"m1","title":"Heat (1995)","genres":["Crime","Drama"]}\n{"item_id":2,"title":"X"}\n'

SEEDS: dict[str, dict[str, bytes]] = {
    "ml-100k": ML_100K,
    "ml-1m": ML_1M,
    "ml-csv": ML_CSV,
    "csv": {"a.csv": CSV},
    "quoted": {"a.csv": QUOTED},
    "gzip": {"a.csv.gz": gzip.compress(CSV, mtime=0)},
    "jsonl": {"a.jsonl": JSON_LINES},
    "parquet": {"a.parquet": _parquet()},
    "folder": {"r.csv": QUOTED, "users.csv": USERS, "items.jsonl": ITEMS},
    "zip": {"a.zip": _zip(ML_1M)},
    "zip-csv": {"a.zip": _zip(ML_CSV)},
}
_TOKENS = [
    b"\n",
    b"\r",
    b'"',
    b",",
    b"::",
    b"|",
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"NaN",
    b"-1",
    b"1e400",
    b"{",
    b"[" * 2000,
]
_edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "truncate"]),
        st.integers(0, 2**16),
        st.integers(0, 255),
        st.sampled_from(_TOKENS) | st.binary(max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def _mutated(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, place, value, token in edits:
        at = place % (len(content) + 1)
        match kind:
            case "flip":
                content = content[:at] + bytes([value]) + content[at + 1 :]
            case "cut":
                content = content[:at] + content[at + value % 16 + 1 :]
            case "insert":
                content = content[:at] + token + content[at:]
            case "repeat":
                content = content[: at + value] + content[at:]
            case _:
                content = content[: max(at, len(content) // 2)]
    return content


def _read_through(path: Path, scratch: Path) -> None:
    tables = read_source(path, scratch=scratch)
    ratings, users, items, rejected = pl.collect_all(
        [tables.ratings, tables.users, tables.items, tables.rejected], engine="streaming"
    )
    low, high = tables.rating_scale
    assert ratings["rating"].is_between(low, high).all()
    assert not ratings.select(pl.any_horizontal(pl.col("user_id", "item_id").cast(pl.String) == "").any()).item()
    for frame, key in ((users, "user_id"), (items, "item_id")):
        assert frame[key].is_unique().all()
        assert frame[key].null_count() == 0
    for frame in (ratings, rejected):
        assert frame.null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_inputs_end_in_tables_or_in_a_clear_error(seed: str) -> None:
    """If this fails, some damaged file shows its owner a traceback or brings nulls into the tables."""
    files = SEEDS[seed]

    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(files)), _edits)
    def check(victim: str, edits: list[tuple[str, int, int, bytes]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.mkdir()
            for name, content in files.items():
                (source / name).write_bytes(_mutated(content, edits) if name == victim else content)
            path = source / victim if len(files) == 1 else source
            try:
                _read_through(path, Path(folder) / "scratch")
            except SourceError as error:
                assert str(error).strip()

    check()
