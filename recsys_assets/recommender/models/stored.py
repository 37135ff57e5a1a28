"""Stored models: arrays as Parquet, facts as JSON, never pickle, so that a stored model cannot run code.

A model whose arrays need another form, such as a sparse matrix, has `save` and `load` of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl

_FACTS_FILE = "model.json"


@dataclass(frozen=True)
class StoredModel:
    """Base class of a frozen dataclass of arrays and facts.

    Attributes:
        arrays: attribute by column, by file name without ending. All other attributes are facts, which JSON can hold.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> @dataclass(frozen=True)
        ... class Means(StoredModel):
        ...     means: np.ndarray
        ...     index: str
        ...     arrays: ClassVar = {"means": {"mean": "means"}}
        >>> with TemporaryDirectory() as folder:
        ...     Means(np.array([4.0, 2.5]), "test").save(Path(folder))
        ...     Means.load(Path(folder)).means.tolist()
        [4.0, 2.5]
    """

    arrays: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def save(self, folder: Path) -> None:
        """Write a Parquet file per entry of `arrays`, with a row per element of the first axis, and model.json."""
        for file, columns in self.arrays.items():
            table = {column: _series(getattr(self, attribute)) for column, attribute in columns.items()}
            pl.DataFrame(table).write_parquet(folder / f"{file}.parquet")
        stored = {attribute for columns in self.arrays.values() for attribute in columns.values()}
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in stored}
        (folder / _FACTS_FILE).write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the files that `save` writes."""
        found = json.loads((folder / _FACTS_FILE).read_text())
        for file, columns in cls.arrays.items():
            table = pl.read_parquet(folder / f"{file}.parquet", columns=list(columns))
            found |= {attribute: table[column].to_numpy() for column, attribute in columns.items()}
        return cls(**found)


def _series(values: np.ndarray) -> pl.Series:
    """Return a vector as a column, and a matrix as a column of arrays, which may have no element."""
    if values.ndim == 1:
        return pl.Series(values)
    inner = pl.Series(values[:0].ravel()).dtype
    return pl.Series(np.ascontiguousarray(values), dtype=pl.Array(inner, values.shape[1]))
