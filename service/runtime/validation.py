"""Checks of the engine's input: dtype, shape and values, before any model runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.arrays import Array, Floats, to_floats
from common.errors import DtypeError, RangeError, ShapeError
from service.bundle import Manifest

# Native byte order only: ONNX Runtime would read the bytes of another as if they were native.
_DTYPES: dict[str, tuple[np.dtype[Any], ...]] = {
    "images": (np.dtype(np.uint8), np.dtype(np.float32)),
    "latents": (np.dtype(np.float32),),
}
_BITS_OF_ONE = int(np.float32(1).view(np.uint32))


def checked_rows(name: str, rows: Array | None, manifest: Manifest) -> Array:
    """`rows` as they are; "images" or "latents" of the wrong dtype or shape are refused.

    Raises:
        DtypeError, ShapeError.
    """
    row_shape = manifest.row_shape(name)
    if not isinstance(rows, np.ndarray) or rows.dtype not in _DTYPES[name]:
        dtype = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        raise DtypeError(
            f"{name} of dtype {dtype}",
            expected=f"a numpy array of {' or '.join(map(str, _DTYPES[name]))}",
            hint="Convert them first, for example with .astype(numpy.float32).",
        )
    if rows.shape[1:] != row_shape or rows.ndim != len(row_shape) + 1:
        raise ShapeError(
            f"{name} of shape {rows.shape}",
            expected=f"({', '.join(['N', *map(str, row_shape)])})",
            hint="Add the batch and channel axes, or resize the images."
            if name == "images"
            else "Send latents of this model's encoder.",
        )
    return rows


def check_image_dtype(dtype: str) -> None:
    """Refuse a dtype that the engine does not return images in."""
    if dtype not in ("float32", "uint8"):
        raise DtypeError(f"images requested as {dtype}", expected="float32 or uint8")


def check_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an `out` array that a result of that shape and dtype cannot be written to.

    Raises:
        DtypeError, ShapeError.
    """
    if not isinstance(out, np.ndarray) or out.dtype != dtype or not out.flags.writeable:
        received = type(out).__name__
        if isinstance(out, np.ndarray):
            received = f"{out.dtype} array" if out.flags.writeable else "read-only array"
        raise DtypeError(
            f"{received} as out",
            expected=f"a writable numpy array of {dtype}",
            hint="Create one with numpy.empty, or omit out.",
        )
    if out.shape != shape:
        raise ShapeError(
            f"out of shape {out.shape}",
            expected=f"{shape}, the shape of the result",
            hint="Make it as long as the input, or omit out.",
        )


def unit_images(chunk: Array) -> Floats:
    """uint8 or float32 images as contiguous float32 in [0, 1], checked."""
    if chunk.dtype == np.uint8:
        return to_floats(chunk)
    rows: Floats = np.ascontiguousarray(chunk)
    # Read as integers, the floats from 0 to 1 are the numbers up to the bits of 1: one pass, less
    # than half the time of two comparisons. NaN, all other numbers and -0, which is valid, are
    # above.
    if rows.view(np.uint32).max(initial=0) > _BITS_OF_ONE and not (
        rows.min() >= 0 and rows.max() <= 1
    ):
        raise RangeError(
            f"float32 images with values from {rows.min():g} to {rows.max():g}",
            expected="numbers in [0, 1]",
            hint="Divide by 255 or send uint8, clip after adding noise, and replace NaN.",
        )
    return rows


def finite_latents(chunk: Array) -> Floats:
    """float32 latents as a contiguous array, checked for NaN and infinity."""
    if not np.isfinite(chunk).all():
        raise RangeError(
            "latents with NaN or infinity",
            expected="finite numbers",
            hint="Find them with numpy.isfinite.",
        )
    return np.ascontiguousarray(chunk)
