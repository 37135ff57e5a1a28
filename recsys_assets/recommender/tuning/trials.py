"""Trials: one model with one set of parameters, fitted and scored on one validation slice; and the folder they are in.

A trial is named by a hash of everything its scores depend on, so that what was tried once is never tried again. Which
trials are made is `searches` and `tuning`.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recsys_assets.recommender.registry import Task


@dataclass(frozen=True)
class Question:
    """What a trial answers: everything that its scores depend on.

    Attributes:
        slice: name of the validation slice.
        data: fingerprint of the slice's rows.
        task: of the model.
        model: as in the registry.
        parameters: what the model depends on, by section.
        code: hashes of the source that computes them, and versions of libraries.
    """

    slice: str
    data: str
    task: Task
    model: str
    parameters: Mapping[str, Mapping[str, Any]]
    code: str

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, the same for the same question."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trial:
    """A question and its answer.

    Attributes:
        question: what was tried.
        scores: by population, then metric; empty where the model cannot be fitted so.
        seconds: how long it took.
        when: ISO 8601, UTC.
        refusal: why it cannot be fitted so.
        resampled: by population, then metric: the scores by which is chosen, over resamples of the users that are the
            same for all trials of a slice.
    """

    question: Question
    scores: Mapping[str, Mapping[str, float]]
    seconds: float
    when: str
    refusal: str = ""
    resampled: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)

    def score(self, metric: str, population: str) -> float | None:
        """One of the scores; None where it is not defined."""
        return self.scores.get(population, {}).get(metric)

    def resampled_score(self, metric: str, population: str) -> Sequence[float]:
        """One of the scores by which is chosen, over resamples of the users.

        Raises:
            KeyError: nothing is chosen by it, or it is not defined.
        """
        return self.resampled[population][metric]


class Trials:
    """The trials in a folder, one JSON file each, there whole or not at all.

    Args:
        folder: made when the first trial is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, question: Question) -> Trial | None:
        """The trial of that question, if it was made."""
        path = self._path(question)
        return _read(path) if path.exists() else None

    def add(self, trial: Trial) -> None:
        """Keep a trial: from now on it survives whatever happens to the process."""
        path = self._path(trial.question)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}-{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(trial), indent=1, sort_keys=True))
        unfinished.replace(path)

    def keep(self, of_slice: str, questions: Sequence[Question]) -> None:
        """Remove the trials of a slice that answer none of these questions."""
        kept = {self._path(question) for question in questions}
        for path in (self._folder / of_slice).glob("*.json"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, question: Question) -> Path:
        return self._folder / question.slice / f"{question.key}.json"


def _read(path: Path) -> Trial:
    content = json.loads(path.read_text())
    return Trial(**content | {"question": Question(**content["question"])})
