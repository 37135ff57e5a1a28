"""Segments of taste: model, tables and rating predictions, on planted groups and by hand."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from skops import io as skops

from recsys_assets.home.running import SparkSettings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import RATING_PREDICTIONS, TABLES
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.models.segments import inference
from recsys_assets.recommender.models.segments.perplexity import held_out_perplexity
from recsys_assets.recommender.ranking import rankings
from recsys_assets_tests.planted_segments import (
    INDEX,
    ITEMS_PER_GROUP,
    LDA,
    N_GROUPS,
    N_ITEMS,
    RESPONSES,
    TEST,
    TRAIN,
    UNRATED,
    catalogue,
    frame,
    group_of,
    held_out,
)


@pytest.fixture(scope="module")
def model() -> segments.SegmentModel:
    """The model fitted on the train users."""
    return segments.fit(lazy(TRAIN), index=INDEX, settings=LDA)


@pytest.fixture(scope="module")
def user_segments(model: segments.SegmentModel) -> pl.DataFrame:
    """The table user_segments of all users."""
    return to_polars(segments.assign(model, lazy(TRAIN), lazy(TEST)))


def state(model: segments.SegmentModel) -> dict[str, object]:
    """Everything the estimator holds, comparable with ==."""
    held = {name: value for name, value in vars(model.lda).items() if name != "random_state_"}
    return {
        "random": str(model.lda.random_state_.get_state()),
        **{name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in held.items()},
    }


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 6))), st.randoms())
def test_matrix_holds_every_rating_in_its_place(pairs: set[tuple[int, int]], random) -> None:
    """Affinities and ranks would belong to other users or items."""
    rows = [(user, item, float(user + item) / 2) for user, item in pairs]
    random.shuffle(rows)
    users, matrix = user_item_matrix(lazy(frame("user item rating", *rows)), n_items=7)
    assert users.tolist() == sorted({user for user, _ in pairs})
    assert (users.dtype, matrix.dtype, matrix.shape) == (np.int32, np.float32, (len(users), 7))
    cells = matrix.tocoo()
    found = zip(users[cells.row].tolist(), cells.col.tolist(), cells.data.tolist(), strict=True)
    assert sorted(found) == sorted(rows)
    assert matrix.has_sorted_indices


def test_matrix_refuses_an_item_outside_the_catalogue() -> None:
    """Ratings of another index would be scored as other items."""
    with pytest.raises(ValueError, match="do not fit a catalogue of 3"):
        user_item_matrix(lazy(frame("user item rating", (0, 3, 1.0))), n_items=3)


def test_planted_groups_are_found(user_segments: pl.DataFrame) -> None:
    """Segments would not be tastes, for users in training or for new ones."""
    for partition in ("train", "test"):
        found = user_segments.filter(pl.col("partition") == partition)
        assert adjusted_rand_score(group_of(found["user"]), found["segment"]) > 0.9


def test_same_ratings_in_any_order_give_the_same_model(model: segments.SegmentModel) -> None:
    """A rerun, or a source file sorted otherwise, would change every segment."""
    shuffled = TRAIN.sample(fraction=1.0, shuffle=True, seed=1)
    again = segments.fit(lazy(shuffled), index=INDEX, settings=LDA)
    assert state(again) == state(model)
    other = segments.fit(lazy(TRAIN), index=INDEX, settings=LDA.model_copy(update={"seed": 1}))
    assert state(other) != state(model)


def test_scoring_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """Looking at one user would destroy the model, as it did in the case study's notebook."""
    model = segments.fit(lazy(TRAIN), index=INDEX, settings=LDA)
    before = state(model)
    items = model.items.tobytes()
    to_polars(segments.assign(model, lazy(TRAIN.filter(pl.col("user") == 5)), lazy(TEST)))
    segments.top_items(model, lazy(catalogue()), lazy(TRAIN))
    model.save(tmp_path)
    assert state(model) == before
    assert model.items.tobytes() == items


def test_stored_model_comes_back_whole_and_trusted(model: segments.SegmentModel, tmp_path: Path) -> None:
    """A later run would score with another model, or could be made to run a stranger's code."""
    model.save(tmp_path)
    assert skops.get_untrusted_types(file=tmp_path / "lda.skops") == []
    loaded = segments.SegmentModel.load(tmp_path)
    assert state(loaded) == state(model)
    assert (loaded.n_items, loaded.index) == (N_ITEMS, "planted")
    assert loaded.items.dtype == np.int32
    _, matrix = user_item_matrix(lazy(TEST), n_items=N_ITEMS)
    np.testing.assert_array_equal(loaded.transform(matrix), model.transform(matrix))


def test_equal_models_are_stored_in_equal_files(
    model: segments.SegmentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rerun that changes nothing would mark everything that depends on the model as stale."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    model.save(folders[0])
    monkeypatch.setattr("time.localtime", lambda *_: (2030, 1, 2, 3, 4, 5, 0, 2, 0))
    segments.fit(lazy(TRAIN), index=INDEX, settings=LDA).save(folders[1])
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert first == second


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, UNRATED)), unique=True))
def test_affinities_are_shares(model: segments.SegmentModel, pairs: list[tuple[int, int]]) -> None:
    """A user's affinities could not be read as shares of one taste."""
    rows = [(user, item, (item % 10) / 2) for user, item in pairs]
    _, matrix = user_item_matrix(lazy(frame("user item rating", *rows)), n_items=N_ITEMS)
    affinity = model.transform(matrix)
    assert affinity.dtype == np.float32
    assert affinity.shape == (matrix.shape[0], N_GROUPS)
    assert (affinity >= 0).all()
    np.testing.assert_allclose(affinity.sum(axis=1), 1, atol=1e-6)


def test_affinity_does_not_depend_on_who_is_scored_beside(
    model: segments.SegmentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same user would get another segment in a larger run."""
    _, matrix = user_item_matrix(lazy(TEST), n_items=N_ITEMS)
    together = model.transform(matrix)
    np.testing.assert_array_equal(model.transform(matrix[[7]]), together[[7]])
    monkeypatch.setattr(inference, "_USERS_PER_BLOCK", 7)
    np.testing.assert_array_equal(model.transform(matrix), together)


def test_user_with_only_unknown_items_likes_every_segment_equally(model: segments.SegmentModel) -> None:
    """A user of new items would stop the run, or be put into a segment without a reason."""
    _, matrix = user_item_matrix(lazy(frame("user item rating", (0, UNRATED, 5.0))), n_items=N_ITEMS)
    np.testing.assert_allclose(model.transform(matrix), 1 / N_GROUPS, atol=1e-6)


def test_matrix_of_another_catalogue_is_refused(model: segments.SegmentModel) -> None:
    """After new items came in, the old model would score the wrong columns without a word."""
    with pytest.raises(ValueError, match="segment_model\\+"):
        model.transform(sparse.csr_array((2, N_ITEMS + 1), dtype=np.float32))


def test_without_a_history_there_are_no_segments() -> None:
    """The user would get scikit-learn's message about an array instead of what is wrong with the ratings."""
    with pytest.raises(ValueError, match="no history"):
        segments.fit(lazy(TRAIN.clear()), index=INDEX, settings=LDA)


def test_ratings_below_zero_count_from_the_lowest(tmp_path: Path) -> None:
    """A catalogue rated from -10 to 10 would get no segments, no scores and no report."""

    def affinities(lowest: float) -> tuple[segments.SegmentModel, pl.DataFrame]:
        shift = pl.col("rating") + lowest - TRAIN["rating"].min()
        train, test = (lazy(part.with_columns(shift.alias("rating"))) for part in (TRAIN, TEST))
        fitted = segments.fit(train, index=INDEX, settings=LDA)
        return fitted, to_polars(segments.assign(fitted, train, test))

    (_, from_zero), (fitted, from_below) = affinities(0), affinities(-10)
    assert_frame_equal(from_below, from_zero)
    fitted.save(tmp_path)
    assert segments.SegmentModel.load(tmp_path).zero == -10
    lower = to_polars(segments.assign(fitted, lazy(TRAIN), lazy(TEST.with_columns(rating=pl.lit(-99.0, pl.Float32)))))
    assert np.isfinite(lower["affinity"].explode().to_numpy()).all()


def test_perplexity_is_the_number_of_items_to_guess_among(model: segments.SegmentModel) -> None:
    """A worse number of segments would look better, or the figure mean nothing."""
    n_known = len(model.items)
    assert ITEMS_PER_GROUP < held_out_perplexity(model, lazy(TEST)) < 0.75 * n_known
    flat = deepcopy(model)
    flat.lda.components_ = np.ones_like(model.lda.components_)
    flat.lda.exp_dirichlet_component_ = np.ones_like(model.lda.components_)
    assert held_out_perplexity(flat, lazy(TEST)) == pytest.approx(n_known)
    with pytest.raises(ValueError, match="held out"):
        held_out_perplexity(model, lazy(TEST.head(0)))


def test_fit_tells_each_pass() -> None:
    """A long fit would look as if it hung."""
    lines: list[str] = []
    segments.fit(lazy(TRAIN), index=INDEX, log=lines.append, settings=LDA)
    assert [line.split(",")[0] for line in lines] == [f"segments: pass {done} of 4" for done in (1, 2, 3, 4)]


def test_top_items_are_those_of_the_planted_group(model: segments.SegmentModel, user_segments: pl.DataFrame) -> None:
    """Segment cards would show items that the segment's users do not watch."""
    top = segments.top_items(model, lazy(catalogue()), lazy(TRAIN), top=5)
    assert top.equals(to_polars(conform(lazy(top), TABLES["segment_items"])))
    groups = {segment: group for group, segment in enumerate(user_segments["segment"][:N_GROUPS])}
    assert [groups[segment] for segment in top["segment"]] == [item // ITEMS_PER_GROUP for item in top["item"]]
    for rank, value in (("rank", "probability"), ("lift_rank", "lift")):
        for listed in top.filter(pl.col(rank) <= 5).sort(rank).partition_by("segment"):
            assert listed[rank].to_list() == [1, 2, 3, 4, 5]
            assert listed[value].is_sorted(descending=True)
    assert (top.filter(pl.col("lift_rank") <= 5)["lift"] > 1.5).all()


def test_top_items_end_with_the_items_the_model_knows(model: segments.SegmentModel) -> None:
    """A small catalogue would fail, or show items nobody has rated; one without a title would show as empty."""
    top = segments.top_items(model, lazy(catalogue()), lazy(TRAIN), top=100)
    assert len(top) == N_GROUPS * (N_ITEMS - 1)
    assert UNRATED not in top["item"]
    assert set(top.filter(pl.col("item") == 0)["title"]) == {"m0"}
    np.testing.assert_allclose(top.group_by("segment").agg(pl.col("probability").sum())["probability"], 1)


# The plant below: two segments and three items, one that both rate, one of segment 0's own, and a rare one of its own.
COMMON, OWN, RARE = 0, 1, 2
PER_ITEM = {COMMON: 80, OWN: 40, RARE: 2}


@pytest.fixture
def lifted() -> pl.DataFrame:
    """The table segment_items of the plant."""
    components = np.array([[60.0, 40.0, 2.0], [40.0, 0.0, 0.0]])
    lda = SimpleNamespace(components_=components)
    planted = segments.SegmentModel(lda, np.arange(3, dtype=np.int32), n_items=3, index="planted")
    histories = pl.DataFrame({"item": [item for item, n in PER_ITEM.items() for _ in range(n)]})
    return segments.top_items(planted, lazy(catalogue().head(3)), lazy(histories.cast(pl.Int32)))


def test_lift_puts_what_sets_a_segment_apart_first(lifted: pl.DataFrame) -> None:
    """Every segment would be described by the items that everybody rates."""
    of_first = lifted.filter(segment=0)
    assert of_first.sort("rank")["item"][0] == COMMON
    assert of_first.sort("lift_rank")["item"].to_list() == [OWN, RARE, COMMON]


def test_lift_is_the_ratio_of_probabilities_shrunk_by_the_expected_ratings(lifted: pl.DataFrame) -> None:
    """An item that two people rated would stand above one that hundreds did, or the number would mean another thing."""
    share = 102 / 142
    ratio = (40 / 102) / (40 / 142)
    expected = {item: share * PER_ITEM[item] for item in (OWN, RARE)}
    found = dict(lifted.filter(segment=0).select("item", "lift").iter_rows())
    # Both have the same ratio: 1 over the segment's share, since nobody else rates them.
    for item, weight in expected.items():
        assert found[item] == pytest.approx((weight * ratio + 5) / (weight + 5))
    assert 1 < found[RARE] < found[OWN] < ratio == pytest.approx(1 / share)


def test_user_segments_hold_every_user_once(user_segments: pl.DataFrame) -> None:
    """Users would be missing from charts and scores, or be counted in the wrong partition."""
    assert user_segments.equals(to_polars(conform(lazy(user_segments), TABLES["user_segments"])))
    assert user_segments["user"].to_list() == list(range(180))
    assert user_segments["partition"].to_list() == ["train"] * 120 + ["test"] * 60
    assert (user_segments["affinity"].list.arg_max() == user_segments["segment"]).all()


def test_affinities_and_memberships_are_by_dense_user() -> None:
    """A user would be ranked by another's taste."""
    table = lazy(frame("user segment affinity", (2, 0, [0.75, 0.25]), (0, 1, [0.0, 1.0])))
    affinities = segments.affinities(table, n_users=4, n_segments=2)
    np.testing.assert_array_equal(affinities, [[0, 1], [0, 0], [0.75, 0.25], [0, 0]])
    memberships = segments.memberships(table, n_users=4, n_segments=2)
    np.testing.assert_array_equal(memberships, [[0, 1], [0, 0], [1, 0], [0, 0]])
    assert affinities.dtype == memberships.dtype == np.float32


@pytest.mark.parametrize("vectors", [segments.affinities, segments.memberships])
def test_next_item_is_sought_in_the_own_group(
    vectors: Callable[..., np.ndarray], model: segments.SegmentModel, user_segments: pl.DataFrame
) -> None:
    """The next item would be sought in another segment's list."""
    of_users = vectors(lazy(user_segments), n_users=180, n_segments=N_GROUPS)
    ranker = rankings.of_vectors(of_users, model.item_probabilities.T)
    ranked = rankings.rank_pairs(ranker, lazy(held_out()), rated=lazy(TEST))
    # Of the group's ten items six are seen, so the response is among the first four.
    assert (ranked["rank"] <= 4).mean() > 0.9


def test_segment_ratings_are_the_train_users_only(user_segments: pl.DataFrame) -> None:
    """What test users rated would leak into what is predicted for them."""
    everything = pl.concat([TRAIN, TEST])
    found = to_polars(segments.ratings_by_segment(lazy(everything), lazy(user_segments))).sort("segment", "item")
    by_hand = (
        TRAIN.join(user_segments, on="user")
        .group_by("segment", "item")
        .agg(count=pl.len().cast(pl.Int32), mean=pl.col("rating").cast(pl.Float64).mean())
    )
    assert_frame_equal(found, by_hand.sort("segment", "item"))


def test_sanity_checks_pass_on_sound_tables_and_see_broken_ones(user_segments: pl.DataFrame) -> None:
    """The asset checks would be green whatever happened."""
    counts = to_polars(segments.ratings_by_segment(lazy(TRAIN), lazy(user_segments)))
    assert segments.largest_affinity_error(lazy(user_segments)) < 1e-6
    assert segments.counted_ratings(lazy(counts), lazy(TRAIN)) == (len(TRAIN), len(TRAIN))
    cells = {(segment, item) for segment, item in counts.select("segment", "item").iter_rows()}
    empty = segments.empty_cells(lazy(counts), n_segments=N_GROUPS, n_items=N_ITEMS)
    assert empty == sum((segment, item) not in cells for segment in range(3) for item in range(N_ITEMS)) > 0

    doubled = user_segments.with_columns(pl.col("affinity").list.eval(pl.element() * 2))
    assert segments.largest_affinity_error(lazy(doubled)) == pytest.approx(1, abs=1e-6)
    undefined = user_segments.with_columns(pl.col("affinity").list.eval(pl.element() * float("nan")))
    assert not segments.largest_affinity_error(lazy(undefined)) < 1e-6
    counted, rated = segments.counted_ratings(lazy(counts.head(3)), lazy(TRAIN))
    assert counted == counts["count"].head(3).sum() < rated


def test_segment_mean_predicts_only_what_the_segment_rated() -> None:
    """R² would rest on means of other segments, and coverage would be wrong."""
    predicted = segments.segment_mean_predictions(
        lazy(RESPONSES),
        lazy(frame("user segment", (0, 0), (1, 1), (2, 1))),
        lazy(frame("segment item mean", (0, 0, 4.5), (1, 0, 1.0), (0, 1, 2.0), (1, 1, 3.5))),
    )
    expected = {"user": [0, 1, 2], "item": [0, 1, 9], "prediction": [4.5, 3.5, None]}
    assert to_polars(predicted).sort("user").to_dict(as_series=False) == expected
    assert predicted.collect_schema() == conform(predicted, RATING_PREDICTIONS).collect_schema()


def test_user_bias_adds_the_shrunk_residual_of_the_own_history() -> None:
    """A generous rater would be predicted like everybody, or by somebody else's generosity."""
    histories = frame("user item rating", (0, 1, 5.0), (0, 2, 4.0), (1, 2, 2.0), (1, 9, 3.0))
    item_means = frame("item prediction", (0, 4.0), (1, 3.0), (2, 3.5))
    predicted = segments.user_bias_predictions(
        lazy(RESPONSES), lazy(histories), lazy(item_means), global_mean=3.0, shrinkage=3.0
    )
    rows = to_polars(predicted).sort("user")
    # User 0: (2 + 0.5) / 5 above; user 1: (-1.5 + 0) / 5, its item 9 counted from the global mean; user 2: no history.
    np.testing.assert_allclose(rows["prediction"], [4.0 + 0.5, 3.0 - 0.3, 3.0], rtol=1e-6)


def results_on(scan: Callable[[pl.DataFrame], nw.LazyFrame], model: segments.SegmentModel) -> list:
    """Every table and number of the stage, from frames of the engine that `scan` gives."""
    train, test, items = (scan(table) for table in (TRAIN, TEST, catalogue()))
    assigned = to_polars(segments.assign(model, train, test)).sort("user")
    user_segments = scan(assigned)
    counts = to_polars(segments.ratings_by_segment(train, user_segments)).sort("segment", "item")
    segment_ratings = scan(counts)
    asked = scan(pl.concat([held_out(), frame("user item", (500, UNRATED))]))
    item_means = scan(TRAIN.group_by("item").agg(prediction=pl.col("rating").mean()))
    means = segments.segment_mean_predictions(asked, user_segments, segment_ratings)
    biased = segments.user_bias_predictions(asked, test, item_means, global_mean=4.0)
    return [
        *(assigned, counts, segments.top_items(model, items, train)),
        *(to_polars(predictions).sort("user") for predictions in (means, biased)),
        segments.affinities(user_segments, n_users=180, n_segments=N_GROUPS),
        segments.memberships(user_segments, n_users=180, n_segments=N_GROUPS),
        segments.largest_affinity_error(user_segments),
        segments.counted_ratings(segment_ratings, train),
        segments.empty_cells(segment_ratings, n_segments=N_GROUPS, n_items=N_ITEMS),
    ]


@pytest.mark.slow
@pytest.mark.spark
def test_both_engines_give_the_same_segments_and_predictions(model: segments.SegmentModel, tmp_path: Path) -> None:
    """Moving to a cluster would change the results."""
    session = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session

    def scan(table: pl.DataFrame) -> nw.LazyFrame:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        table.write_parquet(file)
        return nw.from_native(session.read.parquet(str(file)))

    assert state(segments.fit(scan(TRAIN), index=INDEX, settings=LDA)) == state(model)
    for found, expected in zip(results_on(scan, model), results_on(lazy, model), strict=True):
        if isinstance(expected, pl.DataFrame):
            assert_frame_equal(found, expected, rel_tol=1e-6)
        else:
            np.testing.assert_array_equal(found, expected)
