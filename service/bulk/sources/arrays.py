"""Arrays as a source: .npy, mapped into memory unit by unit, and .npz, read as a stream."""

from __future__ import annotations

import mmap
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy_format

from common.arrays import Array
from common.errors import DenoiserError, DtypeError, MalformedError, OptionError
from service.bulk import arrow
from service.bulk.batch import Batch, Existing
from service.bulk.errors import InputMissingError
from service.bulk.options import Kind
from service.bulk.provenance import Provenance, sidecar
from service.codecs.rows import RowSpec

UNIT_BYTES = 16 * 2**20  # of a unit's rows
UNIT_ROWS = 65_536

_SAVE = "Save numpy.ascontiguousarray(array, dtype=numpy.float32), or uint8 for images."


def unit_rows(row_bytes: int) -> int:
    """Rows in a unit: the largest power of two that stays below both limits."""
    most = max(1, min(UNIT_ROWS, UNIT_BYTES // max(1, row_bytes)))
    return 1 << (most.bit_length() - 1)


class Layout:
    """What an .npy header says, checked against the rows that are wanted.

    Attributes:
        rows: N. dtype: uint8 or float32. offset: of the first row, in bytes.
    """

    def __init__(self, stream: IO[bytes], spec: RowSpec, name: str) -> None:
        """Read the header from `stream`, which is left at the first row.

        Raises:
            MalformedError, DtypeError, ShapeError.
        """
        shape, fortran, self.dtype = _header(stream, name)
        self.offset = stream.tell()
        allowed = (np.uint8, np.float32) if spec.kind == "images" else (np.float32,)
        wanted = [np.dtype(one) for one in allowed]
        if self.dtype not in wanted or (fortran and len(shape) > 1):
            order = ", Fortran order" if fortran else ""
            raise DtypeError(
                f"{name} of dtype {self.dtype}{order}",
                expected=f"{' or '.join(map(str, wanted))}, native byte order, C order",
                hint=_SAVE,
            )
        # No memory is needed for an array that repeats one number.
        self.rows = len(spec.conform(np.broadcast_to(np.zeros((), self.dtype), shape)))
        self._shape = spec.shape
        self.row_bytes = prod(spec.shape) * self.dtype.itemsize

    def shaped(self, data: Any) -> Array:
        """Bytes of whole rows as (n, *shape)."""
        return np.frombuffer(data, self.dtype).reshape(-1, *self._shape)


class _Array(ABC):
    """What .npy and .npz have in common: rows by number."""

    numbered = True
    encoded = False
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        layout: Layout,
        spec: RowSpec,
        identity: Mapping[str, Any],
        *,
        batch: int,
        existing: Existing,
    ) -> None:
        self.kind = cast("Kind", spec.kind)
        self.dtype: np.dtype[Any] = layout.dtype
        self.total = layout.rows
        self._layout = layout
        self._size = batch or unit_rows(layout.row_bytes)
        self._first_row = existing.next_row
        self.units = -(-self.total // self._size)
        self.identity: Mapping[str, Any] = {**identity, "rows": self.total}

    def read(self, unit: int) -> Batch:
        begin = unit * self._size
        end = min(begin + self._size, self.total)
        ids = np.arange(self._first_row + begin, self._first_row + end, dtype=np.int64)
        return Batch(arrow.numbers(ids), self._rows(begin, end))

    @abstractmethod
    def _rows(self, begin: int, end: int) -> Array:
        """Rows from `begin` up to `end`."""


class Npy(_Array):
    """An .npy file; a unit's rows are mapped, and let go with the unit."""

    def __init__(self, path: Path, spec: RowSpec, *, batch: int, existing: Existing) -> None:
        with path.open("rb") as file:
            layout = Layout(file, spec, str(path))
        super().__init__(layout, spec, file_identity(path), batch=batch, existing=existing)
        held = path.stat().st_size - layout.offset
        if held < (needed := layout.rows * layout.row_bytes):
            raise MalformedError(
                f"{path} with {held:,} bytes of data",
                expected=f"{needed:,} for {layout.rows:,} rows",
                hint="Copy or save it again.",
            )
        self.provenance = Provenance.read(sidecar(path))
        self._file = path.open("rb")

    def _rows(self, begin: int, end: int) -> Array:
        start = self._layout.offset + begin * self._layout.row_bytes
        size = (end - begin) * self._layout.row_bytes
        before = start % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(
            self._file.fileno(), size + before, offset=start - before, access=mmap.ACCESS_READ
        )
        if hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)
        return self._layout.shaped(memoryview(mapped)[before:])

    def close(self) -> None:
        self._file.close()


class Npz(_Array):
    """One array of an .npz file, also a compressed one."""

    def __init__(
        self, path: Path, spec: RowSpec, *, column: str, batch: int, existing: Existing
    ) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError) as exc:
            raise MalformedError(
                f"{path} does not read ({exc})",
                expected="what numpy.savez writes",
                hint="Copy or save it again.",
            ) from exc
        self._name = f"{_chosen(self._zip, spec, path, column)}.npy"
        self._stream = self._zip.open(self._name)
        layout = Layout(self._stream, spec, f"{path}:{self._name}")
        identity = {**file_identity(path), "array": self._name}
        super().__init__(layout, spec, identity, batch=batch, existing=existing)

    def _rows(self, begin: int, end: int) -> Array:
        size = (end - begin) * self._layout.row_bytes
        try:
            self._stream.seek(self._layout.offset + begin * self._layout.row_bytes)
            data = self._stream.read(size)
        except (zipfile.BadZipFile, EOFError, OSError) as exc:
            raise self._damaged(f"{exc}") from exc
        if len(data) != size:
            raise self._damaged("it ends too early")
        return self._layout.shaped(data)

    def close(self) -> None:
        self._stream.close()
        self._zip.close()

    def _damaged(self, why: str) -> MalformedError:
        return MalformedError(
            f"{self._name} in {self._zip.filename} does not read ({why})",
            expected="a whole .npz",
            hint="Copy or save it again.",
        )


def _chosen(archive: zipfile.ZipFile, spec: RowSpec, path: Path, column: str) -> str:
    """The array to read: the one that was named, or the only one that fits."""
    names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    if column:
        if column not in names:
            raise OptionError(
                f"--column {column}",
                expected=f"one of {', '.join(names) or 'no arrays'} in {path}",
                hint="Correct it.",
            )
        return column
    fitting = []
    for name in names:
        with archive.open(f"{name}.npy") as stream:
            try:
                Layout(stream, spec, name)
            except DenoiserError:
                continue
        fitting.append(name)
    if not fitting:
        raise InputMissingError(
            f"{path} with the arrays {', '.join(names) or '(none)'}",
            expected=f"{spec.kind} of shape (N, {', '.join(map(str, spec.shape))})",
            hint="Name another input.",
        )
    if len(fitting) > 1:
        raise OptionError(
            f"{path} with several arrays of {spec.kind}",
            expected=f"--column with one of {', '.join(fitting)}",
            hint="Name the one to read.",
        )
    return fitting[0]


def file_identity(path: Path) -> dict[str, Any]:
    """By which a resumed job knows a file again."""
    state = path.stat()
    return {"path": str(path), "bytes": state.st_size, "modified_ns": state.st_mtime_ns}


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[npy_format.read_magic(stream)]
        return read(stream)
    except Exception as exc:  # numpy leaks tokenizer and syntax errors for hostile headers
        raise MalformedError(
            f"{name} is not an .npy array",
            expected="what numpy.save writes (format 1.0 or 2.0)",
            hint=_SAVE,
        ) from exc
