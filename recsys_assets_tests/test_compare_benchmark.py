"""The benchmark against other packages: what its table says, what it is asked, and the data that both sides get."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, compare_sides, scale
from benchmarks.compare import COMPARISONS, Comparison, Finding, Row, Timed
from benchmarks.generate import FULL_RATINGS, Size, generate
from benchmarks.scale import Measured, Sample


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What the sides read, of 3,000 ratings."""
    folder, source = tmp_path_factory.mktemp("prepared"), tmp_path_factory.mktemp("source")
    generate(source, Size.of(3_000), formats=("csv",))
    compare.prepare(folder, source / "csv")
    return folder


def _cells(row):
    (line,) = list(compare.table([row]))[2:]
    return line.strip("| ").split(" | ")


def test_a_ratio_is_the_median_and_meets_its_aim_only_below_it():
    """A table says that an aim is met because one lucky pair met it."""
    assert _cells(Row("CSV", "pandas", [0.5, 1.2, 1.1], most=1.0))[2:5] == ["1.10 (0.50 to 1.20)", "≤ 1", "**no**"]
    assert _cells(Row("lists", "Spark", [0.021], most=0.05))[2:5] == ["0.021 (0.021 to 0.021)", "≤ 0.05", "yes"]


def test_a_fast_side_with_other_results_does_not_meet_its_aim():
    """Half of the work in half of the time is published as twice as fast."""
    row = Row("ALS", "cmfrec", [0.5], most=1.5, finding=Finding("RMSE 0.90, there 0.80", is_met=False))
    assert _cells(row)[4:] == ["**no**", "RMSE 0.90, there 0.80"]


def test_a_ratio_without_aim_is_only_reported():
    """A figure that nobody asked for reads as a success."""
    assert _cells(Row("implicit ALS", "implicit", [3.0]))[3:5] == ["reported", "–"]


def test_a_side_that_fails_leaves_its_row_out_with_the_reason(tmp_path, monkeypatch):
    """One package without a compiler takes the whole table with it, or its row is missing without a word."""
    monkeypatch.setattr(compare, "python_of", lambda _: Path(sys.executable))
    broken = Comparison("als", "ALS", "cmfrec", ("als_ours", "als_cmfrec"), package="cmfrec", most=1.5)
    cells = _cells(compare.compared(broken, tmp_path, pairs=1))
    assert cells[2:5] == ["–", "≤ 1.5", "–"]
    assert cells[5].startswith("left out: FileNotFoundError")


@pytest.mark.parametrize(
    ("here", "is_met"), [({"0 ndcg_10": 0.5, "0 map_10": 0.2}, True), ({"0 ndcg_10": 0.5, "0 map_10": 0.2001}, False)]
)
def test_metrics_must_be_equal_to_six_digits(tmp_path, here, is_met):
    """Another definition of a metric passes as the same one."""
    there = Timed(1.0, {"0 ndcg_10": 0.5, "0 map_10": 0.2 + 1e-9})
    assert compare._same_metrics(tmp_path, Timed(1.0, here), there).is_met is is_met


def test_every_comparison_names_sides_that_exist():
    """A comparison fails after minutes, because nobody wrote its side."""
    assert {side for one in COMPARISONS for side in one.sides} == set(compare_sides.SIDES)
    assert {one.package for one in COMPARISONS} - {None} == set(compare.PACKAGES)


def test_both_sides_of_ease_get_the_same_cells(prepared):
    """One side fits more items than the other, and the ratio says nothing."""
    rows, facts = compare_sides.arrays(prepared, "preferences"), json.loads((prepared / "facts.json").read_text())
    train = compare_sides.arrays(prepared, "train")
    assert len(rows["item"]) == len(train["item"])
    work, told = compare_sides.ease_ours(prepared)
    assert told(work()) == {"items": len(np.unique(rows["item"]))}
    cells = np.zeros((facts["users"], facts["items"]))
    cells[rows["user"], rows["item"]] = rows["rating"]
    known = np.unique(rows["item"])
    inverse = np.linalg.inv(cells[:, known].T @ cells[:, known] + facts["reg"] * np.eye(len(known)))
    expected = inverse / -np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(np.load(prepared / "ease_ours.npy"), expected, atol=1e-5)


def test_no_test_rating_is_trained_on(prepared):
    """RMSE of both sides is told for ratings that they have seen."""
    pairs = [set(zip(rows["user"], rows["item"], strict=True)) for rows in _rows(prepared, "train", "test")]
    assert not pairs[0] & pairs[1]
    assert sum(map(len, pairs)) == 3_000
    held, fitted = (set(rows["user"]) for rows in _rows(prepared, "held", "fitted"))
    assert not held & fitted


def _rows(folder, *names):
    return [compare_sides.arrays(folder, name) for name in names]


@pytest.mark.slow
def test_an_unknown_comparison_is_refused():
    """A misspelt name makes an empty table."""
    asked = [sys.executable, compare.__file__, "--only", "nothing"]
    refused = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "invalid choice: 'nothing'" in refused.stderr


def test_the_whole_graph_meets_its_aims_only_if_it_has_ended():
    """A run that failed after a minute is told as one that took less than 15."""

    def measured(ratings, seconds, end="done"):
        return Measured(Size.of(ratings), seconds, 2 * seconds, Sample(0.0, 0.0, 1, 0), 1, [], end)

    lines = list(scale.aims([measured(1_000_000, 100), measured(FULL_RATINGS, 899)]))
    assert lines[2:] == [
        "| seconds at 27,753,444 ratings | 899 | ≤ 900 | yes |",
        "| exponent from 1,000,000 ratings on | 0.66 | ≤ 0.6 | **no** |",
    ]
    assert "**no**" in list(scale.aims([measured(FULL_RATINGS, 60, "failed with exit status 1")]))[2]
    assert not list(scale.aims([measured(1_000, 60)]))
