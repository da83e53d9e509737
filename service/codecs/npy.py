"""NumPy's .npy format: the header's sizes are checked before anything is allocated.

Format: numpy.lib.format (versions 1.0 and 2.0). Rows are views of the body, without a copy.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from common.arrays import Array
from common.errors import DtypeError, MalformedError
from service.codecs.rows import RowSpec

_IMAGES = (np.dtype(np.uint8), np.dtype(np.float32))  # in native byte order
_LATENTS = (np.dtype(np.float32),)
MAX_HEADER = 4096  # bytes of header text; two shapes and a dtype need some 128


def decode(body: bytes, spec: RowSpec) -> Array:
    """The array in `body`, as rows of `spec`: uint8 (images only) or float32.

    Raises:
        MalformedError: not an npy file, or not as many bytes as its header says.
        DtypeError: another dtype, byte order or Fortran order. ShapeError: another shape.
    """
    shape, fortran_order, dtype, offset = _header(body[: _header_end(body)])
    allowed = _IMAGES if spec.kind == "images" else _LATENTS
    if dtype not in allowed or fortran_order:
        order = ", Fortran order" if fortran_order else ""
        raise DtypeError(
            f"an npy array of dtype {dtype.str if dtype.names is None else 'struct'}{order}",
            expected=f"{' or '.join(map(str, allowed))}, little-endian, C order",
            hint="Save numpy.ascontiguousarray(array, dtype=numpy.float32).",
        )
    expected = math.prod(shape) * dtype.itemsize
    if len(body) - offset != expected:
        raise MalformedError(
            f"an npy body with {len(body) - offset} bytes of data",
            expected=f"{expected} bytes for {dtype.name} {shape}",
            hint="Send the whole file, and one array only.",
        )
    return spec.conform(np.frombuffer(body, dtype, offset=offset).reshape(shape))


def encode(rows: Array) -> bytes:
    """`rows` as an npy file of format 1.0."""
    rows = np.ascontiguousarray(rows)
    return b"".join((_new_header(rows.dtype, rows.shape), rows.reshape(-1).view(np.uint8).data))


@lru_cache(maxsize=64)
def _new_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def _header_end(body: bytes) -> int:
    """Offset of the data: magic, version and header length are 10 or 12 bytes, then the header."""
    if body[6:8] == b"\x02\x00":
        return 12 + int.from_bytes(body[8:12], "little")
    return 10 + int.from_bytes(body[8:10], "little")


@lru_cache(maxsize=64)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and length of a header.

    Cached, since numpy parses it as Python source, which takes longer than the rest of a small
    request, and clients send the same header each time.
    """
    stream = io.BytesIO(head)
    try:
        if len(head) > MAX_HEADER:
            raise ValueError("header too long")
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[npy_format.read_magic(stream)]
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER)
    except Exception as exc:  # for invalid headers numpy also raises tokenizer and syntax errors
        raise MalformedError(
            "a body that is not an npy file",
            expected="the bytes that numpy.save writes (format 1.0 or 2.0)",
            hint="Send numpy.save's output as it is, as application/x-npy.",
        ) from exc
    # numpy's own error for a shape such as (0, 2**62, 8, 1) is not a clear one
    if (
        len(shape) > 8
        or any(type(side) is not int or side < 0 for side in shape)
        or (math.prod(side for side in shape if side) >= 2**48 and 0 in shape)
    ):
        raise MalformedError(
            "an npy header with an impossible shape",
            expected="at most 8 sides, none of them negative",
            hint="Send numpy.save's output as it is, as application/x-npy.",
        )
    return shape, fortran_order, dtype, stream.tell()
