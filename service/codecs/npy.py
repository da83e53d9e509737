"""NumPy's .npy format: header first, so that nothing is allocated for a size that lies.

Format: numpy.lib.format (versions 1.0 to 3.0). Rows come as views of the body, without a copy.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from service.codecs.rows import Array, RowSpec
from service.errors import DtypeError, MalformedError

MAX_HEADER = 4096  # bytes of header text; two shapes and a dtype need some 128


def decode(body: bytes, spec: RowSpec) -> Array:
    """The array in `body`, as rows of `spec`: uint8 (images only) or float32, C order.

    Raises:
        MalformedError: not an npy file, or fewer or more bytes than its header says.
        DtypeError: another dtype or order. ShapeError: another shape.
    """
    stream = io.BytesIO(body)
    try:
        version = npy_format.read_magic(stream)
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER)
    except Exception as exc:  # numpy leaks tokenizer and syntax errors for hostile headers
        raise MalformedError(
            "a body that is not an npy file",
            expected="the bytes that numpy.save writes (format 1.0 or 2.0)",
            todo="Send numpy.save's output as it is, as application/x-npy.",
        ) from exc
    allowed = ("uint8", "float32") if spec.kind == "images" else ("float32",)
    if dtype.hasobject or dtype.name not in allowed or not dtype.isnative or fortran_order:
        order = ", Fortran order" if fortran_order else ""
        raise DtypeError(
            f"an npy array of dtype {dtype.str if dtype.names is None else 'struct'}{order}",
            expected=f"{' or '.join(allowed)}, little-endian, C order",
            todo="Save numpy.ascontiguousarray(array, dtype=numpy.float32).",
        )
    # math.prod of what is not zero: numpy refuses (0, 2**62, 8, 1) with an error of its own
    if (
        len(shape) > 8
        or any(type(side) is not int or side < 0 for side in shape)
        or (math.prod(side for side in shape if side) >= 2**48 and 0 in shape)
    ):
        raise MalformedError(
            "an npy header with an impossible shape",
            expected="a few sides, none of them negative",
            todo="Send numpy.save's output as it is, as application/x-npy.",
        )
    offset = stream.tell()
    needed = math.prod(shape) * dtype.itemsize
    if len(body) - offset != needed:
        raise MalformedError(
            f"an npy body with {len(body) - offset} bytes of data",
            expected=f"{needed} bytes for {dtype.name} {shape}",
            todo="Send the whole file, and one array only.",
        )
    return spec.conform(np.frombuffer(body, dtype, offset=offset).reshape(shape))


def encode(rows: Array) -> bytes:
    """`rows` as an npy file of format 1.0."""
    stream = io.BytesIO()
    header: dict[str, Any] = npy_format.header_data_from_array_1_0(rows)
    npy_format.write_array_header_1_0(stream, header)
    return b"".join((stream.getvalue(), np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data))
