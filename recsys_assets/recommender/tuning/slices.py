"""Validation slices: the training rows of a protocol, split once more, in the way the protocol splits.

The test rows of the protocol are not among what a slice is made from, so nothing that is chosen on it can know them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import (
    COLD_USERS,
    FOLDS,
    LATEST_RATING_LEAKAGE_AUDIT,
    NEW_USERS,
    TOP_N_LEAKAGE_AUDIT,
    Tables,
)
from recsys_assets.recommender.registry import Task

PROTOCOLS = (
    *("time_cut_0.6", "time_cut_0.7", "time_cut", "time_cut_0.9"),
    *("random_90_10", "random_80_20", *FOLDS),
    *(*NEW_USERS, COLD_USERS),
    *("last_out", *TOP_N_LEAKAGE_AUDIT, *LATEST_RATING_LEAKAGE_AUDIT),
)
# Protocols for which is chosen on another one's slice. None of their test rows is among its training rows: an earlier
# cut, a hash by which more is left out, the same new users.
_CHOSEN_WITH = {
    "time_cut_0.7": "time_cut_0.6",
    "time_cut_0.9": "time_cut_0.6",
    "random_90_10": "random_80_20",
    **{name: "new_users_5" for name in NEW_USERS if name != "new_users_0"},
    COLD_USERS: "new_users_0",
}
# The other splits of the ranking audit. Nothing is searched for them: an audit puts the same models under each split.
# What `top_n` chose may have been judged by ratings that test here; if anything, that flatters these splits further.
_TAKEN_OVER = dict.fromkeys(TOP_N_LEAKAGE_AUDIT[1:], TOP_N_LEAKAGE_AUDIT[0])
_VALIDATION_SHARE = 0.2
_ASIDE_SHARE = 0.1


def chosen_with(protocol: str) -> str:
    """The protocol on whose slice the settings and models of a protocol are chosen."""
    return (_CHOSEN_WITH | _TAKEN_OVER).get(protocol, protocol)


def is_searched(protocol: str) -> bool:
    """Whether anything is tried for a protocol; else what the trials of `chosen_with` say is taken over.

    Its test rows may then be among those by which was chosen: its scores are for the audit, and no claim of their own.
    """
    return protocol not in _TAKEN_OVER


@dataclass(frozen=True, eq=False)
class Slice:
    """What models are fitted on and compared by when something is chosen for a protocol.

    Attributes:
        name: the protocol.
        scored_as: the protocol whose scores are computed.
        tables: what `ModelFitter` starts from; the validation rows stand in the places of the test rows.
    """

    name: str
    scored_as: str
    tables: Tables

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks whose models are compared."""
        return protocols.tasks(self.scored_as)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that is in the tables."""
        return fingerprint(self.tables)


def fingerprint(tables: Tables) -> str:
    """A hash of all that is in the tables, whatever the order of their rows and the batches they came in."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tables):
        digest.update(name.encode())
        digest.update(_content(tables[name]))
    return digest.hexdigest()


def _content(frame: nw.LazyFrame) -> bytes:
    names = frame.collect_schema().names()
    if "timestamp" in names:
        rows = to_polars(frame, "user", "movie", "rating", "timestamp").sort("user", "movie")
        return b"".join(rows[name].to_physical().to_numpy().tobytes() for name in rows.columns)
    return to_polars(frame).sort(names[0]).write_ndjson().encode()


def validation_slice(protocol: str, tables: Tables, *, seed: int = 0) -> Slice:
    """The slice on which is chosen for a protocol.

    Args:
        protocol: one of `PROTOCOLS` that is chosen with itself.
        tables: what `protocols.split` gave for it; the test tables are not looked at.
        seed: of what is drawn; another one than that of the protocol's own split.

    The last fifth of the training ratings in time for cuts in time and top N; a tenth of the ratings, by a hash, for
    random splits and published folds; a tenth of the users for new users, and of the train users for the latest rating.
    """
    shared = {name: tables[name] for name in ("users", "movies", "user_features") if name in tables}
    if protocol in LATEST_RATING_LEAKAGE_AUDIT:
        return Slice(protocol, protocol, {**shared, **_kept_aside(tables, seed)})
    within = shared | {"ratings": tables["train_ratings"]}
    how = _split_within(protocol)
    cut = 1 - _VALIDATION_SHARE
    return Slice(protocol, how, protocols.split(how, within, seed=seed, cut=cut))


def _split_within(protocol: str) -> str:
    if protocol.startswith("time_cut"):
        return "time_cut"
    return "random_90_10" if protocol in FOLDS or protocol.startswith("random") else protocol


def _kept_aside(tables: Tables, seed: int) -> Mapping[str, nw.LazyFrame]:
    """The train users of case study B, a tenth of them in the test users' place."""
    members = tables["train_responses"].select("user").unique()
    partition = splitting.partition_users(members, train_share=1 - _ASIDE_SHARE, seed=seed)

    def of(side: str, table: str) -> nw.LazyFrame:
        return tables[table].join(partition.filter(nw.col("partition") == side).select("user"), on="user", how="semi")

    made = {
        f"{side}_{rows}": of(side, f"train_{rows}") for side in ("train", "test") for rows in ("histories", "responses")
    }
    return {name: _in_memory(frame) for name, frame in (made | {"user_partition": partition}).items()}


def _in_memory(frame: nw.LazyFrame) -> nw.LazyFrame:
    held: pl.DataFrame | None = to_polars(frame) if frame.implementation.is_polars() else None
    return frame if held is None else lazy(held)
