"""pyarrow, when a bulk job asks for it: serving alone neither installs nor loads it."""

from __future__ import annotations

from math import prod
from typing import Any

from common.arrays import Array
from service.bulk.errors import ExtraMissingError


def load() -> Any:
    """The package pyarrow with its modules compute, csv, ipc and parquet.

    Raises:
        ExtraMissingError: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as exc:
        raise ExtraMissingError(
            f"no pyarrow ({exc})",
            expected="the extra `bulk` of pyproject.toml, which bulk jobs need",
            hint="Install it: pip install 'pyarrow>=21'.",
        ) from exc
    return pa


def numbers(values: Array) -> Any:
    """int64, uint8 or float32 (n), contiguous, as a column of the same bytes.

    `pyarrow.array` would first import pandas, where that is installed: a second for nothing.
    """
    pa = load()
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def lists(values: Array) -> Any:
    """uint8 or float32 (N, …), contiguous, as a column of N lists of the same bytes."""
    width = prod(values.shape[1:])
    return load().FixedSizeListArray.from_arrays(numbers(values.reshape(-1)), width)
