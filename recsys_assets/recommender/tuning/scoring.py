"""Scores of a study: fits every model of a protocol with the chosen settings and scores it on the test rows.

Scores are stored under a hash of their inputs, so a study that continues after a stop does not fit a model twice.
Trials on validation splits belong in `trials`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.scale import Scale
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.comparing import over_seeds, reseeded
from recsys_assets.recommender.evaluation.protocols import OF_THE_PIPELINE, Tables
from recsys_assets.recommender.evaluation.settings import SELECTED
from recsys_assets.recommender.evaluation.significance import paired_tests
from recsys_assets.recommender.registry import ENTRIES, Entry, Task
from recsys_assets.recommender.registry.fitting import ModelFitter, Parameters, parameters_of
from recsys_assets.recommender.registry.kinds import has_entry, has_task
from recsys_assets.recommender.registry.provenance import SOURCES
from recsys_assets.recommender.tuning.searches import value_of
from recsys_assets.recommender.tuning.validation_splits import fingerprint

_POINTER = "newest"
_SCORED_BY = "tuning.scoring"
# Larger than the differences between the built-in seeds of the models, so that two models never get the same seed.
_SEED_STEP = 1000


@dataclass(frozen=True)
class ProtocolScores:
    """The score tables of one protocol.

    Attributes:
        scores: table `study_scores`, means over all seeds.
        user_scores: table `user_scores`, of the first seed.
        paired_tests: table `paired_tests`, of the first seed.
    """

    scores: pl.DataFrame
    user_scores: pl.DataFrame
    paired_tests: pl.DataFrame


class KeptScores:
    """Scores of protocols in a folder, written atomically.

    Args:
        folder: created with the first scores.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, protocol: str) -> ProtocolScores | None:
        """The scores of the protocol that were requested last; None if there are none."""
        path = self._folder / protocol / _POINTER
        return _read(self._folder / protocol / path.read_text()) if path.exists() else None

    def of(self, protocol: str, key: str, make: Callable[[], ProtocolScores]) -> ProtocolScores:
        """The scores under a key, which become the newest; `make` computes missing ones."""
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
        seed: random seed of ties, bootstrap and randomization tests; independent of the seeds of the models.
        n_resamples: number of bootstrap resamples.
        n_seeds: number of seeds per model under the protocols of the pipeline; other protocols use one seed.
    """

    seed: int = 0
    n_resamples: int = 1000
    n_seeds: int = 3

    @property
    def drawn(self) -> dict[str, Any]:
        """Seed and number of resamples, as keyword arguments."""
        return {"seed": self.seed, "n_resamples": self.n_resamples}

    def seeds(self, protocol: str) -> int:
        """Number of seeds per model under a protocol."""
        return self.n_seeds if protocol in OF_THE_PIPELINE else 1


def protocol_scores(
    protocol: str,
    tables: Tables,
    parameters: Parameters,
    how: Scoring,
    *,
    kept: KeptScores,
    code: str,
    log: Callable[[str], None] = lambda _: None,
) -> ProtocolScores:
    """The scores of all entries of the protocol's tasks; the chosen models are repeated as `selected`.

    Args:
        protocol: name of the protocol, as in `protocols.split`.
        tables: output of `protocols.split`.
        parameters: settings of all stages with the choices for this protocol, including the selected models.
        how: how scores are computed.
        kept: store of the scores.
        code: versions of the libraries that scores depend on.
        log: called with one line per model.
    """
    kind, n_seeds = protocols.kind_of(tables), how.seeds(protocol)
    tasks = [task for task in protocols.tasks(protocol) if has_task(kind, task)]
    entries = [entry for entry in ENTRIES if entry.task in tasks and has_entry(kind, entry)]
    selected: dict[Task, str] = {task: str(value_of(parameters, SELECTED[task])) for task in tasks}
    used = {f"{entry.task} {entry.name}": parameters_of(entry, parameters) for entry in entries}
    sources = [SOURCES.code_of_model(each, parameters, _SCORED_BY) for each in entries]
    depends_on = [
        protocol,
        fingerprint(tables),
        used,
        selected,
        sources,
        code,
        how.drawn,
        n_seeds,
        str(Scale.of(parameters)),
    ]
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]

    def make() -> ProtocolScores:
        fitted = ModelFitter(tables, parameters)
        lists: dict[str, nw.LazyFrame] = {}
        runs = []
        for predictions, again, changed in _by_seed(protocol, entries, fitted, parameters, n_seeds, log):
            if protocol == "top_n":
                log(f"{protocol}: lists for all users that are scored")
                lists |= protocols.lists(tables, changed, again.ranker, seed=how.seed)
            shown = dict(lists) or None
            runs.append(
                protocols.measured(protocol, tables, predictions, selected=selected, lists=shown, seed=how.seed)
            )
        scores = over_seeds([measured.scores(**how.drawn) for measured in runs])
        return ProtocolScores(scores, runs[0].user_scores(), paired_tests(runs[0], **how.drawn))

    return kept.of(protocol, key, make)


def _by_seed(
    protocol: str,
    entries: Sequence[Entry],
    fitted: ModelFitter,
    parameters: Parameters,
    n_seeds: int,
    log: Callable[[str], None],
) -> Iterator[tuple[dict[Entry, nw.LazyFrame], ModelFitter, list[Entry]]]:
    """For each seed: the predictions of all models, the model fitter, and the entries that were fitted for this seed.

    The first seed is the seed of the parameters. A model that depends on no seed is fitted only once.
    """
    predictions: dict[Entry, nw.LazyFrame] = {}
    for number in range(n_seeds):
        reseeds = reseeded(parameters, number * _SEED_STEP)
        fitted = fitted.with_parameters(reseeds)
        due = [
            entry
            for entry in entries
            if not number or parameters_of(entry, reseeds) != parameters_of(entry, parameters)
        ]
        told = protocol if n_seeds == 1 else f"{protocol}, seed {number + 1} of {n_seeds}"
        for place, entry in enumerate(due, 1):
            log(f"{told}, model {place} of {len(due)}: {entry.name}")
            predictions[entry] = fitted.predictions(entry)
        yield dict(predictions), fitted, due
