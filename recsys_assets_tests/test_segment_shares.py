"""Segments of two refreshes: matched, compared, kept for the next one."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.versions import STATE_FOLDER, AssetStore
from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.models.segments import ComparedSegments, SegmentModel, SizedSegments, fit, share_shift
from recsys_assets_tests.planted_segments import INDEX, LDA, N_GROUPS, TRAIN, catalogue
from recsys_assets_tests.running import copied, files, materialize, table

SHARES = (0.5, 0.3, 0.2)
ITEMS_PER_SEGMENT = 4


def sized(
    shares: tuple[float, ...] = SHARES, *, first_item: int = 0, order: tuple[int, ...] | None = None
) -> SizedSegments:
    """Segment s mostly watches the s-th four items from `first_item` on; items are listed in `order` of segments."""
    n_items = len(shares) * ITEMS_PER_SEGMENT
    own = np.repeat(np.eye(len(shares)), ITEMS_PER_SEGMENT, axis=1) + 0.05
    probabilities = (own / own.sum(axis=1, keepdims=True)).astype(np.float32)
    places = list(order) if order else list(range(len(shares)))
    return SizedSegments(
        names=tuple(f"taste {place}" for place in places),
        shares=np.array(shares)[places],
        item_ids=np.array([f"m{first_item + item}" for item in range(n_items)], dtype=object),
        probabilities=probabilities[places],
    )


def partners(compared: ComparedSegments) -> dict[str | None, str | None]:
    """By name of a segment, that of its partner."""
    return dict(compared.table.select("name", "previous_name").iter_rows())


def test_segments_are_matched_whatever_their_numbers_and_the_items_indices():
    """After a refit every size would be compared with that of some other taste."""
    before = sized()
    numbered_otherwise = sized(order=(2, 0, 1))
    # Items come and go, and with them every dense index changes.
    turned = np.roll(np.arange(12), 5)[:-1]
    present = dataclasses.replace(
        numbered_otherwise,
        item_ids=np.append(numbered_otherwise.item_ids[turned], "new"),
        probabilities=np.pad(numbered_otherwise.probabilities[:, turned], ((0, 0), (0, 1)), constant_values=0.01),
    )
    compared = ComparedSegments(present, before)
    assert partners(compared) == {f"taste {taste}": f"taste {taste}" for taste in range(3)}
    assert compared.table["segment"].to_list() == [0, 1, 2]
    assert compared.table["previous_segment"].to_list() == [2, 0, 1]
    assert compared.table["similarity"].to_list() == pytest.approx([1, 1, 1])
    assert share_shift(compared.table) == pytest.approx(0)


def test_two_fits_of_the_same_ratings_have_the_same_segments():
    """What is read off a fitted model would be too noisy, or too wrong, to find the same tastes again."""

    def of(seed: int, items: pl.DataFrame) -> SizedSegments:
        model = fit(lazy(TRAIN), index=INDEX, settings=LDA.model_copy(update={"seed": seed}))
        users = pl.DataFrame({"user": range(120), "affinity": [[1.0 / N_GROUPS] * N_GROUPS] * 120})
        typed = users.cast({"user": pl.Int32, "affinity": pl.List(pl.Float32)})
        return SizedSegments.of(model, lazy(typed), lazy(items), n_users=INDEX.n_users)

    first, second = of(0, catalogue()), of(1, catalogue())
    assert first.shares.tolist() == pytest.approx([1 / N_GROUPS] * N_GROUPS)
    assert not first.is_same_as(second)
    found = ComparedSegments(second, first).table
    assert (found["similarity"] > 0.9).all()
    # The groups' items are numbered by tens.
    tens = [
        [int(item.removeprefix("Item ").removeprefix("m")) // 10 for item in name.split(" · ")]
        for name in (*found["name"], *found["previous_name"])
    ]
    assert tens[:N_GROUPS] == tens[N_GROUPS:]


@pytest.mark.parametrize(("now", "before"), [((0.5, 0.3, 0.2), (0.6, 0.4)), ((0.6, 0.4), (0.5, 0.3, 0.2))])
def test_segments_that_come_or_go_have_no_partner_and_count_whole(now, before):
    """A changed number of segments would end in an error, or a segment that vanished would not be missed."""
    compared = ComparedSegments(sized(now), sized(before)).table
    declared = TABLES["segment_shares"]
    assert compared.equals(to_polars(conform(lazy(compared), declared)))
    assert compared.unique(declared.key).height == len(compared) == 3
    alone = compared.filter(pl.col("similarity").is_null()).row(0, named=True)
    mine, other = ("", "previous_") if len(now) > len(before) else ("previous_", "")
    assert (alone[f"{mine}name"], alone[f"{mine}share"]) == ("taste 2", 0.2)
    assert alone[f"{other}segment"] is alone[f"{other}share"] is alone[f"{other}name"] is None
    assert share_shift(compared) == pytest.approx(0.2)


def test_the_first_segments_are_compared_with_nothing():
    """The first refresh would fail, or tell of a shift of everything."""
    first = ComparedSegments(sized()).table
    assert first.equals(to_polars(conform(lazy(first), TABLES["segment_shares"])))
    assert first["share"].to_list() == list(SHARES)
    assert first["previous_segment"].is_null().all()
    assert share_shift(first) is None


def test_segments_without_an_item_in_common_are_no_partners():
    """After an exchange of the whole catalogue, unlike tastes would be called the same."""
    found = ComparedSegments(sized(), sized(first_item=100)).table
    assert len(found) == 6 and found["similarity"].is_null().all()
    assert share_shift(found) == pytest.approx(1)


def test_similarity_is_the_bhattacharyya_coefficient_over_the_items_in_common():
    """The number would mean another thing than its declaration says."""
    ids = np.array(["a", "b", "c"], dtype=object)
    one = SizedSegments(("x",), np.ones(1), ids, np.array([[0.1, 0.4, 0.5]], np.float32))
    other = SizedSegments(("y",), np.ones(1), ids[:2], np.array([[0.5, 0.5]], np.float32))
    assert one.similarity(other)[0, 0] == pytest.approx(np.sqrt(0.2 * 0.5) + np.sqrt(0.8 * 0.5))


def test_a_comparison_stays_until_there_is_something_new(tmp_path: Path):
    """Running a refresh again would replace what has moved by a comparison of the segments with themselves."""
    first = ComparedSegments(sized())
    moved = first.followed_by(sized((0.2, 0.3, 0.5)))
    assert share_shift(moved.table) == pytest.approx(0.3)
    moved.save(tmp_path)
    again = ComparedSegments.load(tmp_path).followed_by(sized((0.2, 0.3, 0.5)))
    assert again.table.equals(moved.table)
    assert share_shift(again.followed_by(sized((0.2, 0.4, 0.4))).table) == pytest.approx(0.1)
    assert share_shift(first.followed_by(sized()).table) is None


def test_unrated_items_and_missing_titles_do_not_matter():
    """Names would be those of other items, wherever an item of the catalogue has no rating."""
    components = np.array([[1.0, 9.0], [9.0, 1.0]])
    lda = type("LDA", (), {"components_": components})()
    model = SegmentModel(lda, np.array([0, 2], np.int32), n_items=3, index="planted")
    items = pl.DataFrame(
        {"item": [2, 0, 1], "item_id": ["c", "a", "b"], "title": ["C", None, "B"]},
        schema_overrides={"item": pl.Int32},
    )
    affinity = pl.DataFrame(
        {"user": [0, 2], "affinity": [[1.0, 0.0], [0.5, 0.5]]},
        schema={"user": pl.Int32, "affinity": pl.List(pl.Float32)},
    )
    found = SizedSegments.of(model, lazy(affinity), lazy(items), n_users=3)
    assert found.names == ("C · a", "a · C")
    assert found.item_ids.tolist() == ["a", "c"]
    assert found.shares.tolist() == [0.75, 0.25]


REFIT = "key:segment_model or key:user_segments or key:segment_shares"


def test_each_refresh_is_compared_with_the_one_before(materialized_home: Home, tmp_path: Path):
    """Nothing would ever be compared in a home, or running an asset again would lose or change the comparison."""
    home = copied(materialized_home, tmp_path / "home")
    first = table(home, "segment_shares")
    assert len(first) == 2 and first["previous_share"].is_null().all()
    home.settings_file.write_text(home.settings_file.read_text().replace("n_segments = 2", "n_segments = 3"))
    metadata = _shown(home, REFIT)
    assert "largest shift" in metadata and "shares" in metadata
    moved = table(home, "segment_shares")
    assert sorted(moved["previous_share"].drop_nulls()) == sorted(first["share"])
    assert len(moved) == 3 and moved["previous_segment"].null_count() == 1
    before = files(home, "segment_shares")
    for again in ("key:segment_shares", REFIT):
        assert _shown(home, again)["largest shift"] == metadata["largest shift"]
        assert files(home, "segment_shares") == before


def test_a_comparison_that_cannot_be_read_is_given_up(materialized_home: Home, tmp_path: Path):
    """A damaged file of an overview would fail every refresh, until somebody finds out which one to delete."""
    home = copied(materialized_home, tmp_path / "home")
    kept = AssetStore(home.assets).current(["segment_shares"]) / STATE_FOLDER / "present" / "items.parquet"
    kept.write_bytes(kept.read_bytes()[:-20])
    assert "largest shift" not in _shown(home, "key:segment_shares")
    assert table(home, "segment_shares").equals(table(materialized_home, "segment_shares"))


def _shown(home: Home, selection: str) -> dict[str, object]:
    """Metadata of the asset after a run."""
    (event,) = materialize(home, selection).asset_materializations_for_node("segment_shares")
    return {name: value.value for name, value in event.metadata.items()}
