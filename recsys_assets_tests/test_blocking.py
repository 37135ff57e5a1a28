"""The commands that take single items out of all lists."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from recsys_assets.home.blocking import blocked_items, changed_blocked
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets_tests.conftest import invoke


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that holds a catalogue of three items, and nothing else."""
    home = Home(tmp_path / "home")
    home.prepare()
    store = AssetStore(home.assets)
    version = store.new_version(["items"], None, "made-up")
    pl.DataFrame(
        {
            "item": pl.Series(range(3), dtype=pl.Int32),
            "item_id": ["1", "2", "30"],
            "title": ["Heat", "Ran", None],
            "year": pl.Series([1995, 1985, None], dtype=pl.Int32),
            "genres": [["Crime"], ["Drama"], None],
        }
    ).write_parquet(version / TABLE_FILE)
    store.switch(version)
    return home


def test_items_are_blocked_listed_and_unblocked(home):
    """What must go now could not be taken out without a change of the data, or nobody could see what is out."""
    assert "No item is blocked" in invoke("blocked", "--home", home.path).stdout
    assert "2 items are blocked" in invoke("block", "1", "30", "--home", home.path).stdout
    assert blocked_items(home) == {"1", "30"}
    listed = invoke("blocked", "--home", home.path).stdout
    assert "Heat" in listed and "30" in listed and "Ran" not in listed
    again = invoke("unblock", "1", "2", "--home", home.path).stdout
    assert "2 was not blocked" in again and "1 items are blocked" in again
    assert blocked_items(home) == {"30"}


def test_what_cannot_be_blocked_is_refused_and_changes_nothing(home):
    """A misspelt id would seem blocked, or the last item would leave every user without a list."""
    refused = invoke("block", "1", "3", "--home", home.path)
    assert refused.exit_code == 1 and "There is no item with the id '3'" in refused.stderr
    refused = invoke("block", "1", "2", "30", "--home", home.path)
    assert refused.exit_code == 1 and "leaves none of the 3 items" in refused.stderr.replace("\n", " ")
    assert blocked_items(home) == frozenset()


def test_two_that_block_at_once_both_have_their_way(home):
    """Of two people who block an item each at the same time, one would be ignored."""
    ids = [str(number) for number in range(20)]
    with ThreadPoolExecutor(10) as people:
        list(people.map(lambda item_id: changed_blocked(home, lambda known: known | {item_id}), ids))
    assert blocked_items(home) == {*ids}
