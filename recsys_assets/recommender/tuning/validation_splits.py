"""Validation splits: split the training rows of a protocol once more, in the same way as the protocol.

A split holds no test rows of its protocol, so no choice can depend on them. Protocols belong in
`evaluation.protocols`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.scale import EVERYTHING, Scale
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
from recsys_assets.recommender.registry.kinds import has_task

PROTOCOLS = (
    *("time_cut_0.6", "time_cut_0.7", "time_cut", "time_cut_0.9"),
    *("random_90_10", "random_80_20", *FOLDS),
    *(*NEW_USERS, COLD_USERS),
    *("leave_last_out", *TOP_N_LEAKAGE_AUDIT, *LATEST_RATING_LEAKAGE_AUDIT),
)
# Protocols that reuse another protocol's validation split. Their test rows are not in its training rows, because it
# cuts earlier, holds out more rows by the same hash, or has the same new users.
_CHOSEN_WITH = {
    "time_cut_0.7": "time_cut_0.6",
    "time_cut_0.9": "time_cut_0.6",
    "random_90_10": "random_80_20",
    **{name: "new_users_5" for name in NEW_USERS if name != "new_users_0"},
    COLD_USERS: "new_users_0",
}
# The leaking splits of the ranking audit use the choices of `top_n`, because an audit compares the same models. These
# choices may depend on their test ratings, which can only make the leaking splits look better still.
_TAKEN_OVER = dict.fromkeys(TOP_N_LEAKAGE_AUDIT[1:], TOP_N_LEAKAGE_AUDIT[0])
_VALIDATION_SHARE = 0.2
_ASIDE_SHARE = 0.1


def chosen_with(protocol: str) -> str:
    """The protocol whose validation split chooses the settings and models of this protocol."""
    return (_CHOSEN_WITH | _TAKEN_OVER).get(protocol, protocol)


def is_searched(protocol: str) -> bool:
    """Whether a protocol runs searches; otherwise it takes over the choices of `chosen_with`.

    A choice that was taken over may depend on test rows of the protocol, so its scores are valid for the audit only.
    """
    return protocol not in _TAKEN_OVER


@dataclass(frozen=True, eq=False)
class ValidationSplit:
    """The training and validation rows that choose settings and models for a protocol.

    Attributes:
        name: the protocol.
        scored_as: the protocol whose scoring is used.
        tables: input of `ModelFitter`, with the validation rows in place of the test rows.
    """

    name: str
    scored_as: str
    tables: Tables

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the compared models."""
        return tuple(task for task in protocols.tasks(self.scored_as) if has_task(self.kind, task))

    @cached_property
    def kind(self) -> DataKind:
        """Whether the rows are ratings or events."""
        return protocols.kind_of(self.tables)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the contents of the tables."""
        return fingerprint(self.tables)


def fingerprint(tables: Tables) -> str:
    """Hash of the contents of the tables; independent of row order and of batches."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tables):
        digest.update(name.encode())
        digest.update(_content(tables[name]))
    return digest.hexdigest()


def _content(frame: nw.LazyFrame) -> bytes:
    names = frame.collect_schema().names()
    if "timestamp" in names:
        rows = to_polars(frame, "user", "item", "rating", "timestamp").sort("user", "item")
        return b"".join(rows[name].to_physical().to_numpy().tobytes() for name in rows.columns)
    return to_polars(frame).sort(names[0]).write_ndjson().encode()


def validation_split(protocol: str, tables: Tables, *, seed: int = 0, scale: Scale = EVERYTHING) -> ValidationSplit:
    """The validation split of a protocol.

    The validation rows are: for cuts in time and top N, the last fifth of the training ratings in time; for random
    splits and published folds, a tenth of the ratings by hash; for new users, a tenth of the users; for the latest
    rating, a tenth of the train users.

    Args:
        protocol: one of `PROTOCOLS` for which `chosen_with` returns the protocol itself.
        tables: output of `protocols.split`; the test tables are not read.
        seed: random seed; must differ from the seed of the protocol's own split.
        scale: the samples; models are scored on its users.
    """
    shared = {name: tables[name] for name in ("users", "items", "user_features") if name in tables}
    if protocol in LATEST_RATING_LEAKAGE_AUDIT:
        return ValidationSplit(protocol, protocol, {**shared, **_kept_aside(tables, seed)})
    within = shared | {"ratings": tables["train_ratings"]}
    how = _split_within(protocol)
    cut = 1 - _VALIDATION_SHARE
    return ValidationSplit(protocol, how, protocols.split(how, within, seed=seed, cut=cut, scale=scale))


def _split_within(protocol: str) -> str:
    if protocol.startswith("time_cut"):
        return "time_cut"
    return "random_90_10" if protocol in FOLDS or protocol.startswith("random") else protocol


def _kept_aside(tables: Tables, seed: int) -> Mapping[str, nw.LazyFrame]:
    """The train users of case study B, with a tenth of them in place of the test users."""
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
