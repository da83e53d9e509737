"""What a run keeps of its data, so that its export can say what is usual.

`reference.npz` holds images that the model was trained on and validation images that it was not.
They are clean, and export adds the run's noise to them; where the data are pairs, each
has its own noisy image beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.datasets import Dataset

TRAIN = 10_000  # images at most: 8 MB of MNIST, 2 when compressed
VALIDATION = 5_000
MAX_BYTES = 64 << 20  # of large images there are fewer
SEED = 30_000  # one for all runs, like those of the splits and of the noise they are measured by

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Reference:
    """Images uint8 (N, H, W, C) in 0..255; noisy ones in the order of their clean ones, or None."""

    train: Images
    validation: Images
    train_noisy: Images | None = None
    validation_noisy: Images | None = None


def draw_reference(dataset: Dataset) -> Reference:
    """Some of the training and validation images, from all over each, in their own order."""
    rng = np.random.default_rng(SEED)
    fitting = max(1, MAX_BYTES // math.prod(dataset.image_shape))
    train, validation = (
        np.sort(rng.choice(len(images), min(most, fitting, len(images)), replace=False))
        for images, most in ((dataset.train, TRAIN), (dataset.validation, VALIDATION))
    )
    return Reference(
        dataset.train[train],
        dataset.validation[validation],
        None if dataset.train_noisy is None else dataset.train_noisy[train],
        None if dataset.validation_noisy is None else dataset.validation_noisy[validation],
    )


def write_reference(path: Path, reference: Reference) -> None:
    """All arrays that are there, by the names of the fields."""
    arrays = {name: images for name, images in vars(reference).items() if images is not None}
    np.savez_compressed(path, **arrays)


def read_reference(path: Path, image_shape: tuple[int, int, int]) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        ValueError: arrays of another kind or shape. Whatever numpy raises for a damaged file.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    reference = Reference(**found)
    for clean, noisy in (
        (reference.train, reference.train_noisy),
        (reference.validation, reference.validation_noisy),
    ):
        for images in (clean, clean if noisy is None else noisy):
            if images.dtype != np.uint8 or images.shape != (len(clean), *image_shape):
                raise ValueError(f"{images.dtype} {images.shape}, where images are {image_shape}")
    return reference
