"""Datasets: images from a name, a file or a folder, split into train, validation and test.

A source is a name (`digits`, `mnist`, `fashion-mnist`), a `.npz` or `.npy` file, or a folder of
image files; a file or a folder may hold pairs, each clean image with its own noisy one. A source's
own splits are kept; those that it lacks are cut from its training images. The cut has a fixed seed,
not the run's: no run trains on images that another run on the same data is tested on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.data.arrays import LAYOUTS, Part, Rows, as_images, as_labels, read_arrays
from training.data.digits import load_digits_28
from training.data.folders import Skipped, load_folder, split_folders
from training.data.pairs import (
    SIDES,
    holds_pairs,
    is_pair_folder,
    load_pair_folder,
    pairs_of_arrays,
)
from training.errors import DatasetError

LOG = logging.getLogger("denoiser.training")

NAMES = ("digits", "mnist", "fashion-mnist")
SPLIT_SEED = 0
TEST_SHARE = 7  # one image in seven, as in MNIST
VALIDATION_SHARE = 12  # one of the others in twelve: 5,000 of MNIST's 60,000
MIN_IMAGES = 24


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in three splits; the labels number the classes of all splits together."""

    name: str
    source: str  # "builtin", "file" or "folder"
    train: Part
    validation: Part
    test: Part
    file_sha256: str | None = None  # of the .npz or .npy file

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def facts(self) -> dict[str, Any]:
        """The data in config.json: a hash of every split, and no path of this machine."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        noisy = {f"{name}_noisy": p.noisy for name, p in splits.items() if p.noisy is not None}
        hashed = {name: part.images for name, part in splits.items()} | noisy
        return {
            "name": self.name,
            "source": self.source,
            "image_shape": list(self.image_shape),
            "counts": {name: len(part.images) for name, part in splits.items()},
            "sha256": {name: _sha256(images) for name, images in hashed.items()},
            "file_sha256": self.file_sha256,
        }

    def require_divisible(self, stride: int) -> None:
        """Refuse images whose sides the encoder's strides do not divide."""
        height, width, _ = self.image_shape
        if height % stride or width % stride:
            suggestion = "x".join(
                str(max(stride, round(side / stride) * stride)) for side in (height, width)
            )
            raise DatasetError(
                f"images of {height}x{width}",
                expected=f"a height and a width that {stride} divides",
                hint=f"Pass --resize {suggestion}, or fewer --filters.",
            )


class _Source(NamedTuple):
    """What a source provides, before it is split further."""

    kind: str  # "builtin", "file" or "folder"
    train: Part
    test: Part | None = None
    validation: Part | None = None
    file_sha256: str | None = None


def load_dataset(source: str, *, resize: tuple[int, int] | None = None) -> Dataset:
    """The dataset of a name or a path, split, at `resize` (height, width) if given."""
    path = Path(source)
    if source == "digits":
        images, labels = load_digits_28()
        loaded = _Source("builtin", Part(Rows(images), labels))
    elif source in NAMES:
        loaded = _from_keras(source)
    elif path.is_dir():
        loaded = _from_folder(path, resize)
    elif path.is_file() and path.suffix in (".npz", ".npy"):
        loaded = _from_file(path)
    else:
        raise DatasetError(
            f"dataset {source!r}" + (" (the file exists)" if path.exists() else ""),
            expected=f"{', '.join(NAMES)}, or an existing .npz file, .npy file or folder",
        )
    if resize and loaded.kind != "folder":
        test = loaded.test.resized(resize) if loaded.test else None
        loaded = loaded._replace(train=loaded.train.resized(resize), test=test)
    return _split(path.name, loaded)


def has_own_noise(source: str) -> bool:
    """Whether a dataset's name or path stands for pairs; reads no image."""
    return source not in NAMES and holds_pairs(Path(source))


def _from_keras(name: str) -> _Source:
    import keras
    from keras.src.backend import config

    module = keras.datasets.mnist if name == "mnist" else keras.datasets.fashion_mnist
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)  # else Keras takes /tmp, where anyone writes
        config._KERAS_DIR = str(home)  # see `training.backend`
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as exc:  # Keras raises a bare Exception when a download fails
        raise DatasetError(
            f"the download of {name} failed ({str(exc).splitlines()[0][:200]})",
            expected="a network, or an earlier download in ~/.keras/datasets",
            hint="Download a file with the arrays x_train, y_train, x_test and y_test and pass "
            f"--dataset path/to/{name}.npz, or pass the embedded --dataset digits.",
        ) from exc
    train = Part(Rows(x_train), y_train.astype(np.int64))
    return _Source("builtin", train, Part(Rows(x_test), y_test.astype(np.int64)))


def _from_file(path: Path) -> _Source:
    arrays = read_arrays(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if arrays.keys() >= set(SIDES):
        return _Source("file", pairs_of_arrays(arrays), file_sha256=digest)
    names = ("x_train", "y_train") if "x_train" in arrays else ("images", "labels")
    if names[0] not in arrays:
        raise DatasetError(
            f"{path.name!r} holds the arrays {', '.join(sorted(arrays)) or 'none'}",
            expected=LAYOUTS,
        )
    train, test = _part_of(arrays, *names), None
    if names[0] == "x_train" and "x_test" in arrays:
        test = _part_of(arrays, "x_test", "y_test")
        _require_one_shape(train, test)
    return _Source("file", train, test, file_sha256=digest)


def _part_of(arrays: dict[str, Any], images_name: str, labels_name: str) -> Part:
    images = as_images(arrays[images_name], images_name)
    return Part(images, as_labels(arrays.get(labels_name), labels_name, len(images)))


def _from_folder(folder: Path, resize: tuple[int, int] | None) -> _Source:
    splits = split_folders(folder)
    folders = splits or {"train": folder}
    pairs = {is_pair_folder(path) for path in folders.values()}
    if len(pairs) > 1:
        raise DatasetError(
            f"pairs in only some of {', '.join(path.name for path in folders.values())} of "
            f"{folder.name!r}",
            expected="clean/ and noisy/ in each of them, or in none",
        )
    load = load_pair_folder if pairs == {True} else load_folder
    skipped = Skipped()
    parts = {split: load(path, resize, skipped) for split, path in folders.items()}
    if splits:
        visible = {path for path in folder.iterdir() if not path.name.startswith(".")}
        skipped["files and folders beside the splits"] += len(visible - {*splits.values()})
    _require_one_shape(*parts.values())
    if +skipped:
        counts = ", ".join(f"{what} ({count:,})" for what, count in sorted((+skipped).items()))
        LOG.info("not read from %s: %s", folder.name, counts)
    parts = _numbered(parts)
    return _Source("folder", parts["train"], parts.get("test"), parts.get("validation"))


def _numbered(parts: dict[str, Part]) -> dict[str, Part]:
    """Class names replaced by their places among the sorted names of all splits."""
    names = [part.labels for part in parts.values() if part.labels is not None]
    classes = np.unique(np.concatenate(names)) if names else np.empty(0, str)

    def numbered(part: Part) -> Part:
        if part.labels is None:
            return part
        return part._replace(labels=np.searchsorted(classes, part.labels).astype(np.int64))

    return {split: numbered(part) for split, part in parts.items()}


def _require_one_shape(train: Part, *others: Part) -> None:
    for other in others:
        if train.images.shape[1:] != other.images.shape[1:]:
            raise DatasetError(
                f"training images {train.images.shape[1:]} and others {other.images.shape[1:]}",
                expected="one shape (H, W, C)",
            )


def _split(name: str, source: _Source) -> Dataset:
    """Cut the test and the validation split from the training images where they are missing."""
    train, validation, test = source.train, source.validation, source.test
    count = len(train.images)
    if count < MIN_IMAGES:
        raise DatasetError(f"{count} images", expected=f"at least {MIN_IMAGES} to train with")
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    if test is None:
        held, order = np.split(order, [len(order) // TEST_SHARE])
        test = train.take(held)
    if validation is None:
        held, order = np.split(order, [len(order) // VALIDATION_SHARE])
        validation = train.take(held)
    train = train.take(order)
    return Dataset(name, source.kind, train, validation, test, source.file_sha256)


def _sha256(images: Rows) -> str:
    """One hash over shape and values."""
    digest = hashlib.sha256(str(images.shape).encode())
    for block in images.blocks():
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()
