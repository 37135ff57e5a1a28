"""Every model of a protocol, with what was chosen for it, fitted on its training rows and scored on its test rows.

What was scored is kept by a hash of what it depends on, like trials, so that a study that was stopped does not fit it
again.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.protocols import Tables
from recsys_assets.recommender.evaluation.significance import paired_tests
from recsys_assets.recommender.refit import Parameters, Refit, parameters_of
from recsys_assets.recommender.registry import ENTRIES, Task
from recsys_assets.recommender.study.searches import SELECTED_KNOBS, value_of
from recsys_assets.recommender.study.slices import fingerprint

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_POINTER = "newest"


@dataclass(frozen=True)
class ProtocolScores:
    """What a protocol says of its models.

    Attributes:
        scores: table `study_scores`.
        user_scores: table `user_scores`.
        paired_tests: table `paired_tests`.
    """

    scores: pl.DataFrame
    user_scores: pl.DataFrame
    paired_tests: pl.DataFrame


class KeptScores:
    """The scores of protocols in a folder, there whole or not at all.

    Args:
        folder: made when the first are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, protocol: str) -> ProtocolScores | None:
        """Those that were asked for last; None where nobody has asked for any."""
        path = self._folder / protocol / _POINTER
        return _read(self._folder / protocol / path.read_text()) if path.exists() else None

    def of(self, protocol: str, key: str, make: Callable[[], ProtocolScores]) -> ProtocolScores:
        """Those of that key, which are made if they are not there; they are the newest from now on."""
        folder = self._folder / protocol
        if not (folder / key).exists():
            unfinished = folder / f".{key}-{os.getpid()}"
            unfinished.mkdir(parents=True, exist_ok=True)
            for name, table in vars(make()).items():
                table.write_parquet(unfinished / f"{name}.parquet")
            unfinished.rename(folder / key)
        pointer = folder / f".{_POINTER}-{os.getpid()}"
        pointer.write_text(key)
        pointer.replace(folder / _POINTER)
        return _read(folder / key)


def _read(folder: Path) -> ProtocolScores:
    return ProtocolScores(
        **{name: pl.read_parquet(folder / f"{name}.parquet") for name in ProtocolScores.__dataclass_fields__}
    )


@dataclass(frozen=True)
class Scoring:
    """How scores are computed.

    Attributes:
        seed: of ties, bootstrap and randomization tests.
        n_resamples: bootstrap resamples.
    """

    seed: int = 0
    n_resamples: int = 1000


def protocol_scores(
    protocol: str,
    tables: Tables,
    parameters: Parameters,
    how: Scoring,
    *,
    kept: KeptScores,
    code: str,
    spark: "Callable[[], SparkSession]",
    scratch: Path,
    log: Callable[[str], None] = lambda _: None,
) -> ProtocolScores:
    """The scores of all entries of the protocol's tasks, those of the chosen ones repeated as `selected`.

    Args:
        protocol: as for `protocols.split`.
        tables: what it gave.
        parameters: with what was chosen for this protocol, the names of the selected models included.
        how: how scores are computed.
        kept: where they are kept.
        code: version of the code.
        spark: gives the Spark session.
        scratch: folder for temporary files that the driver and the executors can reach.
        log: called with a line per model.
    """
    tasks = protocols.tasks(protocol)
    entries = [entry for entry in ENTRIES if entry.task in tasks]
    selected: dict[Task, str] = {task: str(value_of(parameters, SELECTED_KNOBS[task])) for task in tasks}
    used = {f"{entry.task} {entry.name}": parameters_of(entry, parameters) for entry in entries}
    depends_on = [protocol, fingerprint(tables), used, selected, code, asdict(how)]
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]

    def make() -> ProtocolScores:
        fitted = Refit(tables, parameters, spark=spark, scratch=scratch)
        predictions = {}
        for number, entry in enumerate(entries, 1):
            log(f"{protocol}, model {number} of {len(entries)}: {entry.name}")
            predictions[entry] = fitted.predictions(entry)
        lists = None
        if protocol == "top_n":
            log(f"{protocol}: lists for all users that are scored")
            ranked = {entry: partial(fitted.predictions, entry) for entry in entries}
            lists = protocols.lists(tables, ranked, seed=how.seed)
        measured = protocols.measured(protocol, tables, predictions, selected=selected, lists=lists, seed=how.seed)
        return ProtocolScores(
            measured.scores(**asdict(how)), measured.user_scores(), paired_tests(measured, **asdict(how))
        )

    return kept.of(protocol, key, make)
