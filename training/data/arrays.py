"""Image arrays from `.npz` and `.npy` files, checked and brought to uint8 (N, H, W, C)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.arrays import Bytes
from common.images import resize
from training.errors import DatasetError

LAYOUTS = (
    "arrays x_train (with x_test, y_train, y_test where they exist), images (with labels), or "
    "clean and noisy (with labels)"
)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a `.npz`; the one array of a `.npy` comes as `images`. Never unpickles."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"images": loaded}
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as exc:
        holds_objects = "Object arrays" in str(exc)
        raise DatasetError(
            f"{path.name!r} holds Python objects" if holds_objects else f"{path.name!r} is damaged",
            expected=f"a NumPy file of plain numbers, {LAYOUTS}",
            hint="Save it again with numpy.savez.",
        ) from exc


def array_names(path: Path) -> set[str]:
    """The names of the arrays in a `.npz`, which are not read; none where it is no zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()  # `read_arrays` will say what is wrong with it


def as_images(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Images as uint8 (N, H, W, C) in 0..255, C 1 or 3.

    Takes (N, H, W) and (N, H, W, C); uint8 or other integers in 0..255, bool, and floats in
    [0, 1]. Values that leave it open which of these is meant are refused.
    """
    channels_last = array.ndim == 4 and array.shape[3] in (1, 3)
    if array.ndim != 3 and not channels_last:
        raise DatasetError(
            f"the array {name!r} has the shape {array.shape}",
            expected="(N, H, W), (N, H, W, 1) or (N, H, W, 3), channels last",
        )
    if array.size == 0:
        raise DatasetError(f"the array {name!r} is empty", expected="images")
    images = array[..., None] if array.ndim == 3 else array
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    whole = np.issubdtype(images.dtype, np.integer)
    if not whole and not np.issubdtype(images.dtype, np.floating):
        raise DatasetError(
            f"the array {name!r} has the type {images.dtype}",
            expected="uint8 in 0..255 or floats in [0, 1]",
        )
    low, high = images.min(), images.max()
    if not (low >= 0 and (1 < high <= 255 if whole else high <= 1)):  # NaN fails, too
        raise DatasetError(
            f"the array {name!r} holds {images.dtype} from {low:g} to {high:g}",
            expected="integers in 0..255 (not only 0 and 1), floats in [0, 1] without NaN, or bool",
        )
    return images.astype(np.uint8) if whole else np.rint(images * 255).astype(np.uint8)


def as_labels(array: NDArray[Any] | None, name: str, count: int) -> NDArray[np.int64] | None:
    """Labels as int64 (count,), or None where there are none."""
    if array is None:
        return None
    flat = array.reshape(-1)
    if len(flat) != count or not np.issubdtype(flat.dtype, np.integer):
        raise DatasetError(
            f"the array {name!r} has the shape {array.shape} and the type {array.dtype}",
            expected=f"{count} whole numbers, one for each image",
        )
    return flat.astype(np.int64)


def resized(images: Bytes, size: tuple[int, int]) -> Bytes:
    """uint8 (N, H, W, C) stretched to another height and width, as `common.images` does it."""
    if images.shape[1:3] == size:
        return images
    result = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for image, target in zip(images, result, strict=True):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        target[...] = np.asarray(resize(picture, size, "stretch")).reshape(target.shape)
    return result
