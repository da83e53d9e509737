"""Checks of the engine's inputs: dtype, shape and values, before any model sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.arrays import Array, to_floats
from common.errors import DtypeError, RangeError, ShapeError
from service.bundle import Manifest

# Native byte order only: ONNX Runtime would read the bytes of others as they lie.
_IMAGE_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.float32))
_BITS_OF_ONE = int(np.float32(1).view(np.uint32))
_LATENT_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.float32),)


def check_rows(kind: str, rows: Array, manifest: Manifest) -> None:
    """Refuse "images" or "latents" of the wrong dtype or shape.

    Raises:
        DtypeError, ShapeError.
    """
    row: tuple[int, ...] = manifest.image_shape
    dtypes = _IMAGE_DTYPES
    if kind == "latents":
        row, dtypes = (manifest.latent_size,), _LATENT_DTYPES
    if not isinstance(rows, np.ndarray) or rows.dtype not in dtypes:
        dtype = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        raise DtypeError(
            f"{kind} of dtype {dtype}",
            expected=f"a numpy array of {' or '.join(map(str, dtypes))}",
            hint="Convert them first, for example with .astype(numpy.float32).",
        )
    if rows.shape[1:] != row or rows.ndim != len(row) + 1:
        expected = ", ".join(["N", *map(str, row)])
        raise ShapeError(
            f"{kind} of shape {rows.shape}",
            expected=f"({expected})",
            hint="Add the batch and channel axes, or resize the images."
            if kind == "images"
            else "Send latents that this model's encoder made.",
        )


def check_dtype(dtype: str) -> None:
    """Refuse an image dtype other than float32 and uint8."""
    if dtype not in ("float32", "uint8"):
        raise DtypeError(f"a result of dtype {dtype}", expected="float32 or uint8")


def check_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that the result cannot be written to as it is.

    Raises:
        DtypeError, ShapeError.
    """
    if not isinstance(out, np.ndarray) or out.dtype != dtype or not out.flags.writeable:
        kind = type(out).__name__
        if isinstance(out, np.ndarray):
            kind = f"{out.dtype}" if out.flags.writeable else "read-only array"
        raise DtypeError(
            f"a {kind} as out",
            expected=f"a writable numpy array of {dtype}",
            hint="Make one with numpy.empty, or do not pass out.",
        )
    if out.shape != shape:
        raise ShapeError(
            f"out of shape {out.shape}",
            expected=f"{shape}, the result's",
            hint="Make it as long as the input, or do not pass out.",
        )


def unit_images(chunk: Array) -> Array:
    """uint8 or float32 images as contiguous float32 in [0, 1], checked."""
    if chunk.dtype == np.uint8:
        return to_floats(chunk)
    rows = np.ascontiguousarray(chunk)
    # The bits of the floats from 0 to 1 are the integers up to those of 1: one pass, less than
    # half the time of two comparisons. Beyond lie NaN, every other number, and -0, which is one.
    if rows.view(np.uint32).max(initial=0) > _BITS_OF_ONE and not (
        rows.min() >= 0 and rows.max() <= 1
    ):
        raise RangeError(
            f"float32 images with values from {rows.min():g} to {rows.max():g}",
            expected="numbers in [0, 1]",
            hint="Divide by 255 or send uint8, clip after adding noise, and replace NaN.",
        )
    return rows


def finite_latents(chunk: Array) -> Array:
    """float32 latents as a contiguous array, checked for NaN and infinity."""
    if not np.isfinite(chunk).all():
        raise RangeError(
            "latents with NaN or infinity",
            expected="finite numbers",
        )
    return np.ascontiguousarray(chunk)
