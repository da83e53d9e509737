"""Arrays as a source: an .npy file, or one array of an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy_format

from common.errors import DenoiserError, DtypeError, MalformedError
from service.bulk import arrow
from service.bulk.batch import Batch
from service.bulk.options import BulkOptions, IdType, Kind
from service.bulk.provenance import Provenance, sidecar
from service.bulk.sources.fields import pick
from service.bulk.sources.listing import Entry
from service.codecs.rows import RowSpec

UNIT_BYTES = 16 * 2**20  # of a unit's rows
UNIT_ROWS = 65_536

_SAVE = "Save numpy.ascontiguousarray(array, dtype=numpy.float32), or uint8 for images."


def unit_rows(row_bytes: int) -> int:
    """Rows in a unit: the largest power of two within both limits."""
    limit = max(1, min(UNIT_ROWS, UNIT_BYTES // max(1, row_bytes)))
    return 1 << (limit.bit_length() - 1)


def read_header(stream: IO[bytes], spec: RowSpec, name: str) -> tuple[int, np.dtype[Any], int]:
    """Number of rows, dtype (uint8 or float32) and bytes of an .npy header, checked.

    Raises:
        MalformedError, DtypeError, ShapeError: not an array that can be read.
    """
    try:
        version = npy_format.read_magic(stream)
        shape, fortran, dtype = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version](stream)
    except Exception as exc:  # numpy leaks tokenizer and syntax errors for hostile headers
        raise MalformedError(
            f"{name} is not an .npy array",
            expected="what numpy.save writes (format 1.0 or 2.0)",
            hint=_SAVE,
        ) from exc
    allowed = ["uint8", "float32"] if spec.kind == "images" else ["float32"]
    if dtype not in [np.dtype(one) for one in allowed] or (fortran and len(shape) > 1):
        raise DtypeError(
            f"{name} of dtype {dtype}{', Fortran order' if fortran else ''}",
            expected=f"{' or '.join(allowed)}, native byte order, C order",
            hint=_SAVE,
        )
    # An array that repeats one number needs no memory.
    rows = len(spec.conform(np.broadcast_to(np.zeros((), dtype), shape)))
    return rows, dtype, stream.tell()


class ArrayFile:
    """The rows of an array (see `batch.Source`); ids are row numbers.

    Of an .npz, also a compressed one, the array is read as a stream.
    """

    id_type: IdType = "int64"
    encoded = False
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, spec: RowSpec, options: BulkOptions) -> None:
        self._name = str(path)
        self.identity: Mapping[str, Any] = Entry.of(path)._asdict()
        self.provenance: Provenance | None = None
        self._stream: IO[bytes]
        try:
            if path.suffix.lower() == ".npz":
                size = self._open_member(path, spec, options.column)
            else:
                self._stream, size = path.open("rb"), path.stat().st_size
                self.provenance = Provenance.read(sidecar(path))
        except (zipfile.BadZipFile, EOFError) as exc:
            raise self._damaged(exc) from exc
        try:
            self.total, self.dtype, self._offset = read_header(self._stream, spec, self._name)
            self._row_bytes = prod(spec.shape) * self.dtype.itemsize
            if size - self._offset < (needed := self.total * self._row_bytes):
                raise MalformedError(
                    f"{self._name} with {size - self._offset:,} bytes of data",
                    expected=f"{needed:,} for {self.total:,} rows",
                )
        except BaseException:
            self._stream.close()
            raise
        self.kind = cast("Kind", spec.kind)
        self._shape = spec.shape
        self._first_id = options.first_id
        self._size = options.batch or unit_rows(self._row_bytes)
        self.units = -(-self.total // self._size)

    def _open_member(self, path: Path, spec: RowSpec, column: str) -> int:
        """Open the array of an .npz that --column names, or the only one that fits; its bytes."""
        with zipfile.ZipFile(path) as archive:  # its open members keep the file open
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
            fitting = []
            for name in names:
                with archive.open(f"{name}.npy") as stream, suppress(DenoiserError):
                    read_header(stream, spec, name)
                    fitting.append(name)
            member = pick(
                fitting,
                column,
                received=f"{path} with the arrays {', '.join(names)}",
                expected=f"{spec.kind} of shape (N, {', '.join(map(str, spec.shape))})",
            )
            self._stream = archive.open(f"{member}.npy")
            self._name = f"{path}:{member}"
            self.identity = {**self.identity, "array": member}
            return archive.getinfo(f"{member}.npy").file_size

    def read(self, unit: int) -> Batch:
        """As `Source.read`."""
        begin = unit * self._size
        end = min(begin + self._size, self.total)
        size = (end - begin) * self._row_bytes
        try:
            self._stream.seek(self._offset + begin * self._row_bytes)
            data = self._stream.read(size)
        except (zipfile.BadZipFile, EOFError, OSError) as exc:
            raise self._damaged(exc) from exc
        if len(data) != size:
            raise self._damaged("it ends too early")
        ids = np.arange(self._first_id + begin, self._first_id + end, dtype=np.int64)
        rows = np.frombuffer(data, self.dtype).reshape(-1, *self._shape)
        return Batch(arrow.numbers(ids), rows)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _damaged(self, why: object) -> MalformedError:
        return MalformedError(f"{self._name} does not read ({why})", expected="a whole file")
