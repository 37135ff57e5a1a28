"""Models of the task `next_item` (case study B): they rank a user's latest item among the items not in the history.

The algorithms are in `models/`; this module says which table and which settings each model takes.
"""

import narwhals as nw
import numpy as np
from scipy import sparse

from recsys_assets.recommender.data.frames import row_count
from recsys_assets.recommender.models import als, ease, segments, sessions, transitions
from recsys_assets.recommender.models.als import ALSModel, NextImplicitALSSettings
from recsys_assets.recommender.models.ease import EASEModel, NextEASESettings
from recsys_assets.recommender.models.segments import SegmentModel
from recsys_assets.recommender.models.sessions import SessionModel, SessionSettings
from recsys_assets.recommender.models.transitions import TransitionModel, TransitionSettings
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Ranker
from recsys_assets.recommender.registry.top_n import popularity
from recsys_assets.recommender.registry.types import Entry, Fit

HISTORY_IMPLICIT_ALS = Fit(
    asset="history_implicit_als_model",
    function=als.fit,
    model_type=ALSModel,
    table="train_histories",
    settings="next_implicit_als",
    section=NextImplicitALSSettings,
    description="ALS with implicit preferences on the train users' histories; test users are folded in.",
    fits_on_spark=True,
)
HISTORY_EASE = Fit(
    asset="history_ease_model",
    function=ease.fit,
    model_type=EASEModel,
    table="train_histories",
    settings="next_ease",
    section=NextEASESettings,
    description="EASE on the train users' histories.",
)
TRANSITIONS = Fit(
    asset="transition_model",
    function=transitions.fit,
    model_type=TransitionModel,
    table="train_histories",
    settings="transitions",
    section=TransitionSettings,
    description="How often one item is rated soon after another, in the train users' histories.",
)
SESSIONS = Fit(
    asset="session_model",
    function=sessions.fit,
    model_type=SessionModel,
    table="train_histories",
    settings="sessions",
    section=SessionSettings,
    description="Number of sessions that start with each item after a pause, in the train users' histories.",
)
FITS = (HISTORY_IMPLICIT_ALS, HISTORY_EASE, TRANSITIONS, SESSIONS)


def _segment_list(users: nw.LazyFrame, segment_model: SegmentModel, user_segments: nw.LazyFrame) -> Ranker:
    member = segments.memberships(user_segments, n_users=row_count(users), n_segments=segment_model.n_segments)
    return rankings.of_vectors(member, segment_model.item_probabilities.T)


def _segment_mixture(users: nw.LazyFrame, segment_model: SegmentModel, user_segments: nw.LazyFrame) -> Ranker:
    affinity = segments.affinities(user_segments, n_users=row_count(users), n_segments=segment_model.n_segments)
    return rankings.of_vectors(affinity, segment_model.item_probabilities.T)


def _implicit_als(history_implicit_als_model: ALSModel) -> Ranker:
    def scores(_: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        return history_implicit_als_model.scores(rows)

    return Ranker(scores, history_implicit_als_model.item_known)


def _ease(history_ease_model: EASEModel) -> Ranker:
    def scores(_: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        return history_ease_model.scores(rows)

    return Ranker(scores, history_ease_model.item_known)


def _transitions(transition_model: TransitionModel, rated: nw.LazyFrame) -> Ranker:
    recent_users, recent = transition_model.recent(rated)

    def scores(users: np.ndarray, _: sparse.csr_array) -> np.ndarray:
        return transition_model.scores(rankings.rows_of(users, recent_users, recent))

    return Ranker(scores, transition_model.item_known)


def _sessions(
    session_model: SessionModel,
    transition_model: TransitionModel,
    history_ease_model: EASEModel,
    pairs: nw.LazyFrame,
    rated: nw.LazyFrame,
) -> Ranker:
    """Rank by session, at the time of the pair, which a live service knows as well; the pair's item is not used."""
    follows = _transitions(transition_model, rated)
    paused = sessions.seconds_since_last(pairs, rated)
    asked = paused["user"].to_numpy()
    is_new_session = (paused["seconds"].fill_null(np.inf) >= session_model.pause).to_numpy()

    def scores(users: np.ndarray, rows: sparse.csr_array) -> np.ndarray:
        new = is_new_session[np.searchsorted(asked, users)]
        return session_model.scores(follows.scores(users, rows), history_ease_model.scores(rows), new)

    return Ranker(scores, transition_model.item_known | history_ease_model.item_known)


ENTRIES = (
    Entry("popularity", "next_item", popularity, is_personal=False),
    Entry("segment_list", "next_item", _segment_list),
    Entry("segment_mixture", "next_item", _segment_mixture),
    Entry("implicit_als", "next_item", _implicit_als),
    Entry("ease", "next_item", _ease),
    Entry("transitions", "next_item", _transitions),
    Entry("sessions", "next_item", _sessions),
)
