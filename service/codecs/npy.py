"""NumPy's .npy format: header first, so that nothing is allocated for a size that lies.

Format: numpy.lib.format (versions 1.0 and 2.0). Rows come as views of the body, without a copy.
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

_IMAGES = (np.dtype(np.uint8), np.dtype(np.float32))  # native order: others compare unequal
_LATENTS = (np.dtype(np.float32),)
MAX_HEADER = 4096  # bytes of header text; two shapes and a dtype need some 128


def decode(body: bytes, spec: RowSpec) -> Array:
    """The array in `body`, as rows of `spec`: uint8 (images only) or float32, C order.

    Raises:
        MalformedError: not an npy file, or fewer or more bytes than its header says.
        DtypeError: another dtype or order. ShapeError: another shape.
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
    needed = math.prod(shape) * dtype.itemsize
    if len(body) - offset != needed:
        raise MalformedError(
            f"an npy body with {len(body) - offset} bytes of data",
            expected=f"{needed} bytes for {dtype.name} {shape}",
            hint="Send the whole file, and one array only.",
        )
    return spec.conform(np.frombuffer(body, dtype, offset=offset).reshape(shape))


def encode(rows: Array) -> bytes:
    """`rows` as an npy file of format 1.0."""
    rows = np.ascontiguousarray(rows)
    return b"".join((_made_header(rows.dtype, rows.shape), rows.reshape(-1).view(np.uint8).data))


@lru_cache(maxsize=64)
def _made_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _header_end(body: bytes) -> int:
    """Where the data begins: magic, version and length come first, in 10 bytes or 12."""
    if body[6:8] == b"\x02\x00":
        return 12 + int.from_bytes(body[8:12], "little")
    return 10 + int.from_bytes(body[8:10], "little")


@lru_cache(maxsize=64)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and length of a header; numpy parses it as Python source.

    That takes longer than a small array's whole journey, and clients send the same one each time.
    """
    stream = io.BytesIO(head)
    try:
        if len(head) > MAX_HEADER:
            raise ValueError("a longer header than any array needs")
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[npy_format.read_magic(stream)]
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER)
    except Exception as exc:  # numpy leaks tokenizer and syntax errors for hostile headers
        raise MalformedError(
            "a body that is not an npy file",
            expected="the bytes that numpy.save writes (format 1.0 or 2.0)",
            hint="Send numpy.save's output as it is, as application/x-npy.",
        ) from exc
    # math.prod of what is not zero: numpy refuses (0, 2**62, 8, 1) with an error of its own
    if (
        len(shape) > 8
        or any(type(side) is not int or side < 0 for side in shape)
        or (math.prod(side for side in shape if side) >= 2**48 and 0 in shape)
    ):
        raise MalformedError(
            "an npy header with an impossible shape",
            expected="a few sides, none of them negative",
            hint="Send numpy.save's output as it is, as application/x-npy.",
        )
    return shape, fortran_order, dtype, stream.tell()
