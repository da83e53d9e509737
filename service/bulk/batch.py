"""Rows in memory, and the interface of every source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.arrays import Array
from service.bulk import arrow
from service.bulk.options import IdType, Kind
from service.bulk.provenance import Provenance

# Why a row failed; or, of a row that was read, how many further frames or pages its file has.
Reason = str | int


class Failure(NamedTuple):
    """A row that could not be read or computed, or whose file has more than the row."""

    id: str
    reason: Reason


@dataclass(frozen=True)
class Batch:
    """The rows of one unit.

    Attributes:
        ids: pyarrow array (n) of the source's `id_type`.
        rows: (n, H, W, C) uint8 or float32, or (n, latent_size) float32.
        failures: the unit's other rows; rows of which something was not read.
    """

    ids: Any
    rows: Array
    failures: tuple[Failure, ...] = ()

    def without(self, reasons: Mapping[int, Reason]) -> Batch:
        """Without the rows that failed; a count lists its row, which stays."""
        if not reasons:
            return self
        keep = np.ones(len(self.ids), bool)
        keep[[at for at, why in reasons.items() if isinstance(why, str)]] = False
        failures = tuple(Failure(str(self.ids[at].as_py()), reasons[at]) for at in sorted(reasons))
        ids = self.ids.filter(arrow.array(keep))
        return Batch(ids, self.rows[keep], self.failures + failures)


class Source(Protocol):
    """An input as units. Fast when they are read in order, correct in any order."""

    kind: Kind  # of its rows
    total: int  # rows, including those that will turn out unreadable
    units: int
    id_type: IdType  # of the ids, in Arrow
    dtype: np.dtype[Any]  # of the rows, uint8 or float32
    encoded: bool  # the rows are image files, not arrays
    identity: Mapping[str, Any]  # plain JSON; inputs with the same identity give the same rows
    provenance: Provenance | None  # the input's own metadata, if it is a bulk output
    notes: tuple[str, ...]  # remarks for the user, before the first unit is read

    def read(self, unit: int) -> Batch:
        """The rows of one unit, the same at each call."""
        ...

    def close(self) -> None:
        """Release files and processes."""
        ...
