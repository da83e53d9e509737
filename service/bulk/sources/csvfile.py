"""Latents in CSV as a source: `id,l0,l1,…`, as a bulk job writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import MalformedError, ShapeError
from service.bulk import arrow
from service.bulk.batch import Batch
from service.bulk.options import Kind
from service.bulk.provenance import Provenance, sidecar
from service.bulk.sources.arrays import UNIT_ROWS, file_identity
from service.bulk.sources.tables import Rows
from service.codecs.rows import RowSpec


class Csv:
    """Rows of a CSV file with the columns id and l0 … (see `batch.Source`)."""

    kind: Kind = "latents"
    encoded = False
    dtype: np.dtype[Any] = np.dtype(np.float32)
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, spec: RowSpec, *, batch: int) -> None:
        self._path = path
        self._columns = [f"l{at}" for at in range(spec.shape[0])]
        with path.open(encoding="utf-8", errors="replace") as file:
            head = [name.strip().strip('"') for name in file.readline().split(",")]
            self.numbered = not file.readline().startswith('"')  # quoted ids are names
        latents = [name for name in head if name[:1] == "l" and name[1:].isdigit()]
        if sorted(latents) != sorted(self._columns) or "id" not in head:
            raise ShapeError(
                f"{path} with the columns {', '.join(head)[:200]}",
                expected=f"id, {self._columns[0]} … {self._columns[-1]}",
                hint="Write it as `python -m service encode … --out latents.csv` does.",
            )
        self.provenance = Provenance.read(sidecar(path))
        try:
            self.total = self._count()
        except MalformedError:  # ids that are not all numbers are names
            self.numbered = False
            self.total = self._count()
        self._size = batch or UNIT_ROWS
        self.units = -(-self.total // self._size)
        self.identity: Mapping[str, Any] = {**file_identity(path), "rows": self.total}
        self._rows: Rows | None = None

    def read(self, unit: int) -> Batch:
        begin = unit * self._size
        if self._rows is None or self._rows.position > begin:
            self._rows = Rows(self._read(["id", *self._columns]), self._path)
        self._rows.take(begin - self._rows.position)
        table = self._rows.take(min(self._size, self.total - begin))
        values = [table.column(name).to_numpy() for name in self._columns]
        return Batch(table.column("id").combine_chunks(), np.stack(values, axis=1))

    def close(self) -> None:
        self._rows = None

    def _count(self) -> int:
        """Rows: once through the file."""
        return sum(batch.num_rows for batch in self._read(["id"]))

    def _read(self, columns: list[str]) -> Iterator[Any]:
        """Record batches of some columns. Ids are int64 where all of them are numbers."""
        pa = arrow.load()
        kinds = {name: pa.float32() for name in self._columns}
        kinds["id"] = pa.int64() if self.numbered else pa.string()
        convert = pa.csv.ConvertOptions(
            column_types=kinds, include_columns=columns, strings_can_be_null=False
        )
        parse = pa.csv.ParseOptions(newlines_in_values=True)
        try:
            reader = pa.csv.open_csv(self._path, convert_options=convert, parse_options=parse)
            yield from reader
        except pa.ArrowInvalid as exc:
            raise MalformedError(
                f"{self._path} does not read ({exc})",
                expected="numbers, and as many columns in each line",
                hint="Write it again.",
            ) from exc
