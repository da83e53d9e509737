"""The embedded dataset: scikit-learn's 1,797 real 8×8 digits, placed as MNIST places its own.

MNIST's recipe: the ink is scaled to fit a 20×20 box with its aspect kept, then set into 28×28
so that its centre of mass is in the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOX = 20  # the ink's longer side, in pixels
SIDE = 28


def load_digits_28() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits, uint8 (1797, 28, 28, 1) in 0..255, and their labels, int64 (1797,) in 0..9."""
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    digits = load_digits()
    images = np.stack([place(image) for image in digits.images])  # (1797, 28, 28)
    return images[..., None], digits.target.astype(np.int64)


def place(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One digit, float (8, 8) in 0..16, as MNIST would show it: uint8 (28, 28) in 0..255."""
    ink = np.rint(image * (255 / 16)).astype(np.uint8)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    scaled = np.asarray(
        Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8
    )
    top, left = (_offset(scaled.sum(axis=axis)) for axis in (1, 0))
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[top : top + height, left : left + width] = scaled
    return canvas


def _offset(mass: NDArray[np.uint64]) -> int:
    """Where a profile of ink must start for its centre of mass to be in the middle."""
    centre = float(np.average(np.arange(len(mass)) + 0.5, weights=mass))
    return int(np.clip(round(SIDE / 2 - centre), 0, SIDE - len(mass)))
