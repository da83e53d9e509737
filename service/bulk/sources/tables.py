"""Parquet as a source: image files as bytes, images as arrays, latents; a file or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.errors import MalformedError
from service.bulk import arrow
from service.bulk.batch import Batch, Existing, Failure
from service.bulk.decoding.pictures import GROUP, Decoder
from service.bulk.options import Kind
from service.bulk.provenance import Provenance
from service.bulk.sources.arrays import file_identity, unit_rows
from service.bulk.sources.fields import Footer, choose, holds_files, number_of, read_footer
from service.codecs.rows import RowSpec

PARQUETS = (".parquet", ".pq")


class _Unit(NamedTuple):
    """Rows `begin` … `begin` + `rows` of one row group; `first` counts over all files."""

    file: int
    group: int
    begin: int
    rows: int
    first: int


class Parquet:
    """Rows of one Parquet file, or of all in a folder, by name (see `batch.Source`)."""

    def __init__(
        self,
        paths: list[Path],
        spec: RowSpec,
        decoder: Decoder | None,
        *,
        column: str,
        batch: int,
        existing: Existing,
    ) -> None:
        """`decoder` is for columns of image files; latents have none."""
        pa = arrow.load()
        self._paths = paths
        self._spec = spec
        self._decoder = decoder
        self._existing = existing
        footers = [read_footer(path) for path in paths]
        schema = footers[0].schema
        for path, footer in zip(paths[1:], footers[1:], strict=True):
            if footer.schema != schema:
                raise MalformedError(
                    f"{path} with other columns than {paths[0]}",
                    expected="the same columns in each file",
                    hint="Read them one by one.",
                )
        self._column = choose(schema, spec, paths[0], column)
        self._type = schema.field(self._column).type
        self.encoded = holds_files(self._type)
        self.kind: Kind = "images" if spec.kind == "images" else "latents"
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        if not self.encoded:
            self.dtype = number_of(self._type, spec, f"{paths[0]}, column {self._column}")
        self._has_ids = "id" in schema.names
        self.numbered = not self._has_ids or pa.types.is_integer(schema.field("id").type)
        self.provenance = self._one_provenance([footer.metadata for footer in footers])
        size = batch or (GROUP if self.encoded else unit_rows(prod(spec.shape) * 4))
        self._units = list(_units(footers, size))
        self.units = len(self._units)
        self.total = sum(unit.rows for unit in self._units)
        self.notes: tuple[str, ...] = ()
        self.identity: Mapping[str, Any] = {
            "files": [file_identity(path) for path in paths],
            "column": self._column,
        }
        self._cursor: tuple[int, int, Rows] | None = None

    def read(self, unit: int) -> Batch:
        pa = arrow.load()
        where = self._units[unit]
        table = self._take(where)
        values = table.column(self._column).combine_chunks()
        ids = self._ids(table, where)
        if self._has_ids and self._existing.ids:
            known = pa.array([one in self._existing.ids for one in ids.to_pylist()], pa.bool_())
            fresh = pa.compute.invert(known)
            ids, values = ids.filter(fresh), values.filter(fresh)
        if self.encoded:
            return self._decoded(ids, values)
        return self._numbers(ids, values)

    def close(self) -> None:
        self._cursor = None
        if self._decoder is not None:
            self._decoder.close()

    def _take(self, where: _Unit) -> Any:
        """The unit's rows; goes on in an open row group, or goes there."""
        if self._cursor is None or self._cursor[:2] != (where.file, where.group):
            self._cursor = (where.file, where.group, self._opened(where))
        rows = self._cursor[2]
        if rows.position > where.begin:
            self._cursor = (where.file, where.group, rows := self._opened(where))
        rows.take(where.begin - rows.position)
        return rows.take(where.rows)

    def _opened(self, where: _Unit) -> Rows:
        pa = arrow.load()
        path = self._paths[where.file]
        columns = [self._column, *(["id"] if self._has_ids else [])]
        # Pages are read as they are needed: a row group may be larger than memory.
        file = pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
        batches = file.iter_batches(
            batch_size=max(1, where.rows), row_groups=[where.group], columns=columns
        )
        return Rows(batches, path)

    def _ids(self, table: Any, where: _Unit) -> Any:
        """int64 or string (n): the column `id`, or row numbers over all files."""
        pa = arrow.load()
        if self._has_ids:
            kind = pa.int64() if self.numbered else pa.string()
            return table.column("id").combine_chunks().cast(kind)
        first = self._existing.next_row + where.first
        return arrow.numbers(np.arange(first, first + table.num_rows, dtype=np.int64))

    def _decoded(self, ids: Any, values: Any) -> Batch:
        """A column of image files."""
        pa = arrow.load()
        if pa.types.is_struct(values.type):
            values = pa.compute.struct_field(values, "bytes")

        def fetch(index: int) -> bytes:
            body: bytes | None = values[index].as_py()
            if body is None:
                raise MalformedError("null", expected="an image file", hint="Leave the row out.")
            return body

        assert self._decoder is not None
        names = [str(one) for one in ids.to_pylist()]
        return self._decoder.batch(names, fetch, ids=ids, ordered=False)

    def _numbers(self, ids: Any, values: Any) -> Batch:
        """A column of lists, each of as many numbers as one row has."""
        pa = arrow.load()
        width = prod(self._spec.shape)
        lengths = pa.compute.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
        right = lengths == width
        failures = tuple(
            Failure(
                str(ids[int(at)].as_py()),
                f"{_length(int(lengths[at]))}; expected {width} numbers",
            )
            for at in np.flatnonzero(~right)
        )
        if failures:
            keep = pa.array(right)
            ids, values = ids.filter(keep), values.filter(keep)
        flat = values.flatten()
        if flat.null_count:
            flat = flat.cast(pa.float32()).fill_null(float("nan"))  # refused row by row, as NaN is
        rows = flat.to_numpy(zero_copy_only=False).astype(self.dtype, copy=False)
        return Batch(ids, rows.reshape(-1, *self._spec.shape), failures)

    def _one_provenance(self, metadata: list[Any]) -> Provenance | None:
        """Of all the files; latents of two models in one folder are refused, both named."""
        found = [
            (Provenance.from_metadata(m), p) for m, p in zip(metadata, self._paths, strict=True)
        ]
        known = [(provenance, path) for provenance, path in found if provenance is not None]
        if not known:
            return None
        first, first_path = known[0]
        if self._spec.kind == "latents":
            for provenance, path in known[1:]:
                provenance.check_same(first, mine=str(path), others=str(first_path))
        return first


class Rows:
    """Record batches, taken in any number of rows.

    position: rows taken so far.
    """

    def __init__(self, batches: Iterator[Any], path: Path) -> None:
        self._batches = batches
        self._path = path
        self._held: list[Any] = []
        self.position = 0

    def take(self, count: int) -> Any:
        """The next `count` rows as a table; of none, None."""
        pa = arrow.load()
        taken = []
        while count:
            if not self._held:
                self._held.append(self._next())
            batch = self._held.pop()
            if batch.num_rows > count:
                self._held.append(batch.slice(count))
                batch = batch.slice(0, count)
            taken.append(batch)
            count -= batch.num_rows
            self.position += batch.num_rows
        return pa.Table.from_batches(taken) if taken else None

    def _next(self) -> Any:
        pa = arrow.load()
        try:
            return next(self._batches)
        except (StopIteration, pa.ArrowException, OSError) as exc:
            raise MalformedError(
                f"{self._path} does not read ({exc or 'it ends too early'})",
                expected="a whole file",
                hint="Copy or write it again.",
            ) from exc


def _units(footers: list[Footer], size: int) -> Iterator[_Unit]:
    first = 0
    for at, footer in enumerate(footers):
        for group, rows in enumerate(footer.rows):
            for begin in range(0, rows, size):
                yield _Unit(at, group, begin, min(size, rows - begin), first + begin)
            first += rows


def _length(length: int) -> str:
    return "null" if length < 0 else f"a list of {length}"
