"""Image arrays from `.npz` and `.npy` files, checked and brought to uint8 (N, H, W, C)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.arrays import Array, Bytes
from common.images import resize
from training.errors import DatasetError

LAYOUTS = (
    "arrays x_train (with x_test, y_train, y_test where they exist), images (with labels), or "
    "clean and noisy (with labels)"
)

Labels = NDArray[np.int64]


class Part(NamedTuple):
    """Images of one split, or of a source that is still to be split.

    `images` and `noisy` are uint8 (N, H, W, C) in the same order; `labels` are int64 (N,), or
    (N,) class names as long as not all splits are read.
    """

    images: Bytes
    labels: Array | None = None
    noisy: Bytes | None = None

    def take(self, indices: NDArray[np.int64]) -> Part:
        """The images at `indices`, with their labels and noisy partners."""
        labels = None if self.labels is None else self.labels[indices]
        noisy = None if self.noisy is None else self.noisy[indices]
        return Part(self.images[indices], labels, noisy)

    def sample(self, maximum: int, rng: np.random.Generator) -> Part:
        """At most `maximum` of the images at random, in their own order."""
        count = len(self.images)
        return self.take(np.sort(rng.choice(count, min(maximum, count), replace=False)))

    def resized(self, size: tuple[int, int]) -> Part:
        """All images at another height and width."""
        noisy = None if self.noisy is None else resized(self.noisy, size)
        return Part(resized(self.images, size), self.labels, noisy)


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of a `.npz`; the one array of a `.npy` is called `images`. Never unpickles."""
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
    """The names of the arrays in a `.npz`, without reading them; none if it is no zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()  # `read_arrays` reports the error


def as_images(array: Array, name: str) -> Bytes:
    """Images as uint8 (N, H, W, C) in 0..255, C 1 or 3.

    Takes (N, H, W) and (N, H, W, C); uint8 or other integers in 0..255, bool, and floats in
    [0, 1]. Values that fit more than one of these are refused.
    """
    channels_last = array.ndim == 4 and array.shape[3] in (1, 3)
    if array.ndim != 3 and not channels_last:
        raise DatasetError(
            f"the array {name!r} has the shape {array.shape}",
            expected="(N, H, W), (N, H, W, 1) or (N, H, W, 3)",
            hint="Reshape it, channels last.",
        )
    if array.size == 0:
        raise DatasetError(f"the array {name!r} is empty", expected="one image or more")
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


def as_labels(array: Array | None, name: str, count: int) -> Labels | None:
    """Labels as int64 (count,), or None where there are none."""
    if array is None:
        return None
    flat = array.reshape(-1)
    if len(flat) != count or not np.issubdtype(flat.dtype, np.integer):
        raise DatasetError(
            f"the array {name!r} has the shape {array.shape} and the type {array.dtype}",
            expected=f"{count} whole numbers, one for each image",
            hint="Correct it or leave it out.",
        )
    return flat.astype(np.int64)


def resized(images: Bytes, size: tuple[int, int]) -> Bytes:
    """uint8 (N, H, W, C) at another height and width, by the rule of common/images.py."""
    if images.shape[1:3] == size:
        return images
    result = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for image, place in zip(images, result, strict=True):
        pillow = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        place[...] = np.asarray(resize(pillow, size, "stretch")).reshape(place.shape)
    return result
