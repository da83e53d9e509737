"""Samples of a run's data, by which export calibrates the novelty score.

`reference.npz` holds clean images that the model was trained on, and validation images that it was
not. Export corrupts them anew with the run's noise; of pairs it also holds their own noisy images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.arrays import Bytes
from training.data.datasets import Dataset

MAX_TRAIN = 10_000  # images: 8 MB of MNIST, 2 MB compressed
MAX_VALIDATION = 5_000
SEED = 30_000  # one for all runs


@dataclass(frozen=True, eq=False)
class Reference:
    """Images uint8 (N, H, W, C) in 0..255; noisy ones in the order of their clean ones, or None."""

    train: Bytes
    validation: Bytes
    train_noisy: Bytes | None = None
    validation_noisy: Bytes | None = None


def draw_reference(dataset: Dataset) -> Reference:
    """A random choice of the training and of the validation images, each in its own order."""
    rng = np.random.default_rng(SEED)
    train, validation = (
        part.sample(maximum, rng)
        for part, maximum in ((dataset.train, MAX_TRAIN), (dataset.validation, MAX_VALIDATION))
    )
    noisy = (None if part.noisy is None else part.noisy[:] for part in (train, validation))
    return Reference(train.images[:], validation.images[:], *noisy)


def write_reference(path: Path, reference: Reference) -> None:
    """Write the arrays that exist, under the names of the fields."""
    arrays = {name: images for name, images in vars(reference).items() if images is not None}
    np.savez_compressed(path, **arrays)


def read_reference(path: Path, image_shape: tuple[int, int, int]) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        ValueError: arrays of another dtype or shape; also numpy's own errors for a damaged file.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        reference = Reference(**{name: arrays[name] for name in arrays.files})
    for clean, noisy in (
        (reference.train, reference.train_noisy),
        (reference.validation, reference.validation_noisy),
    ):
        for images in (clean, clean if noisy is None else noisy):
            if images.dtype != np.uint8 or images.shape != (len(clean), *image_shape):
                raise ValueError(f"{images.dtype} {images.shape}, where images are {image_shape}")
    return reference
