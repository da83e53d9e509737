"""Parquet as a source: image files as bytes, images as lists, latents; a file or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from common.errors import MalformedError
from service.bulk import arrow
from service.bulk.batch import Batch
from service.bulk.decoding.pictures import Decoder
from service.bulk.options import BulkOptions, IdType, Kind
from service.bulk.provenance import Provenance
from service.bulk.sources import fields
from service.bulk.sources.listing import Entry
from service.codecs.rows import RowSpec


def is_parquet(name: str) -> bool:
    """Whether a file's name says that it is Parquet; hidden ones are left out."""
    return name.lower().endswith((".parquet", ".pq")) and not name.startswith(".")


class _Unit(NamedTuple):
    """One row group; `first` is the number of its first row, counted over all files."""

    path: str
    group: int
    first: int


class Parquet:
    """Rows of one Parquet file, or of all in a folder, by name (see `batch.Source`).

    A unit is a row group, which is read whole.
    """

    def __init__(
        self, files: list[Entry], spec: RowSpec, decoder: Decoder | None, options: BulkOptions
    ) -> None:
        """`files`: paths or URLs. `decoder`: for columns of image files; None for latents."""
        self._spec = spec
        self._decoder = decoder
        self._first_id = options.first_id
        footers = {file.name: fields.read_footer(file.name) for file in files}
        schema = footers[files[0].name][1]
        self._units: list[_Unit] = []
        self.total = 0
        for name, (footer, own_schema) in footers.items():
            if own_schema.remove_metadata() != schema.remove_metadata():
                raise MalformedError(
                    f"{name} with other columns than {files[0].name}",
                    expected="the same columns in each file",
                )
            for group in range(footer.num_row_groups):
                self._units.append(_Unit(name, group, self.total))
                self.total += footer.row_group(group).num_rows
        self.units = len(self._units)
        self._column = fields.choose(schema, spec, files[0].name, options.column)
        column_type = schema.field(self._column).type
        self.encoded = fields.holds_files(column_type)
        self.kind: Kind = "images" if spec.kind == "images" else "latents"
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        if not self.encoded:
            self.dtype = fields.number_of(
                column_type, spec, f"{files[0].name}, column {self._column}"
            )
        self._has_ids = "id" in schema.names
        self.id_type: IdType = fields.id_type_of(schema, files[0].name)
        metadata = {name: own_schema.metadata for name, (_, own_schema) in footers.items()}
        self.provenance = Provenance.common(metadata, check=self.kind == "latents")
        self.notes: tuple[str, ...] = ()
        self.identity: Mapping[str, Any] = {
            "files": [file._asdict() for file in files],
            "column": self._column,
        }
        self._open: tuple[str, Any] | None = None  # name of a file, and its ParquetFile

    def read(self, unit: int) -> Batch:
        """As `Source.read`."""
        where = self._units[unit]
        table = self._row_group(where)
        if self._has_ids:
            ids = fields.ids_of(table.column("id").combine_chunks(), self.id_type)
        else:
            first = self._first_id + where.first
            ids = arrow.numbers(np.arange(first, first + table.num_rows, dtype=np.int64))
        values = table.column(self._column)
        return self._decoded(ids, values) if self.encoded else self._numbers(ids, values)

    def close(self) -> None:
        """Close the file, end the decoder."""
        if self._open is not None:
            self._open[1].close()
        if self._decoder is not None:
            self._decoder.close()

    def _row_group(self, where: _Unit) -> Any:
        """The columns that are needed, as a table."""
        path = where.path
        try:
            if self._open is None or self._open[0] != path:
                if self._open is not None:
                    self._open[1].close()
                self._open = (path, arrow.parquet.ParquetFile(path, pre_buffer=True))
            columns = [self._column, *(["id"] if self._has_ids else [])]
            return self._open[1].read_row_group(where.group, columns=columns)
        except (arrow.ArrowException, OSError) as exc:
            raise MalformedError(f"{path} does not read ({exc})", expected="a whole file") from exc

    def _decoded(self, ids: Any, values: Any) -> Batch:
        """A column of image files."""
        if arrow.types.is_struct(values.type):
            values = arrow.compute.struct_field(values, "bytes")

        def fetch(index: int) -> bytes:
            body: bytes | None = values[index].as_py()
            if body is None:
                raise MalformedError("null", expected="an image file")
            return body

        assert self._decoder is not None
        return self._decoder.batch(ids, fetch, ordered=False)

    def _numbers(self, ids: Any, values: Any) -> Batch:
        """A column of lists; those without as many numbers as one row has are failures."""
        width = prod(self._spec.shape)
        lengths = arrow.compute.list_value_length(values).fill_null(-1).to_numpy()
        complete = lengths == width
        flat = values.filter(arrow.array(complete)).combine_chunks().flatten()
        if flat.null_count:
            flat = flat.cast(arrow.float32()).fill_null(float("nan"))  # refused row by row, as NaN
        rows = np.zeros((len(ids), width), self.dtype)
        rows[complete] = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
        failures = {
            int(at): f"{f'a list of {size}' if size >= 0 else 'null'}; expected {width} numbers"
            for at, size in enumerate(lengths)
            if size != width
        }
        return Batch(ids, rows.reshape(-1, *self._spec.shape)).without(failures)
