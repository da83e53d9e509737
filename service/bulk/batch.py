"""Rows on their way: what a source gives, and what every source can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.arrays import Array
from service.bulk import arrow
from service.bulk.options import Kind
from service.bulk.provenance import Provenance


@dataclass(frozen=True)
class Failure:
    """A row that could not be read or computed, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """The rows of one unit.

    Attributes:
        ids: pyarrow array (n) of int64 or string.
        rows: (n, H, W, C) uint8 or float32, or (n, latent_size) float32.
        failures: of the unit's other rows.
    """

    ids: Any
    rows: Array
    failures: tuple[Failure, ...] = ()

    def only(self, keep: Array, failures: tuple[Failure, ...]) -> Batch:
        """The rows where `keep`, bool (n), is True, and further failures: those of the others."""
        ids = self.ids.filter(arrow.load().array(keep))
        return Batch(ids, self.rows[keep], self.failures + failures)


class Existing:
    """What an output has already, when rows are appended to it; nothing by default."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        """`files`: the output's Parquet files."""
        self._files = files

    @cached_property
    def ids(self) -> frozenset[Any]:
        """Its ids; rows of the same id are passed over. About 100 bytes each, if asked for."""
        return frozenset(one for column in self._columns() for one in column.to_pylist())

    @cached_property
    def next_row(self) -> int:
        """The number of the next row that has no id of its own."""
        if any(arrow.load().types.is_string(column.type) for column in self._columns()):
            return 0
        found = [arrow.load().compute.max(column).as_py() for column in self._columns()]
        return max((largest + 1 for largest in found if largest is not None), default=0)

    def _columns(self) -> Iterator[Any]:
        for path in self._files:
            with arrow.load().parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["id"]):
                    yield batch.column(0)


class Source(Protocol):
    """An input as units. Fast when they are read in order, right in any order.

    Attributes:
        kind: what its rows are.
        total: its rows, also those that will turn out unreadable.
        units: how many units they are cut into.
        numbered: ids are int64 row numbers, else strings.
        dtype: of the rows, uint8 or float32.
        encoded: the rows came as image files, not as arrays.
        identity: plain JSON; two inputs with the same one give the same rows.
        provenance: what the input says about itself, if it is a bulk output.
        notes: what a person should know before it is read.
    """

    kind: Kind
    total: int
    units: int
    numbered: bool
    dtype: np.dtype[Any]
    encoded: bool
    identity: Mapping[str, Any]
    provenance: Provenance | None
    notes: tuple[str, ...]

    def read(self, unit: int) -> Batch:
        """The rows of one unit, the same at each call."""
        ...

    def close(self) -> None: ...
