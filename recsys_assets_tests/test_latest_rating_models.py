import json
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import item_neighbours, response_stack, sessions, transitions
from recsys_assets.recommender.models.item_neighbours import ItemNeighboursModel
from recsys_assets.recommender.models.response_stack import ResponseStack
from recsys_assets.recommender.models.segments.residuals import (
    SegmentResidualModel,
    SegmentResidualSettings,
    fit_residuals,
)
from recsys_assets.recommender.models.sessions import SessionModel
from recsys_assets.recommender.models.transitions import TransitionModel

N_USERS, N_ITEMS = 90, 24
INDEX = Index(N_USERS, N_ITEMS, "planted")


def _world() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Histories and responses: biases of users and items, and two tastes for two halves of the catalogue."""
    random = np.random.default_rng(0)
    taste = np.arange(N_USERS) % 2
    kind = np.arange(N_ITEMS) % 2
    of_user, of_item = random.normal(0, 0.5, N_USERS), random.normal(0, 0.5, N_ITEMS)
    likes = np.where(taste[:, None] == kind, 0.8, -0.8)
    rating = 3 + of_user[:, None] + of_item + likes + random.normal(0, 0.1, (N_USERS, N_ITEMS))
    user, item = np.indices(rating.shape)
    order = random.random(rating.shape).argsort(axis=1).argsort(axis=1)
    table = pl.DataFrame(
        {
            "user": user.ravel().astype(np.int32),
            "item": item.ravel().astype(np.int32),
            "rating": rating.ravel().astype(np.float32),
            "timestamp": order.ravel(),
            "batch": np.zeros(rating.size, np.int32),
            "row": order.ravel(),
        }
    )
    return table.filter(pl.col("row") < 14), table.filter(pl.col("row") == 14)


HISTORIES, RESPONSES = _world()
TRAIN, LATER = pl.col("user") < 60, pl.col("user") >= 60
SEGMENTS = pl.DataFrame(
    {
        "user": np.arange(N_USERS, dtype=np.int32),
        "affinity": [[1.0, 0.0] if user % 2 else [0.0, 1.0] for user in range(N_USERS)],
    }
)
ITEMS = pl.DataFrame(
    {
        "item": np.arange(N_ITEMS, dtype=np.int32),
        "genres": [["Action"] if item % 2 else None for item in range(N_ITEMS)],
        "year": [None, *[1990 + item for item in range(N_ITEMS - 1)]],
    }
)


class _SegmentModel:
    """Knows the taste of the train users, who are the rows of what it is given."""

    n_segments = 2

    def transform(self, matrix: sparse.csr_array) -> np.ndarray:
        return np.array(SEGMENTS["affinity"][: matrix.shape[0]].to_list(), np.float32)


def _neighbours() -> ItemNeighboursModel:
    return item_neighbours.fit(
        lazy(HISTORIES.filter(TRAIN)), index=INDEX, settings=item_neighbours.ItemNeighboursSettings(pair_shrinkage=1.0)
    )


def _error(predicted: pl.DataFrame) -> float:
    rows = predicted.join(RESPONSES, on=["user", "item"])
    assert rows["prediction"].null_count() == 0
    return float(((rows["prediction"] - rows["rating"]) ** 2).mean() ** 0.5)


def _segment_residuals(model: ItemNeighboursModel) -> SegmentResidualModel:
    return fit_residuals(
        lazy(HISTORIES.filter(TRAIN)),
        index=INDEX,
        segment_model=_SegmentModel(),
        item_neighbours_model=model,
        settings=SegmentResidualSettings(shrinkage=1.0),
    )


def test_neighbours_tell_the_taste_of_users_who_did_not_train():
    """Predictions for test users would be no better than the biases of user and item."""
    model = _neighbours()
    pairs = RESPONSES.filter(LATER)
    rated = lazy(HISTORIES.filter(LATER))
    biases = model.biases(pairs["user"].to_numpy(), pairs["item"].to_numpy(), rated)
    by_bias = pairs.select("user", "item", prediction=pl.Series(biases))
    assert _error(model.predict(lazy(pairs), rated)) < 0.6 * _error(by_bias)


def test_segments_add_what_their_users_think_of_an_item():
    """A segment would say nothing beyond the item's mean, as the case study's hard segments do."""
    model = _neighbours()
    added = _segment_residuals(model).parts(np.array([61, 61]), np.array([1, 2]), lazy(SEGMENTS))
    assert added[0] > 0.4
    assert added[1] < -0.4


def test_a_user_without_history_is_predicted_by_the_item_alone():
    """A response of somebody who is new would have no prediction."""
    pairs = lazy(pl.DataFrame({"user": [5], "item": [3]}, schema={"user": pl.Int32, "item": pl.Int32}))
    model = _neighbours()
    predicted = model.predict(pairs, lazy(HISTORIES.filter(pl.col("user") != 5)))["prediction"][0]
    assert abs(predicted - model.global_mean - model.item_bias[3]) < 1e-5


def _stack(responses: pl.DataFrame) -> tuple[ResponseStack, pl.DataFrame]:
    model = _neighbours()
    known = {
        "items": lazy(ITEMS),
        "item_neighbours_model": model,
        "segment_residual_model": _segment_residuals(model),
    }
    histories = lazy(HISTORIES.filter(TRAIN))
    fitted = response_stack.fit(
        lazy(responses.filter(TRAIN)),
        index=INDEX,
        train_histories=histories,
        **known,
        settings=response_stack.ResponseStackSettings(reg=0.1),
    )
    return fitted, response_stack.features(lazy(RESPONSES), lazy(HISTORIES), user_segments=lazy(SEGMENTS), **known)


def test_the_stack_is_better_than_what_it_is_made_of():
    """The selected model would be worse than a simpler one beside it."""
    fitted, rows = _stack(RESPONSES)
    later = fitted.predict(rows.filter(LATER))
    assert _error(later) < _error(_neighbours().predict(lazy(RESPONSES.filter(LATER)), lazy(HISTORIES)))


def test_no_response_is_among_what_predicts_it():
    """The scores of train users would be of a model that has seen the answer."""
    fitted, rows = _stack(RESPONSES)
    other, _ = _stack(RESPONSES.with_columns(rating=pl.when(pl.col("user") == 7).then(50.0).otherwise("rating")))
    at = pl.col("user") == 7
    assert fitted.predict(rows).filter(at).equals(other.predict(rows).filter(at))
    assert not fitted.predict(rows).equals(other.predict(rows))


def test_what_is_often_rated_next_comes_first():
    """The next item would be guessed from what users like instead of from what they do."""
    rows = [(user, item, step) for user in range(20) for step, item in enumerate((user % 3, 5 + user % 3, 9))]
    table = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "row": pl.Int64}, orient="row")
    table = table.with_columns(rating=pl.lit(1.0, pl.Float32), timestamp=pl.lit(0), batch=pl.lit(0))
    model = transitions.fit(
        lazy(table), index=INDEX, settings=transitions.TransitionSettings(window=2, backwards=0.0, shrinkage=0.1)
    )
    users, recent = model.recent(lazy(table.filter(pl.col("user") == 1, pl.col("row") == 0)))
    assert users.tolist() == [1]
    assert model.scores(recent)[0].argmax() == 6
    assert not model.item_known[0]


def _visits() -> pl.DataFrame:
    """Twenty users rate items 0 and 1 in one session, and come back a day later for items 8 and 9."""
    visits = ((0, 0), (1, 60), (8, 86_400), (9, 86_460))
    rows = [(user, item, when, row) for user in range(20) for row, (item, when) in enumerate(visits)]
    table = pl.DataFrame(
        rows, schema={"user": pl.Int32, "item": pl.Int32, "when": pl.Int64, "row": pl.Int64}, orient="row"
    )
    times = pl.from_epoch("when", time_unit="s").cast(pl.Datetime("us"))
    return table.select("user", "item", "row", rating=pl.lit(1.0, pl.Float32), timestamp=times, batch=pl.lit(0))


def test_a_new_session_starts_with_what_sessions_start_with():
    """Whoever comes back after a pause would be shown the next page of the rating form of the last visit."""
    model = sessions.fit(lazy(_visits()), index=INDEX, settings=sessions.SessionSettings(pause=3600.0, first=1))
    assert model.starts.nonzero()[0].tolist() == [8]
    transitions_, ease = np.full((2, N_ITEMS), 0.01), np.zeros((2, N_ITEMS))
    transitions_[:, 1] = 0.02
    within, after = model.scores(transitions_, ease, np.array([False, True]))
    assert within.argmax() == 1
    assert after.argmax() == 8
    assert model.scores(np.zeros((1, N_ITEMS)), ease[:1], np.array([True]))[0].argmax() == 8


def test_the_pause_is_that_before_the_question():
    """A session would be taken for a new one, or go on for days."""
    table = _visits()
    asked = table.filter(pl.col("user") < 2, pl.col("row") == pl.when(pl.col("user") == 0).then(1).otherwise(2))
    rated = table.filter(pl.col("row") < pl.when(pl.col("user") == 0).then(1).otherwise(2))
    assert sessions.seconds_since_last(lazy(asked), lazy(rated))["seconds"].to_list() == [60.0, 86_340.0]
    nobody = rated.filter(pl.col("user") == 1)
    assert sessions.seconds_since_last(lazy(asked), lazy(nobody))["seconds"].to_list() == [None, 86_340.0]


def test_stored_models_of_responses_come_back_alike(tmp_path):
    """Predictions after a restart would differ from those that were scored."""
    model, (fitted, rows) = _neighbours(), _stack(RESPONSES)
    segments = _segment_residuals(model)
    chain = transitions.fit(lazy(HISTORIES), index=INDEX, settings=transitions.TransitionSettings())
    made = {"neighbours": model, "stack": fitted, "segments": segments, "chain": chain}
    for name, each in made.items():
        (tmp_path / name).mkdir()
        each.save(tmp_path / name)
    again = ItemNeighboursModel.load(tmp_path / "neighbours")
    pairs, rated = lazy(RESPONSES), lazy(HISTORIES)
    assert again.predict(pairs, rated).equals(model.predict(pairs, rated))
    assert ResponseStack.load(tmp_path / "stack").predict(rows).equals(fitted.predict(rows))
    assert np.array_equal(SegmentResidualModel.load(tmp_path / "segments").residuals, segments.residuals)
    stored = TransitionModel.load(tmp_path / "chain")
    recent = chain.recent(rated)[1]
    assert np.array_equal(stored.scores(recent), chain.scores(recent))
    weights = pl.read_parquet(tmp_path / "chain" / "weights.parquet")
    assert weights.columns == ["item", "next", "weight"], "models stored by earlier versions have these"
    assert json.loads((tmp_path / "chain" / "model.json").read_text()).keys() == {"n_items", "half_life", "index"}
    started = sessions.fit(lazy(_visits()), index=INDEX, settings=sessions.SessionSettings())
    started.save(_new_folder(tmp_path / "sessions"))
    loaded = SessionModel.load(tmp_path / "sessions")
    assert np.array_equal(loaded.starts, started.starts)
    assert (loaded.pause, loaded.start_weight, loaded.index) == (started.pause, started.start_weight, started.index)


def _new_folder(path: Path) -> Path:
    path.mkdir()
    return path
