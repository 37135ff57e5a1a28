"""Trials: one model with one set of parameters, fitted and scored on one validation split, and their folder.

A hash of all inputs names a trial, so the same trial is never made twice. The choice of trials belongs in `searches`
and `tuning`.
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
    """The inputs of a trial: everything that its scores depend on.

    Attributes:
        validation_split: name of the validation split.
        data: fingerprint of the split's rows.
        task: task of the model.
        model: name in the registry.
        parameters: parameters that the model depends on, by section.
        code: hashes of the source code of the model and its scoring, and versions of libraries.
    """

    validation_split: str
    data: str
    task: Task
    model: str
    parameters: Mapping[str, Mapping[str, Any]]
    code: str

    @property
    def key(self) -> str:
        """Hash of the question, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trial:
    """A question and its answer.

    Attributes:
        question: the inputs of the trial.
        scores: scores by population, then metric; empty if the model cannot be fitted with these parameters.
        seconds: duration in seconds.
        when: time of the trial, ISO 8601, UTC.
        refusal: why the model cannot be fitted; empty if it can.
        resampled: by population, then metric: bootstrap scores of the deciding metrics. All trials of a split share
            the same resamples of the users.
    """

    question: Question
    scores: Mapping[str, Mapping[str, float]]
    seconds: float
    when: str
    refusal: str = ""
    resampled: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)

    def score(self, metric: str, population: str) -> float | None:
        """The score, or None if it is undefined."""
        return self.scores.get(population, {}).get(metric)

    def resampled_score(self, metric: str, population: str) -> Sequence[float]:
        """The score over resamples of the users.

        Raises:
            KeyError: no search decides by this metric, or it is undefined.
        """
        return self.resampled[population][metric]


class Trials:
    """Trials in a folder, one JSON file each, written atomically.

    Args:
        folder: created with the first trial.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, question: Question) -> Trial | None:
        """The trial with these inputs, or None."""
        path = self._path(question)
        return _read(path) if path.exists() else None

    def add(self, trial: Trial) -> None:
        """Stores a trial on disk, so that it survives a crash of the process."""
        path = self._path(trial.question)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}-{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(trial), indent=1, sort_keys=True))
        unfinished.replace(path)

    def keep(self, of_split: str, questions: Sequence[Question]) -> None:
        """Removes the trials of a split except the trials of these questions."""
        kept = {self._path(question) for question in questions}
        for path in (self._folder / of_split).glob("*.json"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, question: Question) -> Path:
        return self._folder / question.validation_split / f"{question.key}.json"


def _read(path: Path) -> Trial:
    content = json.loads(path.read_text())
    return Trial(**content | {"question": Question(**content["question"])})
