"""Image quality, by TensorFlow's own implementations, one value per image.

All three compare float32 (N, H, W, C) in [0, 1] with the clean images of the same shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from common.arrays import Floats

DEFINITIONS = {
    "mse": "mean squared error over all values of an image in [0, 1]; mean over images",
    "psnr": "10 log10(1 / mse) of each image in dB (tf.image.psnr); mean over images",
    "ssim": "structural similarity of each image (tf.image.ssim, Gaussian window of 11 pixels "
    "or the shorter side if that is less, sigma 1.5, k1 0.01, k2 0.03); mean over images",
}
WINDOW = 11
CHUNK = 1024  # images measured at a time
CHUNK_VALUES = 2**23  # values of theirs, at most


@dataclass(frozen=True)
class Quality:
    """One value per image, float32 (N,)."""

    mse: Floats
    psnr: Floats
    ssim: Floats

    def means(self) -> dict[str, float | None]:
        """The means, as JSON: None where it is not finite (the PSNR of identical images)."""
        means = {name: float(np.mean(getattr(self, name))) for name in DEFINITIONS}
        return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}

    def take(self, indices: NDArray[np.int64]) -> Quality:
        """The values of the images at `indices`."""
        return Quality(*(getattr(self, name)[indices] for name in DEFINITIONS))


def quality(*, clean: Floats, output: Floats) -> Quality:
    """The quality of `output`, both float32 (N, H, W, C) in [0, 1]; in chunks."""
    step = chunk_size(clean.shape)
    starts = range(0, len(clean), step)
    return joined([_chunk(clean[k : k + step], output[k : k + step]) for k in starts])


def chunk_size(shape: tuple[int, ...]) -> int:
    """How many images of a shape (N, H, W, C) are measured at a time."""
    return max(1, min(CHUNK, CHUNK_VALUES // math.prod(shape[1:])))


def joined(parts: list[Quality]) -> Quality:
    """The values of several batches of images as one."""
    return Quality(*(np.concatenate([getattr(p, name) for p in parts]) for name in DEFINITIONS))


def _chunk(clean: Floats, output: Floats) -> Quality:
    window = min(WINDOW, *clean.shape[1:3])
    return Quality(
        mse=tf.reduce_mean(tf.math.squared_difference(clean, output), axis=(1, 2, 3)).numpy(),
        psnr=tf.image.psnr(clean, output, max_val=1.0).numpy(),
        ssim=tf.image.ssim(clean, output, max_val=1.0, filter_size=window).numpy(),
    )
