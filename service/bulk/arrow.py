"""pyarrow, imported at first use: `arrow.table` is `pyarrow.table`, and so on.

Serving and `info` on a bundle neither need nor import it.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

from common.arrays import Array
from service.bulk.errors import ExtraMissingError


@cache
def load() -> Any:
    """The package pyarrow with its modules; `ExtraMissingError` if it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.fs
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as exc:
        raise ExtraMissingError.of("pyarrow", "bulk", exc) from exc
    return pa


def __getattr__(name: str) -> Any:
    """Every other name is pyarrow's (PEP 562)."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(load(), name)


def numbers(values: Array) -> Any:
    """int64, uint8 or float32 (n), contiguous, as an Arrow array of the same memory.

    `pyarrow.array` would import pandas where that is installed, which takes a second.
    """
    pa = load()
    dtype = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(dtype, len(values), [None, pa.py_buffer(values)])


def lists(values: Array) -> Any:
    """uint8 or float32 (N, …), contiguous, as an Arrow array of N lists of the same memory."""
    width = prod(values.shape[1:])
    return load().FixedSizeListArray.from_arrays(numbers(values.reshape(-1)), width)
