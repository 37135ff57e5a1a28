from collections.abc import Callable
from datetime import timedelta
from functools import partial

import dagster as dg
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys_assets.home.batches import RAW_TABLES
from recsys_assets.home.data_kind import keep_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.merged import rests_on_others
from recsys_assets.home.versions import AssetStore, write_table
from recsys_assets.orchestration import planning
from recsys_assets.orchestration.io_managers import digest
from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.tables import KNOWN, TABLES
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.tuning.validation_splits import validation_split
from recsys_assets_tests.test_events import EVENTS, _summed

ANN, BOB = 0, 1
PLAYED = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6), st.integers(-3, 5)), min_size=4, max_size=40
)
LATER = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(-3, 5)), max_size=8)


def _raw(events: list[tuple[int, int, int, int]]) -> pl.DataFrame:
    """Events (user, item, second, weight), whose ids are their dense ids as text."""
    table = pl.DataFrame(events, schema=["user", "item", "second", "weight"], orient="row")
    return table.select(
        *((pl.col(name).rank("dense") - 1).cast(pl.String).alias(f"{name}_id") for name in ("user", "item")),
        rating=pl.col("weight").cast(pl.Float32),
        timestamp=(pl.col("second") * 1_000_000).cast(pl.Datetime("us", "UTC")),
        row=pl.int_range(pl.len(), dtype=pl.Int64),
    )


def _of(ratings: pl.DataFrame, split: Callable, side: str) -> pl.DataFrame:
    return to_polars(split(lazy(ratings), side)).select(ratings.columns).sort("user", "item")


def _plays() -> pl.DataFrame:
    """Ann plays item 0 at the seconds 0, 1 and 9 and finds item 2 at 8; Bob finds an item every second from 2 to 5."""
    ann = [(ANN, 0, 0, 1), (ANN, 0, 1, 1), (ANN, 1, 1, 1), (ANN, 0, 9, 5), (ANN, 2, 8, 1), (ANN, 2, 9, 1)]
    return _summed(_raw([*ann, *((BOB, item, 2 + item, 1) for item in range(4))]))


def _tables(ratings: pl.DataFrame) -> dict:
    users = pl.DataFrame({"user": [ANN, BOB]}, schema_overrides={"user": pl.Int32})
    items = pl.DataFrame({"item": range(4)}, schema_overrides={"item": pl.Int32})
    return {name: lazy(table) for name, table in {"users": users, "items": items, "ratings": ratings}.items()}


def test_a_favourite_that_is_played_again_is_known():
    """Models would learn from what people gave up, and be praised for finding what a list would leave out as known."""
    split = protocols.split("top_n", _tables(_plays()), cut=6)
    train, test = (to_polars(split[f"{side}_ratings"]) for side in ("train", "test"))
    assert test.select("user", "item").rows() == [(ANN, 2)]
    favourite = train.row(by_predicate=(pl.col("user") == ANN) & (pl.col("item") == 0), named=True)
    assert (favourite["rating"], favourite["n_events"], favourite["timestamp"].second) == (2, 2, 1)
    # The test row is asked for when it is new.
    assert (test["timestamp"][0].second, test["rating"][0]) == (8, 2)
    shown = to_polars(protocols.lists(split, [], pytest.fail, k=4)["random"])
    assert set(shown.filter(pl.col("user") == ANN)["item"]) == {2, 3}


def test_the_next_item_is_the_newest_one():
    """A song that a user has played for years would be the item to predict, and its last plays known already."""
    both = pl.DataFrame({"user": [ANN, BOB], "partition": "test"}, schema_overrides={"user": pl.Int32})
    partition = lazy(both)
    response = to_polars(splitting.responses(lazy(_plays()), partition, "test")).sort("user")
    assert response.select("user", "item").rows() == [(ANN, 2), (BOB, 3)]
    history = to_polars(splitting.histories(lazy(_plays()), partition, "test")).sort("user", "item")
    assert history.filter(user=ANN).select("item", "rating", "n_events").rows() == [(0, 2, 2), (1, 1, 1)]
    for side, pairs in {"train": history, "test": response}.items():
        assert _of(_plays(), splitting.leave_last_out, side).equals(pairs.select(_plays().columns))
    revealed = splitting.new_user_rows(lazy(_plays()), "train", n_revealed=1, share=1.0)
    # Ann's second item is new at second 1, when the first one had been played once.
    assert to_polars(revealed).filter(user=ANN).select("item", "rating").rows() == [(0, 1)]


def test_a_split_within_the_training_rows_knows_no_later_event():
    """Settings would be chosen by plays that come after the validation split."""
    split = protocols.split("top_n", _tables(_plays()), cut=6)
    inner = validation_split("top_n", split)
    assert to_polars(inner.tables["test_ratings"]).select("user", "item").rows() == [(BOB, 2), (BOB, 3)]
    favourite = to_polars(inner.tables["train_ratings"]).filter(user=ANN, item=0)
    assert favourite["rating"].to_list() == [2]
    earliest = _of(to_polars(split["train_ratings"]), partial(splitting.cut_in_time, cut=1), "train")
    assert earliest.select("user", "item", "rating", "n_events").rows() == [(ANN, 0, 1, 1)]
    assert earliest["known_ratings"].to_list() == [None]


def _cut(size: int) -> Callable:
    return partial(splitting.cut_in_time, cut=size)


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut in time", "leave last out"])
@settings(max_examples=60)
@given(events=PLAYED, place=st.integers(0, 99), later=LATER)
def test_no_training_row_depends_on_a_later_event(is_cut, events, place, later):
    """What a user plays after the cut would change what models learn from, and scores would be too good."""
    raw = _raw(events)
    ratings = _summed(raw, "log1p")
    assume(len(ratings) > 1)
    split = _cut(1 + place % (len(ratings) - 1)) if is_cut else splitting.leave_last_out
    train, test = (_of(ratings, split, side) for side in ("train", "test"))
    trained = set(train.select("user", "item").iter_rows())
    cuts = dict(test.group_by("user").agg(pl.col("timestamp").min()).iter_rows())
    if is_cut:
        cuts = dict.fromkeys(ratings["user"], test["timestamp"].min())
    firsts = {(user, item): time for user, item, time in ratings.select("user", "item", "first_timestamp").iter_rows()}

    def happens(row: dict) -> dict | None:
        """An event as it is; of later ones, only a test row's first one, with another weight."""
        pair, time = (int(row["user_id"]), int(row["item_id"])), row["timestamp"]
        if pair in trained:
            return row if pair[0] not in cuts or time < cuts[pair[0]] or time == firsts[pair] else None
        return row | {"rating": row["rating"] + 7} if time == firsts[pair] else None

    known = pl.DataFrame([row for row in map(happens, raw.iter_rows(named=True)) if row], raw.schema)
    pairs = train.select("user", "item")
    assert train.equals(_summed(known, "log1p").join(pairs, on=["user", "item"], how="semi", maintain_order="left"))
    again = []
    for number, (which, delay, weight) in enumerate(later):
        user, item = sorted(firsts)[which % len(firsts)]
        if user in cuts:
            is_new = firsts[user, item] >= cuts[user]
            time = max(firsts[user, item], cuts[user]) + timedelta(seconds=delay + is_new)
            again.append((str(user), str(item), weight, time, 1000 + number))
    replayed = pl.concat([known, pl.DataFrame(again, raw.schema, orient="row")])
    assert _of(_summed(replayed, "log1p"), split, "train").equals(train)


def test_events_without_running_sums_are_split_by_their_last_time():
    """A home of an earlier version could make no splits before its `ratings` are computed anew."""
    before = _plays().drop([own for _, own in KNOWN])
    train, test = (_of(before, _cut(5), side) for side in ("train", "test"))
    assert pl.concat([train, test]).sort("user", "item").equals(before)
    assert (ANN, 0) in test.select("user", "item").rows()
    assert _of(before, splitting.leave_last_out, "test").height == 2


def test_the_data_version_covers_running_sums(tmp_path):
    """Weights that moved from one time to another would leave the splits outdated, and nothing be computed again."""
    digests = []
    for place, weights in enumerate([(1, 2), (2, 1), (1, 2)]):
        version = tmp_path / str(place)
        version.mkdir()
        events = [(ANN, 0, second, weight) for second, weight in enumerate(weights)]
        write_table(lazy(_summed(_raw(events))), TABLES["ratings"], version)
        digests.append(digest(version, TABLES["ratings"]))
    assert digests[0] == digests[2] != digests[1]


def test_events_that_an_earlier_version_merged_are_merged_again(tmp_path):
    """After an update, scores of events would stay those of the old splits, and `status` see nothing to do."""
    home = Home(tmp_path / "home")
    home.prepare()
    keep_kind(home, EVENTS)
    store, present = AssetStore(home.assets), _plays().with_columns(batch=pl.lit(0, pl.Int32))
    for table in RAW_TABLES:
        store.switch(store.new_version([table], "plays.csv", "by-hand"))
    for ratings, is_due in ((present.drop([own for _, own in KNOWN]), True), (present, False)):
        version = store.new_version(["ratings"], None, "by-hand")
        write_table(lazy(ratings), TABLES["ratings"], version)
        store.switch(version)
        assert rests_on_others(home) is is_due
        with dg.DagsterInstance.ephemeral() as instance:
            assert planning._rests_on_others(home, instance) is is_due
