"""Images that are nearly those of a data set: what a score learns to tell from the real ones.

A bottleneck network makes a digit of anything, so its latents alone say little of what came in.
Each contrast is made of real images and keeps their ink, grain and scale, but not their shape:
mirrored on some axis, bent out of form, or put together from two. Nothing here knows what the
outliers of a later day will be; `benchmarks/outliers.py` judges by other kinds.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from common.arrays import Array

CUT_OFFSET = 1 / 7  # of the side: how far from the middle two halves may meet
BEND = 1 / 7  # of the side: deviation of the displacement, 4 of MNIST's pixels
BEND_REACH = 1 / 7  # of the side: over which displacements are alike


def contrasts(images: Array, rng: np.random.Generator) -> Array:
    """As many contrasts as there are images: half of them mirrored, a quarter each bent and cut.

    Args:
        images: uint8 (N, H, W, C) in 0..255; left as they are.

    Returns:
        uint8 (N, H, W, C); the one at k is made from the image at k, and may hold half of another.
    """
    half, quarter = len(images) // 2, len(images) // 4
    others = images[rng.permutation(len(images))]
    return np.concatenate(
        [
            mirrored(images[:half], rng),
            bent(images[half : half + quarter], rng),
            halved(images[half + quarter :], others[half + quarter :], rng),
        ]
    )


def mirrored(images: Array, rng: np.random.Generator) -> Array:
    """Each image mirrored on a line through its middle, at any angle.

    Mirroring is never a rotation: no angle gives an upright or a turned digit back, unless the
    digit is its own mirror image.
    """
    y, x = _centred(images)
    double = 2 * rng.uniform(0, np.pi, (len(images), 1, 1))
    cos, sin = np.cos(double), np.sin(double)
    return _sampled(images, rows=sin * x - cos * y, columns=cos * x + sin * y)


def bent(images: Array, rng: np.random.Generator) -> Array:
    """Each image pushed about by a smooth random field, far enough to lose its shape."""
    y, x = _centred(images)
    side = min(images.shape[1:3])
    fields = rng.standard_normal((2, *images.shape[:3]), dtype=np.float32)
    reach = BEND_REACH * side
    fields = gaussian_filter(fields, (0, 0, reach, reach))
    fields *= BEND * side / np.maximum(fields.std(axis=(2, 3), keepdims=True), 1e-6)
    return _sampled(images, rows=y + fields[0], columns=x + fields[1])


def halved(images: Array, others: Array, rng: np.random.Generator) -> Array:
    """Each image on one side of a random line, another one on the other side."""
    y, x = _centred(images)
    angle = rng.uniform(0, 2 * np.pi, (len(images), 1, 1))
    reach = CUT_OFFSET * min(images.shape[1:3])
    offset = rng.uniform(-reach, reach, (len(images), 1, 1))
    first = np.cos(angle) * x + np.sin(angle) * y > offset
    return np.where(first[..., None], images, others)


def _centred(images: Array) -> tuple[Array, Array]:
    """Row and column numbers from the images' middle, float64 (H, 1) and (1, W)."""
    height, width = images.shape[1:3]
    return (
        np.arange(height)[:, None] - (height - 1) / 2,
        np.arange(width)[None] - (width - 1) / 2,
    )


def _sampled(images: Array, *, rows: Array, columns: Array) -> Array:
    """Images read at places (N, H, W) from their middle, between pixels and beyond the edge."""
    height, width = images.shape[1:3]
    made = np.empty_like(images)
    for image, row, column, target in zip(images, rows, columns, made, strict=True):
        places = [row + (height - 1) / 2, column + (width - 1) / 2]
        for channel in range(images.shape[3]):
            plane = image[..., channel].astype(np.float32)
            found = map_coordinates(plane, places, order=1, mode="mirror")
            target[..., channel] = np.rint(found)
    return made
