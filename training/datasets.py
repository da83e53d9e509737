"""Where images come from, and how they are split into train, validation and test.

A source is a name (`digits`, `mnist`, `fashion-mnist`), a `.npz` or `.npy` file, or a folder of
pictures. A source's own test split is kept; otherwise one is cut. Splits come from a fixed seed,
not from the run's: two runs on the same data can be compared, since neither has trained on what
the other is tested on.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.arrays import LAYOUTS, as_images, as_labels, read_arrays, resized
from training.digits import load_digits_28
from training.errors import DatasetError
from training.imagefolder import load_folder

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

NAMES = ("digits", "mnist", "fashion-mnist")
SPLIT_SEED = 0
TEST_SHARE = 7  # one in seven is for the test, as in MNIST
VALIDATION_SHARE = 12  # then one in twelve for validation: 5,000 of MNIST's 60,000
FEWEST = 24


@dataclass(frozen=True)
class Dataset:
    """Images uint8 (N, H, W, C) in 0..255 in three separate splits; labels int64 (N,) or None."""

    name: str
    source: str  # "builtin", "file" or "folder"
    train: Images
    validation: Images
    test: Images
    train_labels: Labels | None = None
    validation_labels: Labels | None = None
    test_labels: Labels | None = None
    file_sha256: str | None = None  # of the .npz or .npy file that it came from

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.shape[1:]
        return height, width, channels

    def facts(self) -> dict[str, Any]:
        """What config.json says of the data: no machine path, but a hash of every split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "source": self.source,
            "image_shape": list(self.image_shape),
            "counts": {name: len(images) for name, images in splits.items()},
            "sha256": {name: _sha256(images) for name, images in splits.items()},
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
                do=f"pass --resize {fit}, or fewer --filters",
            )


class _Source(NamedTuple):
    """What a source gives, before the split."""

    kind: str  # "builtin", "file" or "folder"
    images: Images
    labels: Labels | None = None
    test: Images | None = None
    test_labels: Labels | None = None
    file_sha256: str | None = None


def load_dataset(source: str, *, resize: tuple[int, int] | None = None) -> Dataset:
    """The dataset that a name or a path stands for, split, at `resize` (height, width) if given."""
    if source == "digits":
        found = _Source("builtin", *load_digits_28())
    elif source in NAMES:
        found = _from_keras(source)
    elif Path(source).is_dir():
        found = _from_folder(Path(source), resize)
    elif Path(source).is_file() and Path(source).suffix in (".npz", ".npy"):
        found = _from_file(Path(source))
    else:
        raise DatasetError(
            f"dataset {source!r}" + (" (the file exists)" if Path(source).exists() else ""),
            expected=f"{', '.join(NAMES)}, or an existing .npz file, .npy file or folder",
            do="check the spelling and the path",
        )
    if resize:
        test = None if found.test is None else resized(found.test, resize)
        found = found._replace(images=resized(found.images, resize), test=test)
    return _split(Path(source).name, found)


def _from_keras(name: str) -> _Source:
    import keras

    module = keras.datasets.mnist if name == "mnist" else keras.datasets.fashion_mnist
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as exc:  # Keras raises a bare Exception when a download fails
        raise DatasetError(
            f"the download of {name} failed ({str(exc).splitlines()[0][:200]})",
            expected="a network, or an earlier download in ~/.keras/datasets",
            do=f"get a {name}.npz with the arrays x_train, y_train, x_test, y_test and pass "
            f"--dataset path/to/{name}.npz, or take the embedded --dataset digits",
        ) from exc
    train_labels, test_labels = y_train.astype(np.int64), y_test.astype(np.int64)
    return _Source("builtin", x_train[..., None], train_labels, x_test[..., None], test_labels)


def _from_file(path: Path) -> _Source:
    arrays = read_arrays(path)
    images_name, labels_name = (
        ("x_train", "y_train") if "x_train" in arrays else ("images", "labels")
    )
    if images_name not in arrays:
        raise DatasetError(
            f"{path.name!r} holds the arrays {', '.join(sorted(arrays)) or 'none'}",
            expected=LAYOUTS,
            do="rename them",
        )
    images = as_images(arrays[images_name], images_name)
    labels = as_labels(arrays.get(labels_name), labels_name, len(images))
    test = test_labels = None
    if images_name == "x_train" and "x_test" in arrays:
        test = as_images(arrays["x_test"], "x_test")
        test_labels = as_labels(arrays.get("y_test"), "y_test", len(test))
        _require_same_shape(images, test)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Source("file", images, labels, test, test_labels, digest)


def _from_folder(folder: Path, resize: tuple[int, int] | None) -> _Source:
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = (load_folder(folder / part, resize) for part in ("train", "test"))
        _require_same_shape(train.images, test.images)
        return _Source("folder", train.images, train.labels, test.images, test.labels)
    return _Source("folder", *load_folder(folder, resize))


def _require_same_shape(train: Images, test: Images) -> None:
    if train.shape[1:] != test.shape[1:]:
        raise DatasetError(
            f"training images {train.shape[1:]} and test images {test.shape[1:]}",
            expected="one shape (H, W, C)",
            do="make them alike",
        )


def _split(name: str, found: _Source) -> Dataset:
    """Cut the test split, where there is none, and then the validation split."""
    kind, images, labels, test, test_labels, file_sha256 = found
    if len(images) < FEWEST:
        raise DatasetError(
            f"{len(images)} images", expected=f"at least {FEWEST} to train with", do="add images"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    if test is None:
        held, order = np.split(order, [len(order) // TEST_SHARE])
        test, test_labels = images[held], _take(labels, held)
    held, order = np.split(order, [len(order) // VALIDATION_SHARE])
    return Dataset(
        name=name,
        source=kind,
        train=images[order],
        validation=images[held],
        test=test,
        train_labels=_take(labels, order),
        validation_labels=_take(labels, held),
        test_labels=test_labels,
        file_sha256=file_sha256,
    )


def _take(labels: Labels | None, indices: NDArray[np.int64]) -> Labels | None:
    return None if labels is None else labels[indices]


def _sha256(images: Images) -> str:
    """One hash over shape and values."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
