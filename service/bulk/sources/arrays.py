"""Arrays as a source: an .npy file, or one array of an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy_format

from common.errors import DenoiserError, DtypeError, MalformedError
from service.bulk import arrow
from service.bulk.batch import Batch, FileStamp
from service.bulk.options import BulkOptions, Kind
from service.bulk.provenance import Provenance, sidecar
from service.bulk.sources.fields import pick
from service.codecs.rows import RowSpec

UNIT_BYTES = 16 * 2**20  # of a unit's rows
UNIT_ROWS = 65_536

_SAVE = "Save numpy.ascontiguousarray(array, dtype=numpy.float32), or uint8 for images."


def unit_rows(row_bytes: int) -> int:
    """Rows in a unit: the largest power of two within both limits."""
    limit = max(1, min(UNIT_ROWS, UNIT_BYTES // max(1, row_bytes)))
    return 1 << (limit.bit_length() - 1)


class Header(NamedTuple):
    """What an .npy header states. rows: N. dtype: uint8 or float32. offset: of row 0, in bytes."""

    rows: int
    dtype: np.dtype[Any]
    offset: int


def read_header(stream: IO[bytes], spec: RowSpec, name: str) -> Header:
    """Read an .npy header and check it against the expected rows.

    Raises:
        MalformedError, DtypeError, ShapeError: not an array that can be read.
    """
    try:
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[npy_format.read_magic(stream)]
        shape, fortran, dtype = read(stream)
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
    return Header(rows, dtype, stream.tell())


class ArrayFile:
    """The rows of an array, read unit by unit (see `batch.Source`); ids are row numbers."""

    numbered = True
    encoded = False
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        stream: IO[bytes],
        spec: RowSpec,
        options: BulkOptions,
        *,
        name: str,
        size: int,
        identity: Mapping[str, Any],
        provenance: Provenance | None = None,
    ) -> None:
        """`stream`: of the whole .npy, seekable, closed by `close`. `size`: its bytes."""
        self._stream = stream
        self._name = name
        try:
            header = read_header(stream, spec, name)
            self._row_bytes = prod(spec.shape) * header.dtype.itemsize
            if size - header.offset < (needed := header.rows * self._row_bytes):
                raise MalformedError(
                    f"{name} with {size - header.offset:,} bytes of data",
                    expected=f"{needed:,} for {header.rows:,} rows",
                )
        except BaseException:
            stream.close()
            raise
        self.kind = cast("Kind", spec.kind)
        self.dtype = header.dtype
        self.total = header.rows
        self._offset = header.offset
        self._shape = spec.shape
        self._first_id = options.first_id
        self._size = options.batch or unit_rows(self._row_bytes)
        self.units = -(-self.total // self._size)
        self.identity: Mapping[str, Any] = {**identity, "rows": self.total}
        self.provenance = provenance

    def read(self, unit: int) -> Batch:
        """As `Source.read`."""
        begin = unit * self._size
        end = min(begin + self._size, self.total)
        size = (end - begin) * self._row_bytes
        try:
            self._stream.seek(self._offset + begin * self._row_bytes)
            data = self._stream.read(size)
        except (zipfile.BadZipFile, EOFError, OSError) as exc:
            raise _damaged(self._name, exc) from exc
        if len(data) != size:
            raise _damaged(self._name, "it ends too early")
        ids = np.arange(self._first_id + begin, self._first_id + end, dtype=np.int64)
        rows = np.frombuffer(data, self.dtype).reshape(-1, *self._shape)
        return Batch(arrow.numbers(ids), rows)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def open_npy(path: Path, spec: RowSpec, options: BulkOptions) -> ArrayFile:
    """The rows of an .npy file."""
    return ArrayFile(
        path.open("rb"),
        spec,
        options,
        name=str(path),
        size=path.stat().st_size,
        identity=FileStamp.of(path)._asdict(),
        provenance=Provenance.read(sidecar(path)),
    )


def open_npz(path: Path, spec: RowSpec, options: BulkOptions) -> ArrayFile:
    """The rows of one array of an .npz file, also a compressed one, which is read as a stream."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as exc:
        raise _damaged(str(path), exc) from exc
    with archive:  # its open members keep the file open
        member = f"{_choose(archive, spec, path, options.column)}.npy"
        return ArrayFile(
            archive.open(member),
            spec,
            options,
            name=f"{path}:{member}",
            size=archive.getinfo(member).file_size,
            identity={**FileStamp.of(path)._asdict(), "array": member},
        )


def _choose(archive: zipfile.ZipFile, spec: RowSpec, path: Path, column: str) -> str:
    """The array named by --column, or the only one that fits."""
    names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    fitting = []
    for name in names:
        with archive.open(f"{name}.npy") as stream, suppress(DenoiserError):
            read_header(stream, spec, name)
            fitting.append(name)
    return pick(
        fitting,
        column,
        received=f"{path} with the arrays {', '.join(names)}",
        expected=f"{spec.kind} of shape (N, {', '.join(map(str, spec.shape))})",
    )


def _damaged(name: str, why: object) -> MalformedError:
    return MalformedError(f"{name} does not read ({why})", expected="a whole file")
