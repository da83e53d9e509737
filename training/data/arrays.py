"""Image arrays from `.npz` and `.npy` files, checked, and read as uint8 (N, H, W, C).

What is not compressed stays on disk: training reads the images of each batch.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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

BLOCK = 2**24  # bytes that are read at a time
MAX_SAMPLE = 2**26  # bytes in a sample of large images
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError)

Labels = NDArray[np.int64]


class Stored:
    """An array in a file, read part by part: each read maps the file anew and copies its part."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        with path.open("rb") as file:
            file.seek(offset)
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            self.shape, fortran, self.dtype = read_header(file)
            order = "F" if fortran else "C"
            self._map = partial(np.memmap, path, self.dtype, "r", file.tell(), self.shape, order)
        self._path, self._state = path, _state(path)
        if self.dtype.hasobject:
            raise ValueError("Object arrays cannot be mapped")
        if math.prod(self.shape):
            self._map()  # a ValueError where the file is too short

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Array:
        if _state(self._path) != self._state:
            raise DatasetError(f"{self._path.name!r} changed meanwhile", expected="the same file")
        return np.array(self._map()[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)


class Rows:
    """Images of an array in memory or on disk, chosen by index; uint8 (n, H, W, C) when read."""

    def __init__(self, source: Any, indices: NDArray[np.int64] | None = None) -> None:
        self._source = source
        self._indices = np.arange(len(source)) if indices is None else indices
        channels = source.shape[3] if len(source.shape) == 4 else 1
        self.shape: tuple[int, int, int, int] = (len(self), *source.shape[1:3], channels)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: Any) -> Bytes:
        if not isinstance(key, slice | np.ndarray):
            images: Bytes = self[:][key]
            return images
        return _to_bytes(self._source[self._indices[key]]).reshape(-1, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)

    def __iter__(self) -> Iterator[Bytes]:
        return (image for block in self.blocks() for image in block)

    def blocks(self) -> Iterator[Bytes]:
        """All images in order, about 16 MiB at a time."""
        step = max(1, BLOCK // math.prod(self.shape[1:]))
        yield from (self[start : start + step] for start in range(0, len(self), step))


class Part(NamedTuple):
    """Images of one split, or of a source that is still to be split.

    `images` and `noisy` are in the same order; `labels` are int64 (N,), or (N,) class names as
    long as not all splits are read.
    """

    images: Rows
    labels: Array | None = None
    noisy: Rows | None = None

    def take(self, indices: NDArray[np.int64]) -> Part:
        """The images at `indices`, with their labels and noisy partners; nothing is copied."""
        labels = None if self.labels is None else self.labels[indices]
        noisy = None if self.noisy is None else Rows(self.noisy, indices)
        return Part(Rows(self.images, indices), labels, noisy)

    def sample(self, maximum: int, rng: np.random.Generator, *, itemsize: int = 1) -> Part:
        """At most `maximum` of the images at random, in their own order.

        Of large ones there are fewer: 64 MiB, at `itemsize` bytes for each value.
        """
        fitting = max(1, MAX_SAMPLE // (itemsize * math.prod(self.images.shape[1:])))
        count = len(self.images)
        return self.take(np.sort(rng.choice(count, min(maximum, fitting, count), replace=False)))

    def resized(self, size: tuple[int, int]) -> Part:
        """All images at another height and width."""
        noisy = None if self.noisy is None else resized(self.noisy, size)
        return Part(resized(self.images, size), self.labels, noisy)


def read_arrays(path: Path) -> dict[str, Any]:
    """Every array of a `.npz`; the one array of a `.npy` is called `images`. Never unpickles.

    Arrays that are not compressed stay on disk, as `Stored`.
    """
    try:
        if not zipfile.is_zipfile(path):
            return {"images": Stored(path)}
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as loaded:
            return {
                info.filename.removesuffix(".npy"): _stored_in(archive, info)
                if info.compress_type == zipfile.ZIP_STORED
                else loaded[info.filename]
                for info in archive.infolist()
            }
    except (OSError, ValueError, EOFError, KeyError, AttributeError, *ZIP_ERRORS) as exc:
        holds_objects = "Object arrays" in str(exc)
        raise DatasetError(
            f"{path.name!r} holds Python objects" if holds_objects else f"{path.name!r} is damaged",
            expected=f"a NumPy file of plain numbers, {LAYOUTS}",
            hint="Save it again with numpy.savez.",
        ) from exc


def _stored_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Stored:
    """A member that is not compressed: its data follow a header of 30 bytes and two fields."""
    with archive.open(info) as member:
        while member.read(BLOCK):  # raises where the checksum is wrong
            pass
    path = Path(str(archive.filename))
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return Stored(path, info.header_offset + 30 + name + extra)


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def array_names(path: Path) -> set[str]:
    """The names of the arrays in a `.npz`, without reading them; none if it is no zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()  # `read_arrays` reports the error


def as_images(array: Any, name: str) -> Rows:
    """Images as uint8 (N, H, W, C) in 0..255, C 1 or 3.

    Takes (N, H, W) and (N, H, W, C); uint8 or other integers in 0..255, bool, and floats in
    [0, 1]. Values that fit more than one of these are refused.
    """
    shape, dtype = array.shape, array.dtype
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
        raise DatasetError(
            f"the array {name!r} has the shape {shape}",
            expected="(N, H, W), (N, H, W, 1) or (N, H, W, 3)",
            hint="Reshape it, channels last.",
        )
    if math.prod(shape) == 0:
        raise DatasetError(f"the array {name!r} is empty", expected="one image or more")
    if dtype.kind not in "buif":
        raise DatasetError(
            f"the array {name!r} has the type {dtype}",
            expected="uint8 in 0..255 or floats in [0, 1]",
        )
    step = max(1, BLOCK // (math.prod(shape[1:]) * dtype.itemsize))
    blocks = (array[start : start + step] for start in range(0, len(array), step))
    low, high = np.array([(block.min(), block.max()) for block in blocks]).T
    low, high = low.min(), high.max()
    whole = dtype.kind in "ui"
    # NaN fails, too
    if dtype.kind != "b" and not (low >= 0 and (1 < high <= 255 if whole else high <= 1)):
        raise DatasetError(
            f"the array {name!r} holds {dtype} from {low:g} to {high:g}",
            expected="integers in 0..255 (not only 0 and 1), floats in [0, 1] without NaN, or bool",
        )
    return Rows(array)


def _to_bytes(images: Array) -> Bytes:
    """What `as_images` accepts as uint8 of the same shape."""
    if images.dtype.kind == "f":
        images = np.rint(images * 255)
    elif images.dtype == np.bool_:
        images = images * np.uint8(255)
    return images.astype(np.uint8, copy=False)


def as_labels(array: Any, name: str, count: int) -> Labels | None:
    """Labels as int64 (count,), or None where there are none."""
    if array is None:
        return None
    flat = np.asarray(array).reshape(-1)
    if len(flat) != count or not np.issubdtype(flat.dtype, np.integer):
        raise DatasetError(
            f"the array {name!r} has the shape {array.shape} and the type {array.dtype}",
            expected=f"{count} whole numbers, one for each image",
            hint="Correct it or leave it out.",
        )
    return flat.astype(np.int64)


def resized(images: Rows, size: tuple[int, int]) -> Rows:
    """All images at another height and width, by the rule of common/images.py."""
    if images.shape[1:3] == size:
        return images
    result = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for image, place in zip(images, result, strict=True):
        pillow = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        place[...] = np.asarray(resize(pillow, size, "stretch")).reshape(place.shape)
    return Rows(result)
