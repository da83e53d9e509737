"""Where images come from, and how they are split into train, validation and test.

A source is a name (`digits`, `mnist`, `fashion-mnist`), a `.npz` or `.npy` file, or a folder of
pictures; a file or a folder may hold pairs, each clean image with its own noisy one. A source's
own test and validation splits are kept (folders `train/`, `val/`, `test/`); others are drawn from
a fixed seed, not the run's: two runs on the same data can be compared, since neither has trained
on the other's test images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.arrays import LAYOUTS, as_images, as_labels, read_arrays, resized
from training.data.digits import load_digits_28
from training.data.folders import load_folder
from training.data.pairs import (
    SIDES,
    holds_pairs,
    is_pair_folder,
    load_pair_folder,
    pairs_of_arrays,
    split_folders,
)
from training.errors import DatasetError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

NAMES = ("digits", "mnist", "fashion-mnist")
SPLIT_SEED = 0
TEST_SHARE = 7  # one in seven is for the test, as in MNIST
VALIDATION_SHARE = 12  # then one in twelve for validation: 5,000 of MNIST's 60,000
MIN_IMAGES = 24


@dataclass(frozen=True)
class Dataset:
    """Images uint8 (N, H, W, C) in 0..255 in three separate splits; labels int64 (N,) or None.

    Where the data are pairs, each split has its noisy images, in the order of its clean ones.
    """

    name: str
    source: str  # "builtin", "file" or "folder"
    train: Images
    validation: Images
    test: Images
    train_labels: Labels | None = None
    validation_labels: Labels | None = None
    test_labels: Labels | None = None
    train_noisy: Images | None = None
    validation_noisy: Images | None = None
    test_noisy: Images | None = None
    file_sha256: str | None = None  # of the .npz or .npy file that was read

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.shape[1:]
        return height, width, channels

    def facts(self) -> dict[str, Any]:
        """What config.json says of the data: no machine path, but a hash of every split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        noisy = {
            "train_noisy": self.train_noisy,
            "validation_noisy": self.validation_noisy,
            "test_noisy": self.test_noisy,
        }
        given = {name: images for name, images in noisy.items() if images is not None}
        return {
            "name": self.name,
            "source": self.source,
            "image_shape": list(self.image_shape),
            "counts": {name: len(images) for name, images in splits.items()},
            "sha256": {name: _sha256(images) for name, images in (splits | given).items()},
            "file_sha256": self.file_sha256,
        }

    def require_divisible(self, stride: int) -> None:
        """Refuse images whose sides the encoder's strides do not divide."""
        height, width, _ = self.image_shape
        if height % stride or width % stride:
            fit = "x".join(
                str(max(stride, round(side / stride) * stride)) for side in (height, width)
            )
            raise DatasetError(
                f"images of {height}x{width}",
                expected=f"a height and a width that {stride} divides",
                hint=f"Pass --resize {fit}, or fewer --filters.",
            )


class _Part(NamedTuple):
    """Images that belong to one split, or to none yet."""

    images: Images
    labels: Labels | None = None
    noisy: Images | None = None  # in the order of the images

    def take(self, indices: NDArray[np.int64]) -> _Part:
        """The part at these indices, labels and noisy partners included."""
        return _Part(
            self.images[indices],
            None if self.labels is None else self.labels[indices],
            None if self.noisy is None else self.noisy[indices],
        )

    def resized(self, size: tuple[int, int]) -> _Part:
        """All of them at another height and width."""
        noisy = None if self.noisy is None else resized(self.noisy, size)
        return _Part(resized(self.images, size), self.labels, noisy)


class _Source(NamedTuple):
    """What a source gives, before the split."""

    kind: str  # "builtin", "file" or "folder"
    train: _Part
    test: _Part | None = None
    validation: _Part | None = None
    file_sha256: str | None = None


def load_dataset(source: str, *, resize: tuple[int, int] | None = None) -> Dataset:
    """The dataset that a name or a path stands for, split, at `resize` (height, width) if given."""
    if source == "digits":
        loaded = _Source("builtin", _Part(*load_digits_28()))
    elif source in NAMES:
        loaded = _from_keras(source)
    elif Path(source).is_dir():
        loaded = _from_folder(Path(source), resize)
    elif Path(source).is_file() and Path(source).suffix in (".npz", ".npy"):
        loaded = _from_file(Path(source))
    else:
        raise DatasetError(
            f"dataset {source!r}" + (" (the file exists)" if Path(source).exists() else ""),
            expected=f"{', '.join(NAMES)}, or an existing .npz file, .npy file or folder",
        )
    if resize:
        parts = {name: getattr(loaded, name) for name in ("train", "validation", "test")}
        at_size = {name: part and part.resized(resize) for name, part in parts.items()}
        loaded = loaded._replace(**at_size)
    return _split(Path(source).name, loaded)


def has_own_noise(source: str) -> bool:
    """Whether a dataset's name or path stands for pairs; reads no image."""
    return source not in NAMES and holds_pairs(Path(source))


def _from_keras(name: str) -> _Source:
    import keras

    module = keras.datasets.mnist if name == "mnist" else keras.datasets.fashion_mnist
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as exc:  # Keras raises a bare Exception when a download fails
        raise DatasetError(
            f"the download of {name} failed ({str(exc).splitlines()[0][:200]})",
            expected="a network, or an earlier download in ~/.keras/datasets",
            hint=f"Get a {name}.npz with the arrays x_train, y_train, x_test, y_test and pass "
            f"--dataset path/to/{name}.npz, or use the embedded --dataset digits.",
        ) from exc
    train = _Part(x_train[..., None], y_train.astype(np.int64))
    return _Source("builtin", train, _Part(x_test[..., None], y_test.astype(np.int64)))


def _from_file(path: Path) -> _Source:
    arrays = read_arrays(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if arrays.keys() >= set(SIDES):
        pairs = pairs_of_arrays(arrays)
        return _Source(
            "file", _Part(pairs.clean, _numbers(pairs.classes), pairs.noisy), file_sha256=digest
        )
    names = ("x_train", "y_train") if "x_train" in arrays else ("images", "labels")
    if names[0] not in arrays:
        raise DatasetError(
            f"{path.name!r} holds the arrays {', '.join(sorted(arrays)) or 'none'}",
            expected=LAYOUTS,
        )
    train, test = _part_of(arrays, *names), None
    if names[0] == "x_train" and "x_test" in arrays:
        test = _part_of(arrays, "x_test", "y_test")
        _require_same_shape(train, test)
    return _Source("file", train, test, file_sha256=digest)


def _part_of(arrays: dict[str, NDArray[Any]], images_name: str, labels_name: str) -> _Part:
    images = as_images(arrays[images_name], images_name)
    return _Part(images, as_labels(arrays.get(labels_name), labels_name, len(images)))


def _from_folder(folder: Path, resize: tuple[int, int] | None) -> _Source:
    splits = split_folders(folder)
    if not splits:
        return _Source("folder", _read_folders([folder], resize)[0])
    if len({is_pair_folder(path) for path in splits.values()}) > 1:
        names = "/, ".join(path.name for path in splits.values())
        raise DatasetError(
            f"pairs in only some of {names}/ of {folder.name!r}",
            expected="clean/ and noisy/ in all of them, or in none",
        )
    parts = dict(zip(splits, _read_folders([*splits.values()], resize), strict=True))
    for part in parts.values():
        _require_same_shape(parts["train"], part)
    return _Source("folder", parts["train"], parts.get("test"), parts.get("validation"))


def _read_folders(folders: list[Path], resize: tuple[int, int] | None) -> list[_Part]:
    """The parts in these folders, with one numbering of the classes for all of them."""
    loaded = [
        load_pair_folder(folder, resize) if is_pair_folder(folder) else load_folder(folder, resize)
        for folder in folders
    ]
    classes = [part.classes for part in loaded]
    known = sorted({name for names in classes if names is not None for name in names})
    numbers = {name: number for number, name in enumerate(known)}
    return [
        _Part(part[0], _numbers(part.classes, numbers), part[2] if len(part) > 2 else None)
        for part in loaded
    ]


def _numbers(classes: Any, numbers: Mapping[str, int] | None = None) -> Labels | None:
    """Class names as their numbers; labels of a file stay as they are."""
    if classes is None or numbers is None:
        return classes if classes is None else np.asarray(classes, np.int64)
    return np.array([numbers[name] for name in classes], np.int64)


def _require_same_shape(train: _Part, test: _Part) -> None:
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DatasetError(
            f"training images {train.images.shape[1:]} and others {test.images.shape[1:]}",
            expected="one shape (H, W, C)",
        )


def _split(name: str, source: _Source) -> Dataset:
    """Draw the test split, then the validation split, from the training images where missing."""
    part, test, validation = source.train, source.test, source.validation
    count = len(part.images)
    if count < MIN_IMAGES:
        raise DatasetError(f"{count} images", expected=f"at least {MIN_IMAGES} to train with")
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    if test is None:
        held, order = np.split(order, [len(order) // TEST_SHARE])
        test = part.take(held)
    if validation is None:
        held, order = np.split(order, [len(order) // VALIDATION_SHARE])
        validation = part.take(held)
    train = part.take(order)
    return Dataset(
        name=name,
        source=source.kind,
        train=train.images,
        validation=validation.images,
        test=test.images,
        train_labels=train.labels,
        validation_labels=validation.labels,
        test_labels=test.labels,
        train_noisy=train.noisy,
        validation_noisy=validation.noisy,
        test_noisy=test.noisy,
        file_sha256=source.file_sha256,
    )


def _sha256(images: Images) -> str:
    """One hash over shape and values."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
