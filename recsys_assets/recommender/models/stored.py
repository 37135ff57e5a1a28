"""Stored models: arrays as Parquet, facts as JSON, never pickle, so that a stored model cannot run code.

A model whose arrays need another form has `save` and `load` of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from scipy import sparse

_FACTS_FILE = "model.json"


@dataclass(frozen=True)
class StoredModel:
    """Base class of a frozen dataclass of arrays and facts.

    Attributes:
        arrays: attribute by column, by file name without ending.
        matrices: names of the columns row, column and value, by attribute, which is also the file name. A matrix is
            sparse and of items by items. All other attributes are facts, which JSON can hold.

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
    matrices: ClassVar[Mapping[str, tuple[str, str, str]]] = {}

    def save(self, folder: Path) -> None:
        """Write model.json and a Parquet file per entry of `arrays` and `matrices`.

        The file has a row per element of the first axis of an array, or per stored cell of a matrix.
        """
        for file, columns in self.arrays.items():
            series = {column: _series(getattr(self, attribute)) for column, attribute in columns.items()}
            pl.DataFrame(series).write_parquet(folder / f"{file}.parquet")
        stored = {*self.matrices, *(attribute for columns in self.arrays.values() for attribute in columns.values())}
        facts: dict[str, Any] = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in stored
        }
        for attribute, names in self.matrices.items():
            cells = getattr(self, attribute).tocoo()
            table = dict(zip(names, (cells.row, cells.col, cells.data), strict=True))
            pl.DataFrame(table).write_parquet(folder / f"{attribute}.parquet")
            facts["n_items"] = cells.shape[0]
        (folder / _FACTS_FILE).write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the files that `save` writes."""
        found = json.loads((folder / _FACTS_FILE).read_text())
        for file, columns in cls.arrays.items():
            table = pl.read_parquet(folder / f"{file}.parquet", columns=list(columns))
            found |= {attribute: table[column].to_numpy() for column, attribute in columns.items()}
        n_items = found.pop("n_items") if cls.matrices else 0
        for attribute, names in cls.matrices.items():
            table = pl.read_parquet(folder / f"{attribute}.parquet")
            row, column, value = (table[name].to_numpy() for name in names)
            found[attribute] = sparse.csr_array((value, (row, column)), shape=(n_items, n_items))
        return cls(**found)


def _series(values: np.ndarray) -> pl.Series:
    """Return a vector as a column, and a matrix as a column of arrays, which may have no element."""
    if values.ndim == 1:
        return pl.Series(values)
    inner = pl.Series(values[:0].ravel()).dtype
    return pl.Series(np.ascontiguousarray(values), dtype=pl.Array(inner, values.shape[1]))
